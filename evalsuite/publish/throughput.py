"""What the throughput page shows of one bench: a table a point, scaling over devices, how it was measured, and charts.

A row of an emulated arm says so and has no number. Every reason beside a number, and every reason in place of one, is
spelled out below its row.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from evalsuite.publish import scaling_figures, speed_figures
from evalsuite.publish.benches import JudgedBench, described, limit_of, spelled
from evalsuite.publish.canvas import Figure
from evalsuite.publish.figures import Look
from evalsuite.publish.runs import flatten
from evalsuite.records import ArmPoint, Memory, Ratio, Scaling, Workload

Spelled = tuple[tuple[str, str, bool], ...]


class ArmRow(NamedTuple):
    """One arm at one point."""

    arm: str
    name: str
    look: Look
    point: ArmPoint
    ratio: Ratio | None
    memory: Memory | None
    limit: float | None
    """Physical limit in tokens a second."""
    emulated: bool
    reasons: Spelled
    detail: str | None


@dataclass(frozen=True)
class PointView:
    """One point of the bench: what was run, and all arms."""

    id: str
    workload: Workload
    rows: tuple[ArmRow, ...]

    @property
    def title(self) -> str:
        """The point in words."""
        return described(self.workload)

    @property
    def drawn(self) -> bool:
        """Whether any arm has a speed."""
        return any(row.point.tokens_per_s is not None for row in self.rows)


@dataclass(frozen=True)
class ScalingView:
    """One workload over numbers of devices."""

    id: str
    workload: Workload
    every: tuple[Scaling, ...]
    """The null arm's too; it is not drawn."""


def points(bench: JudgedBench) -> tuple[PointView, ...]:
    """All points, in the bench's order."""
    return tuple(
        PointView(f"w{i}", workload, tuple(_rows(bench, workload))) for i, workload in enumerate(bench.bench.workloads)
    )


def _rows(bench: JudgedBench, workload: Workload) -> Iterable[ArmRow]:
    for arm in bench.arms:
        point = bench.point(arm, workload)
        if point is None:
            continue
        row, ratio = bench.row(arm, workload), bench.ratio(arm, workload)
        emulated = point.tokens_per_s is None and "emulated_speed" in point.reasons
        beside = ratio.reasons if ratio is not None and point.tokens_per_s is not None else ()
        codes = () if emulated else tuple(dict.fromkeys((*point.reasons, *beside)))
        yield ArmRow(
            arm, bench.arm_name(arm), bench.looks[arm], point, None if emulated else ratio, row.memory if row else None,
            limit_of(point), emulated, spelled(codes), row.detail if row else None,
        )  # fmt: skip


def scalings(bench: JudgedBench) -> tuple[ScalingView, ...]:
    """Workloads that ran on several numbers of devices."""
    found: dict[Workload, list[Scaling]] = {}
    for one in bench.judgement.scaling:
        found.setdefault(one.workload, []).append(one)
    return tuple(ScalingView(f"s{i}", workload, tuple(own)) for i, (workload, own) in enumerate(found.items()))


def conditions(bench: JudgedBench) -> list[tuple[str, str]]:
    """How the bench was measured, as rows."""
    spec, made = bench.bench.spec, bench.bench
    rows = [
        ("Engine", spec.engine), ("Presets", ", ".join(spec.presets)), ("Rounds", f"{spec.rounds}, all kept"),
        ("Window", f"{spec.window_s:g} s after {spec.warm_s:g} s of warming up"), ("Seed", str(spec.seed)),
    ]  # fmt: skip
    rows += [("Peaks for the limits", f"{peak.device}: {peak.source}") for peak in made.peaks]
    if spec.replay_run:
        rows.append(("Lengths of `replay`", f"run {spec.replay_run}"))
    return rows


def context(bench: JudgedBench) -> dict[str, Any]:
    """What the template gets."""
    made = bench.bench
    return {
        "points": points(bench), "scalings": scalings(bench), "conditions": conditions(bench),
        "drawn": frozenset(charts(bench)), "in_mind": spelled(bench.judgement.reasons),
        "surroundings": [row for facts in (made.machine, made.software, made.environment) for row in flatten(facts)],
    }  # fmt: skip


def charts(bench: JudgedBench) -> dict[str, Figure]:
    """The page's figures by id; none for what has no point."""
    found = {}
    if any(ratio.value is not None for ratio in bench.judgement.ratios if ratio.arm in bench.candidates):
        found["ratios"] = speed_figures.ratios(bench)
    for view in points(bench):
        if view.drawn:
            found[f"speed-{view.id}"] = speed_figures.speeds(bench, view.workload)
            found[f"rounds-{view.id}"] = speed_figures.rounds(bench, view.workload)
    for scaled in scalings(bench):
        own = [one for one in scaled.every if one.arm != bench.bench.spec.null_arm]
        if own:
            found[f"scaling-{scaled.id}"] = scaling_figures.scaling(bench, own)
    return found
