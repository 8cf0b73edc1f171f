"""Paired rounds: the windows of two arms at one point in, a `Ratio` out.

Every round holds one window of each arm, in a balanced order, so what changes slowly (temperature, neighbours) hits
both. Per round the logarithm of candidate over baseline is taken; the ratio is the exponential of their median. A
difference is *resolved* if the 95 % interval excludes 1, and the change exceeds both 1 % and what the baseline shows
against itself (the null arm). All rounds count; a voided window was measured again and is only counted.

It fails closed. A code of `records.REASONS` that is no warning takes the number away, and stays in its place. Energy
is compared within one meter, one scope, one quality; estimates are never looked at.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import numpy as np

from evalsuite.errors import NotComparableError
from evalsuite.judge import words
from evalsuite.judge.effects import LEVEL, Effect, bca, effect, excludes_none, moved
from evalsuite.records import WARNINGS, Bench, Energy, Interval, Measurement, Quality, Ratio, Scope, Window, Workload

SMALLEST = 0.01
"""A change of less is not called one, however narrow its interval."""
DRIFT_LIMIT = 0.03
CLOCK_LIMIT = 0.03
MEASURED_PEAK_TOLERANCE = 0.10
"""How far a speed may lie above a limit that was made from *measured* peaks. Such a peak is what one large copy or
product reached, not what the device can do at most: another kernel may do a little better. A data sheet's peak may not
be passed at all."""


class Quantity(NamedTuple):
    """What is compared."""

    name: Literal["tokens_per_s", "j_per_token"]
    meter: str | None = None
    """Of the energy; None for speed."""


SPEED = Quantity("tokens_per_s")


class Metered(NamedTuple):
    """What two readings of energy must share to be compared."""

    scope: Scope
    method: str
    quality: Quality


class Series(NamedTuple):
    """One quantity of one arm at one point."""

    by_round: dict[int, float]
    """Round -> value; empty where reasons took it away."""
    reasons: tuple[str, ...]
    metered: Metered | None
    voided: int

    @property
    def logs(self) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
        """Logarithms of the values, in order of rounds."""
        return np.log([self.by_round[r] for r in sorted(self.by_round)])


def taken(reasons: Iterable[str]) -> tuple[str, ...]:
    """The reasons that take a number away."""
    return tuple(code for code in reasons if code not in WARNINGS)


def series(row: Measurement | None, quantity: Quantity) -> Series:
    """The values of a quantity by round, or why there are none. `row`: None where the bench did not get so far.

    Raises:
        NotComparableError: windows of one arm were metered in different scopes or by different methods.
    """
    if row is None:
        return Series({}, ("interrupted",), None, 0)
    voided = len(row.windows) - len(row.kept)
    if not row.speed_valid or not row.kept:
        return Series({}, _why_nothing(row), None, voided)
    codes = [*row.reasons, *(code for window in row.kept for code in window.reasons), *_impossible(row)]
    codes += ["dummy_weights"] * row.synthetic_weights
    phase = row.workload.phase
    values = {window.round: window.tokens_per_s(phase) for window in row.kept if window.duration_s > 0}
    metered, lost = None, False
    if quantity.meter is not None or quantity.name == "j_per_token":
        values, metered, more = _energies(row, quantity.meter or "")
        codes += more
        # The values of the weights set the power of a matrix product: made-up ones say nothing about joules.
        lost = row.synthetic_weights
    reasons = tuple(dict.fromkeys(codes))
    gone = lost or taken(reasons) or any(not value > 0 for value in values.values())
    return Series({} if gone else values, reasons, metered, voided)


def _why_nothing(row: Measurement) -> tuple[str, ...]:
    """Reasons of an arm without a window that counts."""
    if not row.speed_valid:
        return row.reasons if taken(row.reasons) else (*row.reasons, "emulated_speed")
    voided = [code for window in row.windows for code in window.reasons]
    return tuple(dict.fromkeys([*row.reasons, *taken(voided)])) or ("interrupted",)


def _impossible(row: Measurement) -> list[str]:
    """`above_physical_limit` where a limit was passed by more than its peaks are unsure."""
    speed = float(np.median([window.tokens_per_s(row.workload.phase) for window in row.kept]))
    for roof in row.rooflines:
        most = 1.0 if roof.peaks == "table" else 1.0 + MEASURED_PEAK_TOLERANCE
        reached = speed / roof.limit_tokens_per_s if roof.fraction is None else roof.fraction
        if reached > most:
            return ["above_physical_limit"]
    return []


def _energies(row: Measurement, meter: str) -> tuple[dict[int, float], Metered | None, list[str]]:
    """Joules a token by round of one meter, what they are, and reasons."""
    values: dict[int, float] = {}
    found: list[Energy] = []
    codes: list[str] = []
    for window in row.kept:
        energy = next((energy for energy in window.energy if energy.meter == meter), None)
        tokens = window.input_tokens if row.workload.phase == "prefill" else window.output_tokens
        if energy is None or tokens == 0:
            codes += _why_no_energy(window, meter)
            continue
        found.append(energy)
        codes += energy.reasons
        values[window.round] = energy.energy_j / tokens
    if not found:
        return {}, None, codes
    worst: Quality = min(energy.quality for energy in found)  # L1 is the worst, L4 the best
    first = Metered(found[0].scope, found[0].method, worst)
    for energy in found:
        check_comparable(first, Metered(energy.scope, energy.method, worst))
    return values, first, codes


def _why_no_energy(window: Window, meter: str) -> list[str]:
    own = [code for said in window.energy_reasons for name, _, code in [said.partition(": ")] if name == meter]
    return own or ["no_meter"]


def check_comparable(one: Metered, two: Metered) -> None:
    """NotComparableError unless scope, method and quality are the same."""
    for what, a, b in zip(Metered._fields, one, two, strict=True):
        if a != b:
            raise NotComparableError(
                f"Energy of {what} {a} and energy of {what} {b} are not compared. Measure both arms with one meter in "
                "one bench; see the reasons of their windows for what lowered a quality."
            )


def level(found: Series) -> Interval | None:
    """Median over the rounds with its 95 % interval; None without values."""
    return interval(effect(found.logs)) if found.by_round else None


def interval(found: Effect) -> Interval:
    """Logarithms as factors."""
    return Interval(value=math.exp(float(found.value)), ci95=ends(found))


def ends(found: Effect) -> tuple[float, float] | None:
    """The interval's ends as factors; None from a single round."""
    if not math.isfinite(float(found.half)):
        return None
    return (math.exp(float(found.low)), math.exp(float(found.high)))


