"""Two more comparisons of one bench: each arm at its best batch, and one arm over numbers of devices.

At equal batch a smaller format may gain little; on the same hardware it leaves room for a larger batch, and that may
gain much (or the other way round). So both are always given. The points of a sweep are not measured in turn, so where
arms do best at different batches their rounds are not paired and the interval is wider (Welch). The best of several
points is picked by the data: its speed is a little flattered, for all arms alike.
"""

import math
from collections.abc import Iterable
from itertools import pairwise

from evalsuite.judge import words
from evalsuite.judge.effects import Effect, apart, excludes_none
from evalsuite.judge.rounds import (
    SPEED,
    Quantity,
    Series,
    check_comparable,
    concluded,
    interval,
    level,
    null_level,
    ratio,
    series,
)
from evalsuite.records import Bench, Interval, Measurement, Ratio, Scaling, ScalingStep, Workload

PAYS_FROM = 0.5
"""Added devices pay if they bring at least this share of their ideal gain."""
Best = tuple[Workload, Series]


def sweeps(bench: Bench) -> list[tuple[Workload, ...]]:
    """Points that differ in nothing but the batch, two or more together."""
    found: dict[Workload, list[Workload]] = {}
    for workload in bench.workloads:
        found.setdefault(workload.model_copy(update={"batch": 0, "comparison": "iso_config"}), []).append(workload)
    return [tuple(points) for points in found.values() if len(points) > 1]


def best(bench: Bench, sweep: Iterable[Workload], arm: str, quantity: Quantity = SPEED) -> Best | None:
    """Where an arm does best: most tokens a second, or fewest joules a token. None if it has no valid point."""
    points = []
    for workload in sweep:
        row = next((row for row in bench.rows(workload) if row.arm == arm), None)
        found = series(row, quantity)
        made = level(found)
        if made is not None:
            points.append((made.value, (workload, found)))
    if not points:
        return None
    pick = max if quantity.name == "tokens_per_s" else min
    return pick(points, key=lambda point: point[0])[1]


def best_ratio(bench: Bench, sweep: tuple[Workload, ...], arm: str, quantity: Quantity = SPEED) -> Ratio:
    """An arm at its best batch over the baseline at its own. Where both are the same it is the paired ratio.

    Raises:
        NotComparableError: the two were metered in different scope, method or quality.
    """
    base, null = bench.spec.baseline, bench.spec.null_arm
    one, two = (best(bench, sweep, name, quantity) for name in (base, arm))
    if one is None or two is None or one[0] == two[0]:
        # Without a valid point the paired ratio of the first one says why.
        return _worded(ratio(bench, sweep[0] if one is None or two is None else one[0], arm, quantity), null)
    if one[1].metered is not None and two[1].metered is not None:
        check_comparable(one[1].metered, two[1].metered)
    again = best(bench, sweep, null, quantity)
    aa = None if again is None else apart(one[1].logs, again[1].logs)
    failed = again is not None and excludes_none(apart(one[1].logs, again[1].logs, null_level(bench)))
    reasons = (*one[1].reasons, *two[1].reasons, *(["aa_failed"] if failed else []))
    metered = two[1].metered
    draft = Ratio(
        quantity=quantity.name, workload=two[0], baseline=base, arm=arm, value=None, ci95=None,
        n=min(len(one[1].by_round), len(two[1].by_round)), resolved=False, sentence="", meter=quantity.meter,
        aa_halfwidth=None if aa is None or not math.isfinite(float(aa.half)) else math.expm1(float(aa.half)),
        scope=metered.scope if metered else None, quality=metered.quality if metered else None,
        voided=one[1].voided + two[1].voided, baseline_workload=one[0], reasons=tuple(dict.fromkeys(reasons)),
    )  # fmt: skip
    if not failed or arm == null:
        draft = concluded(draft, apart(one[1].logs, two[1].logs), aa, null=arm == null)
    return _worded(draft, null)


def _worded(made: Ratio, null: str) -> Ratio:
    """As a ratio of best configurations, in words."""
    workload = made.workload.model_copy(update={"comparison": "best_config"})
    base = (made.baseline_workload or made.workload).model_copy(update={"comparison": "best_config"})
    made = made.model_copy(update={"workload": workload, "baseline_workload": base})
    return made.model_copy(update={"sentence": words.ratio_sentence(made, null=made.arm == null)})


def scalings(bench: Bench, threshold: float = PAYS_FROM) -> tuple[Scaling, ...]:
    """Every arm and workload that was measured on several numbers of devices, at the same batch over all of them."""
    found: dict[tuple[str, Workload], dict[int, Measurement]] = {}
    for row in bench.measurements:
        same = row.workload.model_copy(update={"devices": 1})
        found.setdefault((row.arm, same), {})[row.workload.devices] = row
    made = (_scaling(dict(sorted(rows.items())), threshold) for rows in found.values() if len(rows) > 1)
    return tuple(one for one in made if one is not None)


def _scaling(rows: dict[int, Measurement], threshold: float) -> Scaling | None:
    """`rows`: devices -> measurement, ascending. None where fewer than two have a speed."""
    every = {devices: series(row, SPEED) for devices, row in rows.items()}
    valid = {devices: found for devices, found in every.items() if found.by_round}
    if len(valid) < 2:
        return None
    first = min(valid)
    steps = [_step((first, first, first), valid, rows, threshold)]
    steps += [_step((first, before, now), valid, rows, threshold) for before, now in pairwise(valid)]
    stops = next((step.devices for step in steps if step.pays is False), None)
    reasons = tuple(dict.fromkeys(code for found in every.values() for code in found.reasons))
    draft = Scaling(
        arm=rows[first].arm, workload=rows[first].workload, steps=tuple(steps), stops_at=stops, threshold=threshold,
        sentence="", reasons=reasons,
    )  # fmt: skip
    return draft.model_copy(update={"sentence": words.scaling_sentence(draft)})


def _step(
    at: tuple[int, int, int], valid: dict[int, Series], rows: dict[int, Measurement], threshold: float
) -> ScalingStep:
    """`at`: the fewest devices, those of the step before, those of this step."""
    first, before, now = at
    speed = level(valid[now])
    assert speed is not None
    gain = None if now == first else _gain(apart(valid[before].logs, valid[now].logs), now / before)
    whole = interval(apart(valid[first].logs, valid[now].logs)) if now != first else Interval(value=1.0, ci95=None)
    efficiency = Interval(
        value=whole.value * first / now,
        ci95=None if whole.ci95 is None else (whole.ci95[0] * first / now, whole.ci95[1] * first / now),
    )
    pays = None
    if gain is not None and gain.ci95 is not None:
        pays = True if gain.ci95[0] >= threshold else False if gain.ci95[1] < threshold else None
    return ScalingStep(
        devices=now, tokens_per_s=speed, efficiency=efficiency, gain=gain, pays=pays,
        communication=rows[now].communication,
    )  # fmt: skip


def _gain(found: Effect, times: float) -> Interval:
    """Gain of speed over the ideal gain, which `times` as many devices would bring."""
    made = interval(found)
    low_high = None if made.ci95 is None else tuple((end - 1) / (times - 1) for end in made.ci95)
    return Interval(value=(made.value - 1) / (times - 1), ci95=low_high)
