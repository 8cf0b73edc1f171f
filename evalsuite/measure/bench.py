"""A bench, from its spec to its document: arms are loaded, every point is run by the A/B protocol, all of it is kept.

The document is saved after every window, so an interruption costs the window in flight. An arm that cannot be measured
(emulated, refused, too large a batch) has a row that says why, at every point: nothing is left out silently.
"""

import math
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from evalsuite import machine
from evalsuite.errors import CannotRunError
from evalsuite.measure import presets, roofline
from evalsuite.measure.loads import DoesNotFitError, Load, Opened
from evalsuite.measure.meters import Setting, open_all
from evalsuite.measure.rigs import RIGS, Asked, Lengths, Rigged
from evalsuite.measure.rounds import Beside, Rounds, Schedule
from evalsuite.measure.sampler import Sampler
from evalsuite.records import Arm, Bench, BenchSpec, Measurement, Peaks, Roofline, Window, Workload

REPLAYED = 128
"""Items that `replay` draws from a run."""
IDLE_S = 30.0
"""How long meters are read with weights loaded and nothing to do; not at all without a meter."""


class Reporter(Protocol):
    """Who is told how far a bench is."""

    def start(self, windows: int, seconds: float) -> None:
        """How many windows there will be, and about how long they take."""

    def window(self, name: str, window: Window) -> None:
        """A window has ended."""

    def note(self, text: str) -> None:
        """Something to know."""


@dataclass
class Job:
    """What a bench needs besides its spec."""

    save: Callable[[Bench], object]
    save_trace: Callable[[Bench, list[dict[str, Any]]], object]
    reporter: Reporter
    meters: tuple[str, ...] | None = None
    """Names of meters; None takes those that answer."""
    stop: Callable[[], bool] = lambda: False
    lengths: Lengths = ()
    """Prompt and answer tokens of a run's items, for `replay`."""
    command: str | None = None


@dataclass
class _Work:
    """A job with its rig."""

    job: Job
    rigged: Rigged
    runner: presets.Runner
    sampler: Sampler
    peaks: tuple[Peaks, ...]


@dataclass
class _Loaded:
    arm: Arm
    opened: Opened | None
    refused: str | None = None
    loads: dict[Workload, Load] = field(default_factory=dict)

    @property
    def runs(self) -> bool:
        return self.opened is not None and self.opened.speed_valid


def run(spec: BenchSpec, job: Job) -> Bench:
    """Load the arms, run every point, keep everything; returns the finished document (done, partial, interrupted)."""
    from evalsuite.measure import environment

    meters, absents = open_all(job.meters, Setting(_devices(), spec.meters))
    kind = RIGS[spec.engine]
    lengths = sampled(job.lengths, REPLAYED, spec.seed)
    rigged = kind.make(Asked(spec.model, dict(spec.engine_options), lengths, spec.devices))
    try:
        facts = machine.facts()
        peaks = tuple(roofline.PEAKS[name] for name in (facts.get("accelerator_name"),) if name in roofline.PEAKS)
        if rigged.weights_bytes is not None:
            from evalsuite.measure.peaks import measure

            peaks = (*peaks, measure(rigged.weights_bytes))
        now = datetime.now(UTC)
        spec = spec.model_copy(update={"model": rigged.model})
        bench = Bench(
            bench_id=f"{now:%Y%m%dT%H%M%S}{now.microsecond // 1000:03}-bench-{spec.suite}-{spec.digest()[:6]}",
            created=now.isoformat(timespec="seconds"), status="running", spec=spec, machine=facts,
            software=machine.software(), environment=environment.facts(), peaks=peaks, command=job.command,
            meters=tuple(meter.info for meter in meters), absent=tuple(absents),
        )  # fmt: skip
        job.save(bench)
        with Sampler(meters) as sampler:
            done = _run(bench, _Work(job, rigged, kind.runner, sampler, peaks), replay_point(lengths))
            job.save_trace(done, sampler.rows())
        return done
    finally:
        rigged.rig.close()


def _devices() -> tuple[str, ...] | None:
    """UUIDs of the accelerators that compute here, which the meters must meter; None where they have none."""
    import torch

    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is None or accelerator.type != "cuda":
        return None
    from evalsuite.precision.devices.cuda import uuids

    return uuids()


