"""After the answers: every arm reads the baseline's, and its next-token distributions are held against the baseline's.

One pass a mode, over a budget of tokens (`spec.divergence`). It needs the baseline's finished cells; an arm that has
its divergence stored already is not read again. What goes wrong here is noted and costs no cell its samples.
"""

from collections.abc import Sequence

from evalsuite.engines import Engine, Trace, TraceRequest
from evalsuite.errors import EvalsuiteError
from evalsuite.harness import Workload
from evalsuite.measure import trajectories
from evalsuite.records import Arm, Cell, CellRecord, Mode
from evalsuite.runner.job import Job
from evalsuite.store import Row, RunWriter

Chosen = list[tuple[Workload, int, TraceRequest]]


def measure(writer: RunWriter, engine: Engine, work: Sequence[Workload], job: Job) -> None:
    """Measure what is missing; the run goes on whatever happens."""
    spec = writer.manifest.spec
    if not spec.divergence.tokens:
        return
    for mode in spec.modes:
        own = [w for w in work if w.mode == mode]
        arms = [arm for arm in spec.arms if arm.id != spec.baseline and _is_due(writer, arm, own)]
        if not arms or job.stop() or not all(_done(writer, spec.arm(spec.baseline), w) for w in own):
            continue
        answers = {w.spec.task: _answers(writer, spec.baseline, w) for w in own}
        chosen = trajectories.choose(own, answers, spec.divergence.tokens)
        if chosen:
            job.reporter.note(f"divergence, {mode} mode: {len(chosen)} answers of {spec.baseline}, read by every arm")
            try:
                _mode(writer, engine, (arms, chosen), job)
            except (EvalsuiteError, RuntimeError, ValueError, MemoryError) as error:
                job.reporter.note(f"divergence in {mode} mode not measured: {str(error).splitlines()[0]}")


def _mode(writer: RunWriter, engine: Engine, what: tuple[list[Arm], Chosen], job: Job) -> None:
    arms, chosen = what
    spec = writer.manifest.spec
    requests = [request for _, _, request in chosen]
    with engine.open(spec.arm(spec.baseline)) as session:
        base = trajectories.trace(session, requests, spec.divergence.top_k)
    for arm in arms:
        if job.stop():
            return
        with engine.open(arm) as session:
            found = trajectories.trace(session, requests, spec.divergence.top_k, base)
        _store(writer, arm, chosen, (base, found))


def _store(writer: RunWriter, arm: Arm, chosen: Chosen, traces: tuple[list[Trace], list[Trace]]) -> None:
    rows: dict[tuple[str, Mode], list[Row]] = {}
    for (workload, position, request), base, own in zip(chosen, *traces, strict=True):
        made = trajectories.rows_of((workload, position), request, trajectories.compare(base, own))
        rows.setdefault((workload.spec.task, workload.mode), []).extend(made)
    for (task, mode), own_rows in rows.items():
        writer.write_divergence(Cell(arm=arm.id, task=task, mode=mode).key, own_rows)


def _record(writer: RunWriter, arm: Arm, workload: Workload) -> CellRecord:
    return writer.manifest.cells[Cell(arm=arm.id, task=workload.spec.task, mode=workload.mode).key]


def _done(writer: RunWriter, arm: Arm, workload: Workload) -> bool:
    return _record(writer, arm, workload).status == "done"


def _is_due(writer: RunWriter, arm: Arm, work: Sequence[Workload]) -> bool:
    records = [_record(writer, arm, w) for w in work]
    return all(r.status == "done" for r in records) and not any(r.divergence_sha256 for r in records)


def _answers(writer: RunWriter, baseline: str, workload: Workload) -> dict[int, Row]:
    cell = Cell(arm=baseline, task=workload.spec.task, mode=workload.mode)
    return {int(row["position"]): row for row in writer.read(cell.key, ["position", "output_token_ids"])}
