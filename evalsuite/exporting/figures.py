"""What of a bench may be exported, as numbers: medians over the rounds that count.

Emulated arms have no tokens a second and no joules: they are left out whole, and counted. A round that was voided, or
kept with a code that takes its number away, counts for nothing. Energy is there only where a meter measured it, and not
on synthetic weights, whose values set the power.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from evalsuite.errors import UsageError
from evalsuite.records import WARNINGS, Arm, Bench, Measurement, Quality, Scope, Window

ENERGY_ONLY = frozenset({
    "no_meter", "nvml_not_found", "nvml_driver_mismatch", "not_supported", "mig_slice", "counter_reset",
    "counter_frozen", "window_too_short", "window_not_bracketed", "sampling_gap", "meters_disagree",
    "device_set_mismatch", "rapl_absent_vm", "rapl_permission", "meter_failed", "implausible_power",
})  # fmt: skip
"""Codes that take the energy away and leave the speed."""
SCOPES: tuple[Scope, ...] = ("gpu_board", "npu_chip", "gpu_module", "soc", "node_ac", "cpu_package", "dram")
"""Which meter is named first where a format has room for one."""
ACCELERATOR: frozenset[Scope] = frozenset({"gpu_board", "npu_chip", "gpu_module"})


@dataclass(frozen=True)
class Exported:
    """A file's content, and what to say beside it."""

    text: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Joules:
    """What one meter says about one measurement; a value a round."""

    meter: str
    scope: Scope
    method: str
    quality: Quality
    per_token: tuple[float, ...]
    """Prompt tokens for `prefill`, generated tokens otherwise."""
    power_w: tuple[float, ...]


@dataclass(frozen=True)
class Point:
    """One arm at one point, with the rounds that count."""

    row: Measurement
    arm: Arm | None
    """As asked for; None for an arm that the bench does not describe."""
    windows: tuple[Window, ...]
    """At least one."""
    joules: tuple[Joules, ...]
    """In the order of `SCOPES`; empty without a meter."""

    @property
    def rates(self) -> tuple[float, ...]:
        """Tokens a second of every round."""
        return tuple(window.tokens_per_s(self.row.workload.phase) for window in self.windows)

    @property
    def tokens_per_s(self) -> float:
        """Median over the rounds."""
        return median(self.rates)

    def middle(self, value: Callable[[Window], float | None]) -> float | None:
        """The median of a value over the rounds that have it; None where none has."""
        found = [number for window in self.windows if (number := value(window)) is not None]
        return median(found) if found else None

    def latency(self, family: str, statistic: str) -> float | None:
        """`ttft`, `tpot`, `itl` or `e2el`, its `mean` or `p50`, `p90`, `p99`, in seconds: median over the rounds."""

        def read(window: Window) -> float | None:
            table = None if window.latency is None else getattr(window.latency, f"{family}_s")
            value: float | None = None if table is None else getattr(table, statistic)
            return value

        return self.middle(read)

    def total(self, value: Callable[[Window], float]) -> float:
        """The sum over the rounds."""
        return sum(map(value, self.windows))


def points(bench: Bench, fits: Callable[[Measurement], bool], why: str, *, null: bool = False) -> tuple[
    list[Point], list[str]
]:  # fmt: skip
    """What may be exported of a bench, and what was left out, for people.

    `fits`: which measurements the format has room for; `why`: what it says of the others. `null`: keep the null arm.
    Raises UsageError where nothing is left.
    """
    emulated = [row for row in bench.measurements if is_emulated(row)]
    rest = [row for row in bench.measurements if not is_emulated(row)]
    shown = [row for row in rest if null or row.arm != bench.spec.null_arm]
    made = [(row, _point(bench, row)) for row in shown if fits(row)]
    found = [point for _, point in made if point is not None]
    notes = _left_out(bench, emulated, len(rest) - len(shown), len(shown) - len(made), why)
    empty = len(made) - len(found)
    if empty:
        notes.append(f"{empty} measurements without a valid round left out")
    synthetic = sum(point.row.synthetic_weights for point in found)
    if synthetic:
        notes.append(f"{synthetic} measurements on synthetic weights: their energy is left out")
    if not found:
        raise UsageError(f"{bench.bench_id}: nothing to export in this format. {'; '.join(notes) or why}.")
    return found, notes


def _left_out(bench: Bench, emulated: Sequence[Measurement], null: int, other: int, why: str) -> list[str]:
    notes = [] if bench.status == "done" else [f"the bench is {bench.status}: rounds may be missing"]
    if emulated:
        arms = ", ".join(dict.fromkeys(row.arm for row in emulated))
        notes.append(f"{len(emulated)} measurements of emulated arms left out ({arms}): no speed, no energy")
    if null:
        notes.append(f"{null} measurements of the null arm left out ({bench.spec.null_arm})")
    if other:
        notes.append(f"{other} measurements left out: {why}")
    return notes


def is_emulated(row: Measurement) -> bool:
    """Whether a measurement says nothing about the speed of its format."""
    return not row.speed_valid or row.execution in ("emulated", "reference")


def _point(bench: Bench, row: Measurement) -> Point | None:
    """The point of a measurement; None where no round counts."""
    if _hard(row.reasons) - ENERGY_ONLY:
        return None
    windows = tuple(window for window in row.kept if not _hard(window.reasons) - ENERGY_ONLY
                    and window.duration_s > 0 and window.tokens_per_s(row.workload.phase) > 0)  # fmt: skip
    if not windows:
        return None
    asked = bench.spec.baseline if row.arm == bench.spec.null_arm else row.arm
    arm = next((arm for arm in bench.spec.arms if arm.id == asked), None)
    measured = not row.synthetic_weights and not _hard(row.reasons)
    return Point(row, arm, windows, _joules(row, windows) if measured else ())


def _hard(reasons: Sequence[str]) -> frozenset[str]:
    return frozenset(reasons) - WARNINGS


def _joules(row: Measurement, windows: Sequence[Window]) -> tuple[Joules, ...]:
    """Energy by meter, of the rounds whose meter read well; rounds of another quality are another entry."""
    found: dict[tuple[str, Scope, str, Quality], list[tuple[float, float]]] = {}
    for window in windows:
        tokens = window.tokens_per_s(row.workload.phase) * window.duration_s
        for energy in () if _hard(window.reasons) else window.energy:
            if not _hard(energy.reasons):
                key = (energy.meter, energy.scope, energy.method, energy.quality)
                found.setdefault(key, []).append((energy.energy_j / tokens, energy.power_w))
    made = [Joules(*key, tuple(j for j, _ in values), tuple(w for _, w in values)) for key, values in found.items()]
    return tuple(sorted(made, key=lambda one: (SCOPES.index(one.scope), -len(one.per_token), one.meter)))


def hardware(bench: Bench) -> str | None:
    """The device that computed, as far as the bench names it."""
    named = [peak.device for peak in bench.peaks] if bench.machine.get("accelerator") else []
    names = [*named, bench.machine.get("accelerator"), bench.machine.get("processor")]
    return next((name for name in names if isinstance(name, str) and name), None)


def precision(point: Point) -> str:
    """What the arm's numbers are stored in, for people."""
    return point.arm.recipe.label if point.arm is not None else point.row.arm


def model(bench: Bench, point: Point) -> str:
    """The model of a point."""
    return point.arm.model.id if point.arm is not None else bench.spec.model.id
