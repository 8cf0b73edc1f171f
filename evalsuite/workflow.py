"""Where the two halves meet: measure a suite, judge what is stored, publish it.

Only this module and `cli` import both halves. The Python interface of the package (`run`, `load_run`, `Run`) is here.
Verdicts are never stored: they are computed from the samples and the plan whenever they are asked for, so the same run
gives the same decision as often as one likes.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalsuite.errors import CannotRunError, NotComparableError, RefusedError, UsageError
from evalsuite.records import (
    Bench,
    BenchJudgement,
    BenchSpec,
    Judgement,
    Manifest,
    Measurement,
    Mode,
    RunSpec,
    SuiteDecision,
    SuitePlan,
)
from evalsuite.store import Store, StoredRun, read_benches, read_foreign, read_manifest, save_bench, save_trace

if TYPE_CHECKING:
    import pandas as pd

    from evalsuite.measure.bench import Reporter as BenchReporter
    from evalsuite.runner import Reporter


@dataclass(frozen=True)
class Run:
    """A stored run, for programs."""

    stored: StoredRun

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.stored.path

    @property
    def manifest(self) -> Manifest:
        """What was asked, planned and done."""
        return self.stored.manifest

    def samples(self) -> "pd.DataFrame":
        """One row an item; columns as `records.SAMPLE_COLUMNS`."""
        return self.stored.samples()

    def judgement(self) -> Judgement:
        """Everything concluded from the run."""
        return judge(self.stored, Store(self.path.parent).runs())

    def decisions(self) -> tuple[SuiteDecision, ...]:
        """One decision a candidate and mode."""
        return self.judgement().decisions

    def measurements(self) -> list[Measurement]:
        """What the benches of this suite and model in the same store measured; empty where no bench was run."""
        spec = self.manifest.spec
        asked = spec.name, spec.model.weights_sha256
        benches = read_benches(self.path.parent)
        return [row for bench in benches if (bench.spec.suite, bench.spec.model.weights_sha256) == asked
                for row in bench.measurements]  # fmt: skip


def load_run(path: str | Path) -> Run:
    """Open a run folder; CannotRunError or SchemaError if it is none that this version reads."""
    folder = Path(path)
    if not (folder / "manifest.json").is_file():
        raise CannotRunError(f"{folder}: no manifest.json here; a run is a folder inside the results folder.")
    return Run(StoredRun(folder, read_manifest(folder / "manifest.json")))


class Silent:
    """A `runner.Reporter` that says nothing."""

    def start(self, total: dict[str, int], done: dict[str, int]) -> None:
        """Nothing."""

    def cell(self, cell: Any, n_items: int) -> None:
        """Nothing."""

    def advance(self, cell: Any, n_items: int) -> None:
        """Nothing."""

    def spare(self, cell: Any, n_items: int) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Options:
    """How to run, as opposed to what."""

    results: Path = Path("results")
    max_time_s: float | None = None
    interrupted: Callable[[], bool] = lambda: False
    reporter: "Reporter | None" = None
    command: str | None = None


def run(
    spec: RunSpec, options: Options | None = None, *, resume: StoredRun | None = None, more: int = 0
) -> Run:
    """Measure one `RunSpec` (see `spec.resolve`) into the store, or continue a stored run; returns the run.

    `more`: further items a mode for a stored sequential run that is INCONCLUSIVE. RefusedError for any other.
    """
    _need("lm_eval", "datasets")
    from evalsuite import runner

    if more:
        _check_extendable(resume)
    options = options or Options()
    deadline = None if options.max_time_s is None else time.monotonic() + options.max_time_s

    def stop() -> bool:
        return options.interrupted() or (deadline is not None and time.monotonic() >= deadline)

    job = runner.Job(Store(options.results), options.reporter or Silent(), stop, _decided, options.command)
    return Run(runner.run(spec, job, resume, more))


def _need(*packages: str) -> None:
    """CannotRunError where a package is missing that measuring needs, as in an environment that was made for vLLM."""
    for name in packages:
        if find_spec(name) is None:
            raise CannotRunError(f"Python package '{name}' is not installed in this environment; measuring needs it. "
                                 "In an environment of vLLM: `pip install 'lm-eval[math]' datasets`; else install "
                                 "'evalsuite[run]'.")  # fmt: skip


def _decided(stored: StoredRun, mode: Mode) -> frozenset[str]:
    """The candidates of a sequential run that are SAFE or UNSAFE in a mode: they need no more items."""
    judged = judge(stored, [])
    return frozenset(
        decision.pooled.subject.candidate
        for decision in judged.decisions
        if decision.pooled.subject.mode == mode and decision.verdict in ("SAFE", "UNSAFE")
    )


def _check_extendable(stored: StoredRun | None) -> None:
    if stored is None:
        raise UsageError("--more continues a stored run: name it with --resume RUN.")
    own = stored.manifest
    if own.spec.decision.design != "sequential":
        raise RefusedError(
            f"{own.run_id} follows a fixed plan, which is decided once: items added after a look would spend its error "
            "rate. Run the suite with --design sequential, or a fresh fixed plan on new items."
        )
    if all(decision.verdict in ("SAFE", "UNSAFE") for decision in judge(stored, []).decisions):
        raise RefusedError(f"{own.run_id} is decided in every mode; more items would change nothing.")


def plan(spec: RunSpec, results: Path, price_per_hour: float | None = None) -> SuitePlan:
    """What a suite can decide and what it costs, before any compute; pace and psi are those of earlier runs."""
    from evalsuite import machine
    from evalsuite.harness import draw_sequences, load_sources
    from evalsuite.judge.plan import plan_mode, psi_seen

    sources, runs = load_sources(spec), Store(results).runs()
    judged = [(run.manifest, judge(run, [])) for run in runs if run.manifest.spec.model.id == spec.model.id]
    sequences = draw_sequences(spec, sources)
    pace = _pace([manifest for manifest, _ in judged], machine.facts())
    modes = []
    for mode in spec.modes:
        own = [source for source in sources if mode in source.spec.modes]
        items = {source.spec.task: len(source.order[: spec.limit]) for source in own}
        if mode in sequences:
            items = {s.spec.task: sequences[mode].order.count(i) for i, s in enumerate(own)}
        made = plan_mode(spec, mode, items, psi_seen(judged, spec, mode))
        paces = [(n, pace.get((arm.recipe.id, task, mode))) for arm in spec.arms for task, n in items.items()]
        seconds = [n * each for n, each in paces if each is not None]
        whole = sum(seconds) if len(seconds) == len(paces) else None
        modes.append(made.model_copy(update={"seconds": whole}))
    known = [mode.seconds for mode in modes if mode.seconds is not None]
    total = sum(known) if len(known) == len(modes) else None
    cost = total / 3600 * price_per_hour if total is not None and price_per_hour is not None else None
    return SuitePlan(
        suite=spec.name, model=spec.model.id, arms=tuple(arm.id for arm in spec.arms), modes=tuple(modes),
        seconds=total, cost=cost,
    )  # fmt: skip


def _pace(manifests: Sequence[Manifest], here: dict[str, Any]) -> dict[tuple[str, str, Mode], float]:
    """(recipe, task, mode) -> seconds an item, from the newest run on a machine like this one."""
    pace = {}
    for manifest in manifests:
        if manifest.machine != here:
            continue
        for record in manifest.cells.values():
            if record.n_done and record.seconds:
                recipe = manifest.spec.arm(record.cell.arm).recipe.id
                pace[recipe, record.cell.task, record.cell.mode] = record.seconds / record.n_done
    return pace


def judge(stored: StoredRun, runs: Sequence[StoredRun]) -> Judgement:
    """Judge one run, each decision numbered among the attempts at the same question in its store (`runs`)."""
    from evalsuite.judge import judge_run
    from evalsuite.judge.layout import COLUMNS

    own = stored.manifest
    earlier = [run.manifest for run in runs if run.manifest.created < own.created]
    asked = [question(manifest, arm.id) for manifest in earlier for arm in manifest.spec.candidates]
    attempts = {arm.id: 1 + asked.count(question(own, arm.id)) for arm in own.spec.candidates}
    return judge_run(own, stored.samples(list(COLUMNS)), attempts, stored.divergence())


def question(manifest: Manifest, candidate: str) -> str:
    """What two runs must share to be attempts at the same question: models, recipes, items and plans."""
    spec = manifest.spec
    arms = [spec.arm(arm).model_dump(mode="json", exclude={"id"}) for arm in (spec.baseline, candidate)]
    # A sequential run that was given more items still asks the question that it began with.
    grows = {"n_planned", "items_sha256"} if manifest.sequences else set()
    plans = {name: plan.model_dump(mode="json", exclude=grows) for name, plan in manifest.plans.items()}
    tasks = [task.model_dump(mode="json") for task in spec.tasks]
    return hashlib.sha256(json.dumps([arms, plans, tasks], sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class BenchOptions:
    """How to bench, as opposed to what."""

    results: Path = Path("results")
    meters: tuple[str, ...] | None = None
    """Names of meters; None takes those that answer."""
    interrupted: Callable[[], bool] = lambda: False
    max_time_s: float | None = None
    reporter: "BenchReporter | None" = None
    command: str | None = None


class Quiet:
    """A `measure.bench.Reporter` that says nothing."""

    def start(self, windows: int, seconds: float) -> None:
        """Nothing."""

    def window(self, name: str, window: Any) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""


def bench(spec: BenchSpec, options: BenchOptions | None = None) -> Bench:
    """Measure speed, memory and energy of a suite's arms into the store; returns the finished document."""
    from evalsuite.measure import bench as measuring

    options = options or BenchOptions()
    Store(options.results).check_writable()
    deadline = None if options.max_time_s is None else time.monotonic() + options.max_time_s
    run_id, lengths = _lengths(spec, options.results)
    spec = spec.model_copy(update={"replay_run": run_id})
    return measuring.run(spec, measuring.Job(
        save=lambda made: save_bench(options.results, made),
        save_trace=lambda made, rows: save_trace(options.results / made.bench_id, rows),
        reporter=options.reporter or Quiet(), meters=options.meters, lengths=lengths, command=options.command,
        stop=lambda: options.interrupted() or (deadline is not None and time.monotonic() >= deadline),
    ))  # fmt: skip


