"""Tests for what is not one right/wrong answer an item: means over k samples, clusters, and recovery.

Items are the unit. k samples of one item are averaged first; pooling n * k rows as if they were items would claim
more than was measured. Items that share a source (a passage, a template) are added up by cluster. These tests are
asymptotic; their sizes were checked by simulation (statistics, sections 3.5 and 4) and the verdict says so. The exact
alternative is `log_e_scores`.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri, stdtr, stdtrit

from evalsuite.judge.exact import FloatArray

MIN_ITEMS = 30
"""Fewer items or clusters than this give no verdict by a t-test."""


class MeanTest(NamedTuple):
    """A test of the mean change against a margin. p-values are 1 where the data cannot carry a test."""

    estimate: float
    """Mean change, as a fraction."""
    se: float
    """Standard error of the estimate."""
    df: int
    low: float
    """Lower end of the 1 - 2 alpha interval."""
    high: float
    p_safe: float
    """Of "the loss is at least the margin"."""
    p_unsafe: float
    """Of "the loss is at most the margin"."""


def _mean_test(estimate: float, se: float, df: int, m: float, alpha: float) -> MeanTest:
    """The t-test of `estimate` against -m, with its interval."""
    if df < 1 or not se > 0:
        return MeanTest(estimate, se, df, -1.0, 1.0, 1.0, 1.0)
    t = (estimate + m) / se
    half = float(stdtrit(df, 1 - alpha)) * se
    return MeanTest(
        estimate, se, df, estimate - half, estimate + half, float(stdtr(df, -t)), float(stdtr(df, t))
    )


def t_paired(d: FloatArray, m: float, alpha: float = 0.05) -> MeanTest:
    """Paired t-test of item differences `d` (candidate minus baseline, each a mean over samples) against margin `m`.

    `d`: n values in [-1, 1]. Size 4.5 to 5.6 % from 100 items on; without spread it cannot decide (p = 1). Source: 4.1.
    """
    values = np.asarray(d, np.float64)
    n = values.size
    if n < 2:
        return _mean_test(float(values.sum()), 0.0, n - 1, m, alpha)
    return _mean_test(float(values.mean()), float(values.std(ddof=1)) / math.sqrt(n), n - 1, m, alpha)


def cluster_t(D: FloatArray, size: FloatArray, m: float, alpha: float = 0.025) -> MeanTest:
    """t-test of the mean change when items come in clusters.

    `D`: sum of the item differences of each of G clusters; `size`: their items. df = G - 1. The default alpha is half
    the usual one because the test is too eager with uneven clusters; below 30 clusters no verdict should rest on it.
    Source: 4.2 (equals a clustered ordinary least squares regression on a constant).
    """
    sums, sizes = np.asarray(D, np.float64), np.asarray(size, np.float64)
    if sums.shape != sizes.shape or sums.ndim != 1:
        raise ValueError(f"one sum and one size a cluster are needed, got shapes {sums.shape} and {sizes.shape}")
    G, n = sums.size, float(sizes.sum())
    if n <= 0 or float(sizes.min()) <= 0:
        raise ValueError("every cluster needs at least one item")
    estimate = float(sums.sum()) / n
    spread = float(np.sum((sums - estimate * sizes) ** 2))
    se = math.sqrt(G / (G - 1) * spread) / n if G > 1 else 0.0
    return _mean_test(estimate, se, G - 1, m, alpha)


class Variances(NamedTuple):
    """Where the spread of item differences comes from."""

    between: float
    """Variance over items of the true change (tau squared): more samples an item do not reduce it."""
    within_base: float
    """Mean variance of one baseline sample around its item's mean."""
    within_cand: float


def variance_components(base_k: FloatArray, cand_k: FloatArray) -> Variances:
    """Split the variance of item differences into items and samples.

    `base_k`, `cand_k`: arrays of (items, samples), at least 2 x 2; numbers of samples may differ between the arms.
    Variances are of scores, without unit. Source: 4.1.
    """
    base, cand = np.asarray(base_k, np.float64), np.asarray(cand_k, np.float64)
    if base.ndim != 2 or cand.ndim != 2 or len(base) != len(cand):
        raise ValueError(f"two (items, samples) arrays of the same items are needed, got {base.shape} and {cand.shape}")
    if min(base.shape + cand.shape) < 2:
        raise ValueError("at least 2 items and 2 samples an item are needed to tell items from samples")
    within_base, within_cand = float(base.var(axis=1, ddof=1).mean()), float(cand.var(axis=1, ddof=1).mean())
    total = float((cand.mean(axis=1) - base.mean(axis=1)).var(ddof=1))
    sampling = within_base / base.shape[1] + within_cand / cand.shape[1]
    return Variances(max(0.0, total - sampling), within_base, within_cand)


def recovery_z(n11: int, c: int, b: int, n00: int, r: float) -> float:
    """Score statistic of "the candidate keeps the share `r` of the baseline's accuracy"; positive where it keeps more.

    `n11`, `n00`: items that both arms got right, wrong; `c` improvements; `b` regressions; `r` > 0. Infinite or 0
    without variance, by the sign of the numerator. Source: 3.5 (Nam & Blackwelder 2002; Tang et al. 2003).
    """
    n = n11 + c + b + n00
    numerator = (c + n11) - r * (b + n11)
    A, B, C = n * (1 + r), (n11 + b) * r * r - (n11 + c + 2 * b), b * (1 - r) * (n11 + b + c) / max(n, 1)
    q10 = (-B + math.sqrt(max(0.0, B * B - 4 * A * C))) / (2 * A) if n else 0.0
    q01 = max(0.0, (q10 + (r - 1) * (1 - n00 / max(n, 1))) / r)
    variance = n * r * (q10 + q01)
    if numerator == 0:
        return 0.0
    return numerator / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, numerator)


def recovery_ci(n11: int, c: int, b: int, n00: int, level: float = 0.90) -> tuple[float, float]:
    """Score interval of the recovery (candidate's accuracy over the baseline's). (0, inf) without a right answer."""
    if n11 + b == 0:
        return (0.0, math.inf)
    critical = float(ndtri((1 + level) / 2))

    def solve(sign: float) -> float:
        """Bisection on the logarithm of the ratio; z falls as the ratio grows."""
        low, high = -12.0, 12.0
        for _ in range(80):
            middle = (low + high) / 2
            above = recovery_z(n11, c, b, n00, math.exp(middle)) > sign * critical
            low, high = (middle, high) if above else (low, middle)
        return math.exp(low)

    return (solve(1.0), solve(-1.0))
