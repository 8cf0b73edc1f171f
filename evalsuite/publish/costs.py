"""What the energy page is made of: joules that may be compared, costs of a correct answer, and estimates apart.

Energies stand in one panel (`Facet`) only if meter, scope, method and quality are the same. Costs are the judgement's,
one `Costs` a mode: joules where a meter answered, else seconds, and tokens always, which need no hardware. Modelled
estimates are intervals in a panel of their own; nothing is made of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from evalsuite.judge.rounds import Metered, Quantity
from evalsuite.judge.stats import wilson
from evalsuite.publish.benches import JudgedBench
from evalsuite.records import ArmPoint, Interval, Joint, Ratio, Workload

Unit = Literal["j", "s", "tokens"]
NAMES: dict[Unit, str] = {"j": "joules", "s": "seconds", "tokens": "tokens"}
SCOPES = {"gpu_board": "accelerator boards", "gpu_module": "accelerator modules with their processors",
          "npu_chip": "accelerator chips", "cpu_package": "processor packages", "dram": "memory", "soc": "whole chips",
          "node_ac": "the whole machine, at the wall"}  # fmt: skip
LEVEL = 0.95
"""Of the intervals of accuracy beside costs, whose intervals have the same."""


class Spent(NamedTuple):
    """Joules a token of one arm at one point, or why there are none."""

    workload: Workload
    arm: str
    joules: Interval | None
    ratio: Ratio | None
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Facet:
    """Joules that may be compared: one meter, scope, method and quality."""

    id: str
    meter: str
    metered: Metered
    rows: tuple[Spent, ...]

    @property
    def quantity(self) -> Quantity:
        """What the ratios of this panel are of."""
        return Quantity("j_per_token", self.meter)

    @property
    def workloads(self) -> tuple[Workload, ...]:
        """The points of this panel."""
        return tuple(dict.fromkeys(row.workload for row in self.rows))

    @property
    def scope(self) -> str:
        """What the meter sees, for people."""
        return SCOPES[self.metered.scope]


def facets(bench: JudgedBench) -> tuple[Facet, ...]:
    """Panels of joules a token, in the order of meters; arms without joules are said where the baseline has some."""
    found: dict[tuple[str, Metered], list[Spent]] = {}
    for workload in bench.bench.workloads:
        for arm in bench.arms:
            point = bench.point(arm, workload)
            for meter, joules in (point.j_per_token if point else {}).items():
                metered = bench.metered(arm, workload, meter)
                if point is not None and metered is not None:
                    spent = Spent(workload, arm, joules, _ratio(bench, arm, workload, meter), point.energy_reasons)
                    found.setdefault((meter, metered), []).append(spent)
    made = (Facet(f"e{i}", meter, metered, _whole(bench, meter, rows))
            for i, ((meter, metered), rows) in enumerate(found.items()))  # fmt: skip
    return tuple(made)


def _ratio(bench: JudgedBench, arm: str, workload: Workload, meter: str) -> Ratio | None:
    return bench.ratio(arm, workload, Quantity("j_per_token", meter))


def _whole(bench: JudgedBench, meter: str, rows: Sequence[Spent]) -> tuple[Spent, ...]:
    """Rows in the order of arms, with the arms that have no joules at these points and why."""
    have = {(row.workload, row.arm): row for row in rows}
    whole = []
    for workload in dict.fromkeys(row.workload for row in rows):
        for arm in bench.arms:
            row, point = have.get((workload, arm)), bench.point(arm, workload)
            if row is not None:
                whole.append(row)
            elif point is None or meter not in point.j_per_token:
                whole.append(Spent(workload, arm, None, None, _absent(point)))
    return tuple(whole)


def _absent(point: ArmPoint | None) -> tuple[str, ...]:
    return (*point.energy_reasons, *point.reasons) if point else ("interrupted",)


@dataclass(frozen=True)
class Costs:
    """Costs of an answer in one mode."""

    mode: str
    joints: tuple[Joint, ...]
    base: str
    """Id of the baseline."""

    @cached_property
    def whole(self) -> tuple[Joint, ...]:
        """One joint an arm: pooled, or of the only task."""
        pooled = tuple(joint for joint in self.joints if joint.task is None)
        return pooled or self.joints

    @cached_property
    def baseline(self) -> Joint:
        """The baseline's."""
        return next((joint for joint in self.whole if joint.arm == self.base), self.whole[0])

    def value(self, joint: Joint, unit: Unit) -> Interval | None:
        """Cost of a correct answer. Joules only where scope and quality are the baseline's."""
        if unit == "tokens":
            return joint.tokens_per_correct
        if unit == "s":
            return joint.s_per_correct
        own, base = ((j.meter, j.scope, j.quality) for j in (joint, self.baseline))
        return joint.j_per_correct if own == base else None

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """Units in which any arm has a cost; seconds stand in for joules where there are none."""
        has = {unit: any(self.value(joint, unit) for joint in self.whole) for unit in NAMES}
        first: tuple[Unit, ...] = ("j",) if has["j"] else ("s",) if has["s"] else ()
        return (*first, "tokens") if has["tokens"] else first

    @cached_property
    def unit(self) -> Unit:
        """The unit of the trade-off: the first in which two arms have a cost, tokens if there is none."""
        return next((u for u in self.units if sum(self.value(j, u) is not None for j in self.whole) > 1), "tokens")

    def parts(self, joint: Joint) -> tuple[Unit, tuple[tuple[str, float], ...]] | None:
        """The unit and logarithms that add up to an arm's cost over the baseline's, the sum last; None without any."""
        parts = joint.decomposition
        if parts is None:
            return None
        unit: Unit = "j" if "j_per_token" in parts else "s" if "s_per_token" in parts else "tokens"
        steps = [] if unit == "tokens" else [(f"{NAMES[unit]} a token", parts[f"{unit}_per_token"])]
        steps += [("tokens an answer", parts["tokens"]), ("accuracy, inverted", -parts["accuracy"])]
        return unit, (*steps, (f"{NAMES[unit]} a correct answer", parts[f"{unit}_per_correct"]))

    @cached_property
    def dominated(self) -> dict[str, str]:
        """Arm -> an arm that costs less and is right more often, both intervals apart."""
        found = {}
        for joint in self.whole:
            for other in self.whole:
                if _beats(self.value(other, self.unit), self.value(joint, self.unit)) and (
                    accuracy_ends(other)[0] > accuracy_ends(joint)[1]
                ):
                    found[joint.arm] = other.arm
        return found


