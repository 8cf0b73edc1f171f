"""Points of a bench: which there are, which of them the loaded arms can run, and the row of each arm at each of them.

An arm that cannot be measured (emulated, refused, too large a batch) has a row that says why, at every point: nothing
is left out silently.
"""

import math
import statistics
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from evalsuite.errors import CannotRunError
from evalsuite.measure import presets, roofline
from evalsuite.measure.loads import DoesNotFitError, Load, Opened
from evalsuite.measure.rigs import Lengths, Rigged
from evalsuite.records import Arm, BenchSpec, Measurement, Peaks, Roofline, Workload


@dataclass
class Loaded:
    """An arm of the bench, loaded or refused."""

    arm: Arm
    opened: Opened | None
    refused: str | None = None
    """Why it was not loaded."""
    loads: dict[Workload, Load] = field(default_factory=dict)

    @property
    def runs(self) -> bool:
        """Whether it is timed."""
        return self.opened is not None and self.opened.speed_valid


@dataclass(frozen=True)
class Bed:
    """What the points of a bench run on."""

    rigged: Rigged
    peaks: tuple[Peaks, ...]
    note: Callable[[str], None]
    """Told of points that cannot be run."""


def points_of(spec: BenchSpec, runner: presets.Runner, replay: Workload | None) -> list[Workload]:
    """The points of a spec, in order, each on every number of devices."""
    found: list[Workload] = []
    for name in spec.presets:
        if name == presets.REPLAY:
            found += [replay] if replay is not None else []
        else:
            found += presets.points(name, runner)
    points = dict.fromkeys(found)
    return [point.model_copy(update={"devices": count}) for point in points for count in spec.devices]


class Queue:
    """Points whose loads are ready. One that does not fit leaves rows that say so, and the next smaller batch comes in
    its place."""

    def __init__(self, points: list[Workload], arms: list[Loaded], bed: Bed, done: list[Measurement]) -> None:
        self._points, self._arms, self._bed, self._done = points, arms, bed, done
        self._all = set(points)

    @property
    def left(self) -> bool:
        """Whether points are still to come."""
        return bool(self._points)

    def __iter__(self) -> "Queue":
        return self

    def __next__(self) -> Workload:
        while self._points:
            point = self._points.pop(0)
            context = self._bed.rigged.max_length
            if context is not None and point.input_tokens + point.output_tokens > context:
                self._drop(point, "beyond_context", f"{point.input_tokens} + {point.output_tokens} > {context} tokens")
                continue
            if point.batch < point.devices:
                self._drop(point, "too_few_rows", f"{point.batch} rows, {point.devices} devices")
                continue
            try:
                for loaded in self._arms:
                    if loaded.runs:
                        loaded.loads[point] = self._bed.rigged.rig.load(loaded.arm, point)
                        loaded.loads[point].warm(0.0)
            except CannotRunError as error:
                self._drop(point, "cannot_run", str(error))
                continue
            except DoesNotFitError as error:
                self._drop(point, "does_not_fit", str(error))
                self.try_smaller(point)
                continue
            return point
        raise StopIteration

    def try_smaller(self, point: Workload) -> None:
        """Half the batch of a point that does not fit comes next, unless it was there; a replay has no half."""
        smaller = point.model_copy(update={"batch": point.batch // 2})
        if smaller.batch and smaller not in self._all and point.runner != "replay":
            self._all.add(smaller)
            self._points.insert(0, smaller)

    def _drop(self, point: Workload, code: str, detail: str) -> None:
        for loaded in self._arms:
            if (load := loaded.loads.pop(point, None)) is not None:
                load.close()
            row = _row(point, loaded, loaded.arm.id)
            self._done.append(row.model_copy(update={"reasons": (*row.reasons, code), "detail": detail}))
        self._bed.note(f"{point.key}: {code} ({detail})")


def loads_of(point: Workload, arms: list[Loaded], spec: BenchSpec) -> dict[str, Load]:
    """Arm id -> load, the null arm on the baseline's own; empty where the baseline does not run."""
    loads = {loaded.arm.id: loaded.loads[point] for loaded in arms if loaded.runs}
    if spec.baseline in loads:
        return {spec.baseline: loads[spec.baseline], spec.null_arm: loads[spec.baseline], **loads}
    return loads


def rows_of(point: Workload, arms: list[Loaded], spec: BenchSpec) -> list[Measurement]:
    """A row for each arm and for the null arm, without windows yet."""
    rows = []
    for loaded in arms:
        rows.append(_row(point, loaded, loaded.arm.id))
        if loaded.arm.id == spec.baseline:
            rows.append(_row(point, loaded, spec.null_arm))
    return rows


def _row(point: Workload, loaded: Loaded, name: str) -> Measurement:
    opened = loaded.opened
    if opened is None:
        return Measurement(row_id=f"{point.key}.{name}", arm=name, workload=point, execution=None, realised=None,
                           speed_valid=False, reasons=("cannot_run",), detail=loaded.refused)  # fmt: skip
    return Measurement(
        row_id=f"{point.key}.{name}", arm=name, workload=point, execution=opened.execution, realised=opened.realised,
        speed_valid=opened.speed_valid, memory=opened.memory, startup_s=opened.startup_s or None,
        reasons=opened.reasons,
    )  # fmt: skip


def completed(row: Measurement, arms: list[Loaded], bed: Bed, spec: BenchSpec) -> Measurement:
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
        "memory": memory, "rooflines": _limits(row, arm, base, bed),
        "communication": statistics.median(shares) if shares else None,
    })  # fmt: skip


def _limits(row: Measurement, arm: Arm, base: Arm, bed: Bed) -> tuple[Roofline, ...]:
    config = bed.rigged.config
    if config is None or row.workload.phase == "whole" or row.workload.devices > 1 or not roofline.is_dense(config):
        return ()
    with suppress(AttributeError):
        shape, found = roofline.shape_of(config), []
        step = roofline.step(shape, arm.recipe, row.workload)
        for peaks in bed.peaks:
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