def judge_bench(made: Bench, results: Path) -> BenchJudgement:
    """Everything concluded from a bench, joined with the answers of the newest run of its suite and model."""
    from evalsuite.judge import judge_bench as judged
    from evalsuite.judge.bench import ANSWER_COLUMNS, Answered

    for stored in reversed(Store(results).runs()):
        spec = stored.manifest.spec
        if (spec.name, spec.model.weights_sha256) != (made.spec.suite, made.spec.model.weights_sha256):
            continue
        try:
            return judged(made, Answered(stored.manifest, stored.samples(list(ANSWER_COLUMNS))))
        except NotComparableError:
            continue  # an arm of that name was another recipe then
    return judged(made)


def _lengths(spec: BenchSpec, results: Path) -> tuple[str | None, tuple[tuple[int, int], ...]]:
    """The run that `replay` repeats, the newest of the suite and model, and its baseline's prompt and answer tokens."""
    if "replay" not in spec.presets:
        return None, ()
    runs = [run for run in Store(results).runs() if run.manifest.spec.model.id == spec.model.id
            and run.manifest.spec.name == spec.suite and (spec.replay_run or "") in run.manifest.run_id]  # fmt: skip
    if not runs:
        which = f"run '{spec.replay_run}'" if spec.replay_run else f"run of suite '{spec.suite}'"
        raise CannotRunError(
            f"{results}: preset `replay` repeats the lengths of a {which} of model '{spec.model.id}', and there is "
            f"none. Do `evalsuite run {spec.suite}` first."
        )
    stored = runs[-1]
    samples = stored.samples(["arm", "mode", "n_prompt_tokens", "n_output_tokens"])
    own = samples[(samples["arm"] == stored.manifest.spec.baseline) & (samples["n_output_tokens"] > 0)]
    thinking = own[own["mode"] == "thinking"]
    chosen = thinking if len(thinking) else own
    pairs = zip(chosen["n_prompt_tokens"].tolist(), chosen["n_output_tokens"].tolist(), strict=True)
    return stored.manifest.run_id, tuple((int(a), int(b)) for a, b in pairs)


def publish(results: Path, out: Path | None = None) -> Path:
    """Judge every run and bench of a store and build the site; returns its start page."""
    from evalsuite.publish import JudgedBench, JudgedRun, Speeds, build_site

    runs = Store(results).runs()
    judged = [JudgedRun(manifest=run.manifest, judgement=judge(run, runs)) for run in runs]
    arms = {run.manifest.run_id: run.manifest.spec.arms for run in runs}
    concluded = [(made, judge_bench(made, results)) for made in read_benches(results)]
    benches = [JudgedBench(made, found, arms.get(found.run_id or "", ())) for made, found in concluded]
    site = out or results / "site"
    build_site(judged, site, Speeds(benches=benches, imported=read_foreign(results)))
    return site / "index.html"