def _beats(one: Interval | None, two: Interval | None) -> bool:
    return bool(one and two and one.ci95 and two.ci95 and one.ci95[1] < two.ci95[0])


def accuracy_ends(joint: Joint) -> tuple[float, float]:
    """95 % interval of an arm's accuracy."""
    return wilson(joint.n_correct, joint.n, LEVEL)


def costs(bench: JudgedBench) -> tuple[Costs, ...]:
    """One a mode."""
    every, base = bench.judgement.joints, bench.bench.spec.baseline
    modes = dict.fromkeys(joint.mode for joint in every)
    return tuple(Costs(mode, tuple(joint for joint in every if joint.mode == mode), base) for mode in modes)


class Estimated(NamedTuple):
    """Modelled joules a token of one arm at one point: an interval, never a point."""

    workload: Workload
    arm: str
    low: float
    high: float
    method: str
    assumption: str


def estimates(bench: JudgedBench) -> tuple[Estimated, ...]:
    """Modelled energies, the widest interval over an arm's windows."""
    found = []
    for workload in bench.bench.workloads:
        for arm in bench.arms:
            ends = []
            for window in bench.windows(arm, workload):
                tokens = window.input_tokens if workload.phase == "prefill" else window.output_tokens
                if window.energy_estimate is not None and tokens and not window.voided:
                    ends.append((window.energy_estimate, tokens))
            if ends:
                low = min(estimate.low_j / tokens for estimate, tokens in ends)
                high = max(estimate.high_j / tokens for estimate, tokens in ends)
                first = ends[0][0]
                found.append(Estimated(workload, arm, low, high, first.method, first.assumption))
    return tuple(found)
