"""A bench, from its spec to its document: arms are loaded, every point is run by the A/B protocol, all of it is kept.

The document is saved after every window, so an interruption costs the window in flight; an error in the middle leaves
the document, as interrupted. Which points and rows there are is in `points`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

from evalsuite import machine
from evalsuite.errors import CannotRunError
from evalsuite.measure import roofline
from evalsuite.measure.loads import DoesNotFitError
from evalsuite.measure.meters import Setting, open_all
from evalsuite.measure.points import Bed, Loaded, Queue, completed, loads_of, points_of, replay_point, rows_of, sampled
from evalsuite.measure.rigs import RIGS, Asked, Lengths
from evalsuite.measure.rounds import Beside, Rounds, Schedule
from evalsuite.measure.sampler import Sampler
from evalsuite.records import Bench, BenchSpec, Measurement, Window, Workload

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


def run(spec: BenchSpec, job: Job) -> Bench:
    """Load the arms, run every point, keep everything; returns the finished document (done, partial, interrupted).

    Raises:
        CannotRunError: no arm can be loaded, or the rig broke down; what was measured is stored as interrupted.
    """
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
        with Sampler(meters) as sampler:
            running = _Running(bench, job, Bed(rigged, peaks, job.reporter.note), sampler)
            try:
                running.load()
                return running.measure(points_of(spec, kind.runner, replay_point(lengths)))
            except BaseException:
                running.save("interrupted")
                raise
            finally:
                job.save_trace(running.bench, sampler.rows())
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


class _Running:
    """A bench under way: its document as it stands."""

    def __init__(self, bench: Bench, job: Job, bed: Bed, sampler: Sampler) -> None:
        self.bench, self._job, self._bed, self._sampler = bench, job, bed, sampler
        self._arms: list[Loaded] = []
        self._done: list[Measurement] = []
        """Rows of the points that are over."""
        self._began = time.perf_counter()

    def save(self, status: Literal["running", "done", "partial", "interrupted"], **fields: Any) -> None:
        """Replace the document, on disk at once."""
        self.bench = self.bench.model_copy(update={"status": status, **fields})
        self._job.save(self.bench)

    def load(self) -> None:
        """Load all arms beside each other."""
        self.save("running")
        for arm in self.bench.spec.arms:
            self._job.reporter.note(f"loading {arm.id}")
            try:
                opened = self._bed.rigged.rig.open(arm)
                self._arms.append(Loaded(opened.arm or arm, opened))
            except CannotRunError as error:
                self._job.reporter.note(f"{arm.id}: {error}")
                self._arms.append(Loaded(arm, None, str(error)))
        if all(loaded.opened is None for loaded in self._arms):
            raise CannotRunError(f"No arm can be measured. {self._arms[0].refused}")
        facts = getattr(self._bed.rigged.rig, "facts", None)
        environment = {**self.bench.environment, "arms": facts} if facts else self.bench.environment
        idle = self._sampler.idle(IDLE_S) if any(loaded.runs for loaded in self._arms) else {}
        self.save("running", environment=environment, idle_w=idle)

    def measure(self, points: list[Workload]) -> Bench:
        """All rounds of all points."""
        spec, job = self.bench.spec, self._job
        names = [loaded.arm.id for loaded in self._arms if loaded.runs]
        windows = len(points) * (len(names) + (spec.baseline in names)) * spec.rounds
        job.reporter.start(windows, windows * (spec.window_s + spec.warm_s + spec.cooldown_s))
        schedule = Schedule(spec.rounds, spec.window_s, spec.warm_s, spec.cooldown_s)
        rounds = Rounds(schedule, Beside(self._sampler, spec.energy_model), self._began, job.stop)
        queue = Queue(points, self._arms, self._bed, self._done)
        for point in queue:
            self._measure_point(point, rounds, queue)
            if job.stop():
                break
        runs = [row for row in self._done if row.speed_valid and row.detail is None]
        whole = not queue.left and all(len(row.kept) == spec.rounds for row in runs)
        some = any(row.windows for row in self._done)
        self.save(("done" if some else "partial") if whole else "interrupted", measurements=tuple(self._done))
        return self.bench

    def _measure_point(self, point: Workload, rounds: Rounds, queue: Queue) -> None:
        spec = self.bench.spec
        rows = {row.arm: row for row in rows_of(point, self._arms, spec)}
        loads = loads_of(point, self._arms, spec)
        try:
            for window in rounds.run(loads, self._bed.rigged.cores) if loads else ():
                row = rows[window.arm]
                rows[window.arm] = row.model_copy(update={"windows": (*row.windows, window)})
                self._job.reporter.window(f"{point.key} {window.arm}", window)
                self.save("running", measurements=(*self._done, *rows.values()))
        except DoesNotFitError as error:  # room that was there at first is gone: the rounds are no longer comparable
            self._job.reporter.note(f"{point.key}: does_not_fit ({error})")
            queue.try_smaller(point)
            rows = {name: _void(row, str(error)) for name, row in rows.items()}
        self._done += [completed(row, self._arms, self._bed, spec) for row in rows.values()]
        for loaded in self._arms:
            if point in loaded.loads:
                loaded.loads.pop(point).close()


def _void(row: Measurement, detail: str) -> Measurement:
    """The row of a point that stopped fitting: its windows are kept and count for nothing."""
    windows = tuple(window.model_copy(update={"voided": True}) for window in row.windows)
    return row.model_copy(
        update={"windows": windows, "reasons": (*row.reasons, "does_not_fit"), "detail": row.detail or detail}
    )