def ratio(bench: Bench, workload: Workload, arm: str, quantity: Quantity = SPEED) -> Ratio:
    """An arm (or the null arm) over the baseline at one point.

    Raises:
        NotComparableError: the two were metered in different scope, method or quality.
    """
    rows = {row.arm: row for row in bench.rows(workload)}
    base, null = bench.spec.baseline, bench.spec.null_arm
    pair = (rows.get(base), rows.get(arm))
    one, two = (series(row, quantity) for row in pair)
    if one.metered is not None and two.metered is not None:
        check_comparable(one.metered, two.metered)
    again = series(rows.get(null), quantity)
    aa = _against_itself(one, again) if again.metered == one.metered else None
    wide = _against_itself(one, again, null_level(bench)) if aa is not None else None
    beside = _beside(pair, (one, two), quantity)._replace(null_failed=wide is not None and excludes_none(wide))
    return _made(bench, Asked(workload, arm, quantity), (one, two), aa, beside)


def null_level(bench: Bench) -> float:
    """Level of the interval that the null arm must hold 1 in. All points of a bench together are wrong about a sound
    bench in at most 5 of 100 (Bonferroni): at 95 % each, one of a dozen sound points would lose its number every
    second time."""
    return 1 - (1 - LEVEL) / max(1, len(bench.workloads))


class Asked(NamedTuple):
    """One question to a bench."""

    workload: Workload
    arm: str
    quantity: Quantity


class Beside(NamedTuple):
    """What stands beside a ratio."""

    limit_ratio: float | None
    clock: float | None
    """Baseline's median clock over the arm's."""
    drift: float | None
    reasons: tuple[str, ...]
    null_failed: bool = False
    """Whether the baseline against itself differs."""