def _run(bench: Bench, work: _Work, replay: Workload | None) -> Bench:
    spec, began, job = bench.spec, time.perf_counter(), work.job
    arms = [_opened(work, arm) for arm in spec.arms]
    if all(loaded.opened is None for loaded in arms):
        raise CannotRunError(f"No arm can be measured. {arms[0].refused}")
    if facts := getattr(work.rigged.rig, "facts", None):
        bench = bench.model_copy(update={"environment": {**bench.environment, "arms": facts}})
    points = _points(spec, work.runner, replay)
    running = sum(loaded.runs for loaded in arms)
    if running:
        running += any(loaded.runs for loaded in arms if loaded.arm.id == spec.baseline)
        bench = bench.model_copy(update={"idle_w": work.sampler.idle(IDLE_S)})
    each = spec.window_s + spec.warm_s + spec.cooldown_s
    job.reporter.start(len(points) * running * spec.rounds, len(points) * running * spec.rounds * each)
    schedule = Schedule(spec.rounds, spec.window_s, spec.warm_s, spec.cooldown_s)
    rounds, done = Rounds(schedule, Beside(work.sampler, spec.energy_model), began, job.stop), list(bench.measurements)
    for point in _Queue(points, arms, work, done):
        rows = {row.arm: row for row in _rows(point, arms, spec)}
        loads = _loads(point, arms, spec)
        for window in rounds.run(loads, work.rigged.cores) if loads else ():
            row = rows[window.arm]
            rows[window.arm] = row.model_copy(update={"windows": (*row.windows, window)})
            job.reporter.window(f"{point.key} {window.arm}", window)
            job.save(bench.model_copy(update={"measurements": (*done, *rows.values())}))
        done += [_completed(row, arms, work, spec) for row in rows.values()]
        for loaded in arms:
            if point in loaded.loads:
                loaded.loads.pop(point).close()
        if job.stop():
            break
    status = "interrupted" if job.stop() else "done" if any(row.windows for row in done) else "partial"
    finished = bench.model_copy(update={"measurements": tuple(done), "status": status})
    job.save(finished)
    return finished


def _opened(work: _Work, arm: Arm) -> _Loaded:
    job = work.job
    job.reporter.note(f"loading {arm.id}")
    try:
        opened = work.rigged.rig.open(arm)
        return _Loaded(opened.arm or arm, opened)
    except CannotRunError as error:
        job.reporter.note(f"{arm.id}: {error}")
        return _Loaded(arm, None, str(error))


def _points(spec: BenchSpec, runner: presets.Runner, replay: Workload | None) -> list[Workload]:
    found: list[Workload] = []
    for name in spec.presets:
        if name == presets.REPLAY:
            found += [replay] if replay is not None else []
        else:
            found += presets.points(name, runner)
    points = dict.fromkeys(found)
    return [point.model_copy(update={"devices": count}) for point in points for count in spec.devices]


