"""The measuring half from top to bottom: a `RunSpec` in, a stored run out.

`run` reads as the program: load the tasks, build all prompts once, write the plan before the first item (`plan`), then
leg by leg (`legs`: what one arm does at a stretch), cell by cell, group by group into the journal (`cells`), and last
the `divergence` of the arms along the baseline's answers. A failed cell is recorded and the rest goes on. Nothing here
knows of verdicts; whoever calls hands in `stop()`, which ends the run between two groups, and `decided()`, which names
the candidates of a sequential run that need no more items.
"""

from collections import defaultdict
from collections.abc import Sequence

from evalsuite.engines import ENGINES, Engine
from evalsuite.errors import CannotRunError
from evalsuite.harness import Workload, draw_sequences, load_sources, prepare, refuse_judged_texts
from evalsuite.records import RunSpec
from evalsuite.runner import cells, divergence, legs, plan
from evalsuite.runner.job import Job, Reporter
from evalsuite.store import RunWriter, StoredRun

__all__ = ["Job", "Reporter", "run"]


def run(spec: RunSpec, job: Job, resume: StoredRun | None = None, more: int = 0) -> StoredRun:
    """Measure a suite, or continue a stored run of it; a sequential one with `more` further items a mode.

    Errors: see `errors`; a failed cell raises nothing.
    """
    job.store.check_writable()
    engine = ENGINES[spec.engine](spec.model, spec.engine_options)
    scores = any(task.max_gen_toks is None for task in spec.tasks)
    refusal = next((why for arm in spec.arms if (why := engine.cannot_run(arm, scores=scores))), None)
    if refusal:
        raise CannotRunError(f"Engine '{spec.engine}' cannot run this: {refusal}.")
    resolved = {arm.id: engine.resolve(arm) for arm in spec.arms}
    spec = spec.model_copy(update={"model": engine.model, "arms": tuple(arm for arm, _ in resolved.values())})
    found = {name: findings for name, (_, findings) in resolved.items()}
    job.reporter.note("building prompts")
    sources = load_sources(spec)
    before = resume.manifest.sequences if resume else {}
    sequences = draw_sequences(spec, sources, before)
    work = prepare(spec, engine, sources, sequences)
    manifest = plan.manifest(spec, work, sequences, found, job.command)
    longer = draw_sequences(spec, sources, before, more)  # refuses before anything is touched, as do the next lines
    if more:
        work = prepare(spec, engine, sources, longer)
    refuse_judged_texts(spec, work)
    writer = job.store.create(manifest) if resume is None else plan.reopen(job.store, resume, manifest)
    try:
        if more:
            plan.extend(writer, plan.manifest(spec, work, longer, found, job.command))
        return _measure(writer, engine, work, job)
    finally:
        writer.close()


def _measure(writer: RunWriter, engine: Engine, work: Sequence[Workload], job: Job) -> StoredRun:
    total: dict[str, int] = defaultdict(int)
    done: dict[str, int] = defaultdict(int)
    for record in writer.manifest.cells.values():
        total[record.cell.mode] += record.n_planned
        done[record.cell.mode] += cells.answered(writer, record)
    job.reporter.start(total, done)
    for leg in legs.of(writer, work, job):
        pieces = [piece for piece in leg.pieces if not cells.is_done(writer, leg.arm, piece)]
        if not pieces or job.stop():
            continue
        job.reporter.note(f"{leg.arm.id}: {leg.arm.recipe.label}")
        try:
            with engine.open(leg.arm) as session:
                for piece in pieces:
                    if not job.stop():
                        cells.measure(writer, session, (leg.arm, piece), job)
        except CannotRunError as error:
            for piece in pieces:
                cells.fail(writer, leg.arm, piece, str(error))
    divergence.measure(writer, engine, work, job)
    states = {record.status for record in writer.manifest.cells.values()}
    whole = "interrupted" if job.stop() and states - {"done"} else "done" if states == {"done"} else "partial"
    writer.update(status=whole)
    return StoredRun(writer.path, writer.manifest)