def _made(bench: Bench, asked: Asked, pair: tuple[Series, Series], aa: Effect | None, beside: Beside) -> Ratio:
    one, two = pair
    reasons = [*one.reasons, *two.reasons, *beside.reasons]
    null = asked.arm == bench.spec.null_arm
    failed = ["aa_failed"] if beside.null_failed else []
    # The null arm's own number is the evidence for that, so it stays.
    reasons += [] if null else failed
    rounds = sorted(one.by_round.keys() & two.by_round.keys())
    if not rounds and not taken(reasons):
        reasons.append("dummy_weights" if "dummy_weights" in reasons else "interrupted")
    draft = Ratio(
        quantity=asked.quantity.name, workload=asked.workload, baseline=bench.spec.baseline, arm=asked.arm,
        value=None, ci95=None, n=len(rounds), resolved=False, sentence="", meter=asked.quantity.meter,
        aa_halfwidth=None if aa is None or not math.isfinite(float(aa.half)) else math.expm1(float(aa.half)),
        limit_ratio=beside.limit_ratio, voided=one.voided + two.voided, drift=beside.drift,
    )  # fmt: skip
    if two.metered is not None:
        draft = draft.model_copy(update={"scope": two.metered.scope, "quality": two.metered.quality})
    if rounds and not taken(reasons):
        y = np.array([math.log(two.by_round[r] / one.by_round[r]) for r in rounds])
        draft = concluded(draft, effect(y), aa, null=null)
        spread = bca(y)
        normalised = None if beside.clock is None or draft.value is None else draft.value * beside.clock
        draft = draft.model_copy(update={
            "bca95": None if spread is None else tuple(math.exp(x) for x in spread), "clock_normalised": normalised,
        })  # fmt: skip
        reasons += above_limit_ratio(draft)
    draft = draft.model_copy(update={"reasons": tuple(dict.fromkeys([*reasons, *failed]))})
    return draft.model_copy(update={"sentence": words.ratio_sentence(draft, null=null)})


def concluded(draft: Ratio, found: Effect, aa: Effect | None, *, null: bool = False) -> Ratio:
    """The draft with value, interval, and whether the change is resolved. Nothing is resolved without a null arm."""
    size, floor = abs(float(found.value)), math.inf if aa is None else float(aa.half)
    clear = excludes_none(found)
    resolved = not null and clear and size > max(floor, SMALLEST)
    return draft.model_copy(
        update={"value": math.exp(float(found.value)), "ci95": ends(found), "resolved": resolved}
    )


def above_limit_ratio(made: Ratio) -> list[str]:
    """The warning that even the interval's lower end lies above the ratio of the limits."""
    above = made.ci95 is not None and made.limit_ratio is not None and made.ci95[0] > made.limit_ratio
    return ["above_limit_ratio"] if above and made.resolved else []


def _against_itself(one: Series, null: Series, level: float = LEVEL) -> Effect | None:
    """The null arm over the baseline; None where it was not measured in two rounds or more."""
    rounds = sorted(one.by_round.keys() & null.by_round.keys())
    if len(rounds) < 2:
        return None
    return effect(np.array([math.log(null.by_round[r] / one.by_round[r]) for r in rounds]), level)


def _beside(
    rows: tuple[Measurement | None, Measurement | None], pair: tuple[Series, Series], quantity: Quantity
) -> Beside:
    """Limits, clocks and drift of two arms."""
    reasons = []
    moves = [moved(np.array(sorted(s.by_round)), s.logs) for s in pair if s.by_round]
    drift = max((math.expm1(move) for move in moves if move is not None), key=abs, default=None)
    if drift is not None and abs(drift) > DRIFT_LIMIT:
        reasons.append("drift")
    one, two = (_clock(row) for row in rows)
    clock = one / two if one and two else None
    if clock is not None and abs(math.log(clock)) > CLOCK_LIMIT:
        reasons.append("clock_variation")
    if quantity.name != "tokens_per_s":
        return Beside(None, None, drift, tuple(reasons))
    roofs = {roof.peaks: roof.limit_ratio for roof in (rows[1].rooflines if rows[1] else ())}
    limit = roofs.get("table") or roofs.get("measured")
    return Beside(limit, clock, drift, tuple(reasons))


def _clock(row: Measurement | None) -> float | None:
    """Median over the windows of their median clock, in MHz."""
    clocks = [w.device.sm_mhz[1] for w in (row.kept if row else ()) if w.device and w.device.sm_mhz]
    return float(np.median(clocks)) if clocks else None


def meters(bench: Bench) -> tuple[str, ...]:
    """Meters that gave energy in any window that counts, in the bench's order."""
    seen = {energy.meter for row in bench.measurements for window in row.kept for energy in window.energy}
    known = [info.id for info in bench.meters]
    return tuple(sorted(seen, key=lambda meter: (known.index(meter) if meter in known else len(known), meter)))


def no_meter(bench: Bench) -> tuple[str, ...]:
    """Why a bench has no energy at all."""
    reasons: Mapping[str, None] = dict.fromkeys(absent.reason for absent in bench.absent)
    return tuple(reasons) or ("no_meter",)