class _Queue:
    """Points whose loads are ready. One that does not fit leaves rows that say so, and the next smaller batch comes in
    its place."""

    def __init__(self, points: list[Workload], arms: list[_Loaded], work: _Work, done: list[Measurement]) -> None:
        self._points, self._arms, self._work, self._done = points, arms, work, done
        self._all = set(points)

    def __iter__(self) -> "_Queue":
        return self

    def __next__(self) -> Workload:
        while self._points:
            point = self._points.pop(0)
            context = self._work.rigged.max_length
            if context is not None and point.input_tokens + point.output_tokens > context:
                self._drop(point, "beyond_context", f"{point.input_tokens} + {point.output_tokens} > {context} tokens")
                continue
            if point.batch < point.devices:
                self._drop(point, "too_few_rows", f"{point.batch} rows, {point.devices} devices")
                continue
            try:
                for loaded in self._arms:
                    if loaded.runs:
                        loaded.loads[point] = self._work.rigged.rig.load(loaded.arm, point)
                        loaded.loads[point].warm(0.0)
            except CannotRunError as error:
                self._drop(point, "cannot_run", str(error))
                continue
            except DoesNotFitError as error:
                self._drop(point, "does_not_fit", str(error))
                smaller = point.model_copy(update={"batch": point.batch // 2})
                if smaller.batch and smaller not in self._all:
                    self._all.add(smaller)
                    self._points.insert(0, smaller)
                continue
            return point
        raise StopIteration

    def _drop(self, point: Workload, code: str, detail: str) -> None:
        for loaded in self._arms:
            if (load := loaded.loads.pop(point, None)) is not None:
                load.close()
            row = _row(point, loaded, loaded.arm.id)
            self._done.append(row.model_copy(update={"reasons": (*row.reasons, code), "detail": detail}))
        self._work.job.reporter.note(f"{point.key}: {code} ({detail})")


def _loads(point: Workload, arms: list[_Loaded], spec: BenchSpec) -> dict[str, Load]:
    """Arm id -> load, the null arm on the baseline's own; empty where the baseline does not run."""
    loads = {loaded.arm.id: loaded.loads[point] for loaded in arms if loaded.runs}
    if spec.baseline in loads:
        return {spec.baseline: loads[spec.baseline], spec.null_arm: loads[spec.baseline], **loads}
    return loads


def _rows(point: Workload, arms: list[_Loaded], spec: BenchSpec) -> list[Measurement]:
    rows = []
    for loaded in arms:
        rows.append(_row(point, loaded, loaded.arm.id))
        if loaded.arm.id == spec.baseline:
            rows.append(_row(point, loaded, spec.null_arm))
    return rows


def _row(point: Workload, loaded: _Loaded, name: str) -> Measurement:
    opened = loaded.opened
    if opened is None:
        return Measurement(row_id=f"{point.key}.{name}", arm=name, workload=point, execution=None, realised=None,
                           speed_valid=False, reasons=("cannot_run",), detail=loaded.refused)  # fmt: skip
    return Measurement(
        row_id=f"{point.key}.{name}", arm=name, workload=point, execution=opened.execution, realised=opened.realised,
        speed_valid=opened.speed_valid, memory=opened.memory, startup_s=opened.startup_s or None,
        reasons=opened.reasons,
    )  # fmt: skip


def _completed(row: Measurement, arms: list[_Loaded], work: _Work, spec: BenchSpec) -> Measurement:
    """The row with its limits and its peak of memory."""
    by_id = {loaded.arm.id: loaded.arm for loaded in arms}
    base = by_id[spec.baseline]
    arm = by_id.get(row.arm, base)  # the null arm is the baseline
    memory = row.memory
    peaks = [w.peak_bytes for w in row.kept if w.peak_bytes is not None]
    if memory is not None and peaks and memory.resident_bytes is not None:
        memory = memory.model_copy(update={"peak_bytes": memory.resident_bytes + max(peaks)})
    shares = [w.communication for w in row.kept if w.communication is not None]
    return row.model_copy(update={
        "memory": memory, "rooflines": _limits(row, arm, base, work),
        "communication": statistics.median(shares) if shares else None,
    })  # fmt: skip


def _limits(row: Measurement, arm: Arm, base: Arm, work: _Work) -> tuple[Roofline, ...]:
    config = work.rigged.config
    if config is None or row.workload.phase == "whole" or row.workload.devices > 1 or not roofline.is_dense(config):
        return ()
    with suppress(AttributeError):
        shape, found = roofline.shape_of(config), []
        step = roofline.step(shape, arm.recipe, row.workload)
        for peaks in work.peaks:
            source = "measured" if peaks.source.startswith("measured") else "table"
            line = roofline.limit(step, arm.recipe, peaks, source)
            if line is None:
                continue
            ratio = roofline.limit_ratio(shape, arm.recipe, base.recipe, row.workload, peaks)
            line = line.model_copy(update={"limit_ratio": ratio})
            if row.kept:
                speed = statistics.median(w.tokens_per_s(row.workload.phase) for w in row.kept)
                line = roofline.with_speed(line, step, arm.recipe, peaks, speed)
            found.append(line)
        return tuple(found)
    return ()


def sampled(lengths: Lengths, count: int, seed: int) -> Lengths:
    """At most `count` of the (prompt, answer) lengths of a run, drawn by the seed, answers of no token left out."""
    import random

    usable = [pair for pair in lengths if pair[1] > 0]
    chosen = random.Random(f"replay:{seed}").sample(usable, min(count, len(usable)))
    return tuple(chosen)


def replay_point(lengths: Lengths) -> Workload | None:
    """The workload of a replay; None where there is nothing to replay."""
    if not lengths:
        return None
    return Workload(
        preset=presets.REPLAY, runner="replay", phase="whole", batch=len(lengths),
        input_tokens=math.ceil(statistics.fmean(n for n, _ in lengths)),
        output_tokens=math.ceil(statistics.fmean(n for _, n in lengths)),
    )  # fmt: skip

