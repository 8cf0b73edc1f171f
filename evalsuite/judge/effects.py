"""Logarithms of ratios, with their intervals: the arithmetic under every comparison of speed and energy.

Speeds and joules vary by factors, so everything is done in logarithms: a ratio and its reciprocal are the same
finding, and a common factor (the gain error of a power sensor) cancels. Arrays of many series at once are taken
wherever a simulation may want them. Nothing here knows what a window is. Source: measurement, section 3.5.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from evalsuite.judge.exact import FloatArray

LEVEL = 0.95
BCA_FROM = 10
"""Rounds from which a bootstrap interval is given too."""
DRAWS = 9_999
SEED = 20_261_201


class Effect(NamedTuple):
    """A logarithm (or an array of them) with its interval, 95 % unless said otherwise."""

    value: FloatArray
    """Median."""
    low: FloatArray
    high: FloatArray
    half: FloatArray
    """Half-width of the t interval; infinite from one value."""


def effect(y: FloatArray, level: float = LEVEL) -> Effect:
    """Median of `y` (..., n) over its last axis, with the t interval of the mean.

    The median is steady where one round went wrong, the t interval of the mean has the coverage it claims for as few
    as three rounds (the median has no such interval). Where skew puts the median outside it, the interval is widened
    to hold it.
    """
    values = np.asarray(y, np.float64)
    n = values.shape[-1]
    if n == 0:
        raise ValueError("no round to judge")
    middle, mean = np.median(values, axis=-1), values.mean(axis=-1)
    half = np.full_like(mean, math.inf)
    if n > 1:
        half = stdtrit(n - 1, (1 + level) / 2) * values.std(axis=-1, ddof=1) / math.sqrt(n)
    return Effect(middle, np.minimum(mean - half, middle), np.maximum(mean + half, middle), half)


def excludes_none(found: Effect) -> bool:
    """Whether an interval of one logarithm excludes "no change"."""
    return float(found.low) > 0 or float(found.high) < 0


def apart(one: FloatArray, two: FloatArray, level: float = LEVEL) -> Effect:
    """`two` over `one`, rounds not paired (Welch): for points that were not measured in turn."""
    a, b = np.asarray(one, np.float64), np.asarray(two, np.float64)
    middle, mean = float(np.median(b) - np.median(a)), float(b.mean() - a.mean())
    half = math.inf
    if min(len(a), len(b)) > 1:
        va, vb = float(a.var(ddof=1)) / len(a), float(b.var(ddof=1)) / len(b)
        spread = va + vb
        df = spread**2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1)) if spread > 0 else 1.0
        half = float(stdtrit(df, (1 + level) / 2)) * math.sqrt(spread)
    ends = (min(mean - half, middle), max(mean + half, middle))
    return Effect(*(np.asarray(x, np.float64) for x in (middle, *ends, half)))


def bca(y: FloatArray) -> tuple[float, float] | None:
    """Bias-corrected, accelerated bootstrap interval of the mean of `y`; None below `BCA_FROM` values.

    It shows whether skew matters. Of the mean, not of the median: the resampled medians of ten values are a handful
    of numbers, and their interval jumps between them. Seeded, over sorted values: the order of rounds is nothing to it.
    """
    values = np.sort(np.asarray(y, np.float64))
    if len(values) < BCA_FROM:
        return None
    if values[0] == values[-1]:
        return (float(values[0]), float(values[0]))
    from scipy import stats  # takes a while to import, and few benches have so many rounds

    made = stats.bootstrap(
        (values,), np.mean, confidence_level=LEVEL, n_resamples=DRAWS, method="BCa", vectorized=True,
        random_state=np.random.default_rng(SEED),
    )  # fmt: skip
    low, high = (float(x) for x in made.confidence_interval)
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None


def moved(rounds: FloatArray, y: FloatArray) -> float | None:
    """How far the logarithms `y` moved over their rounds: slope of a straight line times the rounds it spans."""
    at, values = np.asarray(rounds, np.float64), np.asarray(y, np.float64)
    if len(at) < 3:
        return None
    centred = at - at.mean()
    return float(centred @ values / (centred @ centred)) * float(at.max() - at.min() + 1)
