"""What a token costs each arm, in seconds and joules, at the one point of a bench that fits a run's answers.

The point is a replay of the run's own lengths (the same list for all arms, so the cost of a token is that of the
format and not of longer answers); without one, the decode point at which the baseline is fastest, and that is said.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, stdtrit

from evalsuite.errors import NotComparableError
from evalsuite.judge.effects import LEVEL
from evalsuite.judge.exact import FloatArray
from evalsuite.judge.rounds import SPEED, Metered, Quantity, Series, level, meters, no_meter, ratio, series, taken
from evalsuite.records import Bench, Workload

BY_SCOPE = ("node_ac", "gpu_module", "gpu_board", "npu_chip", "soc", "cpu_package", "dram")
"""Which meter's joules are joined where there are several: the one that sees most of the machine."""


@dataclass(frozen=True)
class Cost:
    """Cost of a token, by arm and round."""

    logs: dict[str, FloatArray]
    """Arm -> logarithms, rounds in the same order for all arms."""
    reasons: dict[str, tuple[str, ...]]
    """Arm -> what is to be said of its number, and why it has none."""
    unpaired: dict[str, tuple[str, ...]]
    """Arm -> why it may not be set against the baseline."""
    metered: Metered | None = None
    meter: str | None = None

    def value(self, arm: str) -> float | None:
        """Logarithm of the cost a token: the median over the rounds."""
        return float(np.median(self.logs[arm])) if arm in self.logs else None

    def resampled(self, draws: int, seed: int) -> dict[str, FloatArray]:
        """Arm -> `draws` logarithms, the same rounds drawn for all arms; empty where there is one round only.

        A mean of six resampled rounds spreads too little: by sqrt((n - 1) / n), and as if six rounds were many. Both
        are made good, so that the draws cover what the t interval covers.
        """
        n = min((len(y) for y in self.logs.values()), default=0)
        if n < 2:
            return {}
        drawn = np.random.default_rng(seed).integers(0, n, (draws, n))
        stretch = float(stdtrit(n - 1, (1 + LEVEL) / 2) / ndtri((1 + LEVEL) / 2)) * math.sqrt(n / (n - 1))
        return {arm: np.median(y) + stretch * (y[drawn].mean(axis=1) - y.mean()) for arm, y in self.logs.items()}


def matching(bench: Bench, mode: str) -> Workload | None:
    """The point whose cost a token is used. A replay preset may end in the mode, `replay-thinking`."""
    replays = [w for w in bench.workloads if w.runner == "replay" or w.preset.startswith("replay")]
    named = [w for w in replays if w.preset.endswith(mode)]
    other = "thinking" if mode == "direct" else "direct"
    own = [w for w in named or replays if w.phase != "prefill" and not w.preset.endswith(other)]
    if own:
        return _fastest(bench, own) or own[0]
    return _fastest(bench, (w for w in bench.workloads if w.phase == "decode"))


def _fastest(bench: Bench, workloads: Iterable[Workload]) -> Workload | None:
    """Where the baseline makes most tokens a second; None if it has no speed at any."""
    found = []
    for workload in workloads:
        row = next((row for row in bench.rows(workload) if row.arm == bench.spec.baseline), None)
        made = level(series(row, SPEED))
        if made is not None:
            found.append((made.value, workload))
    return max(found, key=lambda one: one[0])[1] if found else None


def seconds(bench: Bench, workload: Workload) -> Cost:
    """Seconds a token, the inverse of the speed at the whole batch."""
    found = _of(bench, workload, SPEED)
    return Cost({arm: -y for arm, y in found.logs.items()}, found.reasons, found.unpaired)


def joules(bench: Bench, workload: Workload) -> Cost:
    """Joules a token by the meter that sees most, of those that read the baseline."""
    made = [_of(bench, workload, Quantity("j_per_token", meter)) for meter in meters(bench)]
    valid = [cost for cost in made if cost.metered is not None and bench.spec.baseline in cost.logs]
    if valid:
        return min(valid, key=lambda cost: BY_SCOPE.index(cost.metered.scope if cost.metered else "dram"))
    if made:
        return made[0]
    rows = {arm.id: next((r for r in bench.rows(workload) if r.arm == arm.id), None) for arm in bench.spec.arms}
    why = {arm: no_meter(bench) if row is None or row.speed_valid else series(row, SPEED).reasons
           for arm, row in rows.items()}  # fmt: skip
    return Cost({}, why, {})


def _of(bench: Bench, workload: Workload, quantity: Quantity) -> Cost:
    """A quantity of all arms on the rounds that they share."""
    rows = {row.arm: row for row in bench.rows(workload)}
    found = {arm.id: series(rows.get(arm.id), quantity) for arm in bench.spec.arms}
    base = found[bench.spec.baseline]
    valid = {arm: s for arm, s in found.items() if s.by_round and s.metered == base.metered}
    shared = sorted(set.intersection(*(set(s.by_round) for s in valid.values()))) if valid else []
    logs = {arm: np.log([s.by_round[r] for r in shared]) for arm, s in valid.items()} if shared else {}
    reasons = {arm: s.reasons + _refused(s, base) for arm, s in found.items()}
    unpaired = {arm: _unpaired(bench, workload, arm, quantity) for arm in logs}
    return Cost(logs, reasons, unpaired, base.metered, quantity.meter)


def _refused(own: Series, base: Series) -> tuple[str, ...]:
    return ("not_comparable",) if own.by_round and own.metered != base.metered else ()


def _unpaired(bench: Bench, workload: Workload, arm: str, quantity: Quantity) -> tuple[str, ...]:
    try:
        return taken(ratio(bench, workload, arm, quantity).reasons)
    except NotComparableError:
        return ("not_comparable",)
