"""Evidence that may be looked at after any item: betting (e-processes) and confidence sequences.

A gambler starts with 1 and bets, item by item, that the candidate is better than the hypothesis says. If the hypothesis
"the change is at most d0" is true the game is unfair to the gambler, so the wealth E exceeds 1/alpha with probability
at most alpha, however often one looks and whenever one stops (Ville's inequality; Waudby-Smith & Ramdas, arXiv
2010.09686). SAFE is said when the wealth against d0 = -m reaches 1/alpha; UNSAFE comes from the same code with the arms
swapped and d0 = +m.

One stake must be fixed in advance; a mixture over several (`design_mixture`) loses little against the best one. For
right/wrong answers the wealth depends on the counts only, so it is resumable and does not care about order. All results
are natural logarithms: wealth overflows.

The signatures are those of the specification (section 13): `U` are stakes in (0, 1), `W` their weights, summing to 1.
"""

import math
from collections.abc import Callable

import numpy as np

from evalsuite.judge.exact import FloatArray, check_alpha, check_counts, check_margin


def design_mixture(m: float, psi_plan: float) -> tuple[FloatArray, FloatArray]:
    """Stakes and weights for margin `m`: 12 log-spaced from m / 0.3 to 0.95, and with half the weight the design stake.

    `psi_plan`: expected share of items on which the arms differ, declared before the run. Both arrays have 13 entries.
    """
    check_margin(m)
    if not 0 < psi_plan <= 1:
        raise ValueError(f"psi_plan {psi_plan}: a share in (0, 1] is needed")
    stakes = np.append(np.geomspace(min(m / 0.3, 0.95), 0.95, 12), min(0.95, m / psi_plan))
    return stakes, np.append(np.full(12, 1 / 24), 0.5)


def log_mixture(log_e: FloatArray, W: FloatArray) -> float:
    """Logarithm of the weighted mean of `exp(log_e)`, without overflow."""
    top = float(np.max(log_e))
    if math.isinf(top):
        return top
    return top + math.log(float(np.sum(W * np.exp(log_e - top))))


def log_e_stakes(n: int, b: int, c: int, d0: float, U: FloatArray) -> FloatArray:
    """Log-wealth of every single stake after `n` items with `b` regressions and `c` improvements."""
    stay, price = 1 - U, 1 + d0
    log_e: FloatArray = b * np.log(stay) + (n - b - c) * np.log(stay + U / price) + c * np.log(stay + 2 * U / price)
    return log_e


def log_e_counts(n: int, b: int, c: int, d0: float, U: FloatArray, W: FloatArray) -> float:
    """Log-wealth against "the change is at most `d0`" from the counts alone. 0 for no items.

    `d0`: a fraction in (-1, 1). For UNSAFE swap `b` and `c` and pass the margin as `d0`. Source: section 5.1.
    """
    check_counts(n, b, c)
    if not -1 < d0 < 1:
        raise ValueError(f"d0 {d0}: a change in (-1, 1) is needed")
    return log_mixture(log_e_stakes(n, b, c, d0, U), W)


def log_e_scores(x: FloatArray, mu0: float, U: FloatArray, W: FloatArray, lo: float = -1.0) -> float:
    """Log-wealth against "the mean of `x` is at most `mu0`", for independent values of any kind not below `lo`.

    For differences of means over k samples (lo = -1), soft scores, clusters, or recovery contrasts (lo = -r).
    ValueError if a value lies below `lo`: the bound was not one, and the error rate would not hold.
    """
    values = np.asarray(x, np.float64)
    if mu0 <= lo:
        raise ValueError(f"mu0 {mu0} must lie above the smallest possible value {lo}")
    if values.size and float(values.min()) < lo - 1e-12:
        raise ValueError(f"a value of {float(values.min())} lies below the declared bound {lo}")
    # Equal values share one logarithm: scores over k samples take few values, items are many.
    levels, counts = np.unique(values, return_counts=True)
    return log_e_weighted(levels, counts.astype(np.float64), mu0, (U, W), lo)


def log_e_weighted(
    levels: FloatArray, counts: FloatArray, mu0: float, mixture: tuple[FloatArray, FloatArray], lo: float
) -> float:
    """`log_e_scores` of a sample in which every level occurs `counts` times."""
    U, W = mixture
    ratio = np.maximum(levels - lo, 0.0) / (mu0 - lo)
    return log_mixture(np.log((1 - U)[:, None] + U[:, None] * ratio) @ counts, W)


def log_e_wor(d: FloatArray, N: int, d0: float, U: FloatArray, W: FloatArray, lo: float = -1.0) -> float:
    """Log-wealth against "over exactly these `N` items the change is at most `d0`", items drawn without replacement.

    `d`: differences of the items seen so far, in the seeded random order, none below `lo`. Valid only if outputs are
    deterministic.
    +inf once what was seen rules the hypothesis out, at the latest after all N items. Source: section 5.4.
    """
    values = np.asarray(d, np.float64)
    if values.size > N:
        raise ValueError(f"{values.size} items seen, but there are only {N}")
    before = np.concatenate([[0.0], np.cumsum(values)])
    left = N - np.arange(values.size + 1, dtype=np.float64)
    # The hypothesis leaves at most this much for the items still unseen, and they give at least `lo` each.
    budget = N * d0 - before
    if bool(np.any(budget < lo * left - 1e-9)):
        return math.inf
    price = np.minimum(budget[:-1] / left[:-1], 1.0) - lo
    # A price of 0 leaves only d = lo, which neither wins nor loses against a hypothesis that predicts it.
    free = price <= 1e-12
    ratio = np.where(free, 1.0, (values - lo) / np.where(free, 1.0, price))
    return log_mixture(np.log((1 - U)[:, None] + U[:, None] * ratio).sum(axis=1), W)


def cs_bounds(n: int, b: int, c: int, alpha: float, U: FloatArray, W: FloatArray) -> tuple[float, float]:
    """Confidence sequence of the change: both one-sided bounds at `alpha` (0.05 gives the 90 % sequence).

    It covers the truth after every item at once. (-1, 1) where nothing can be excluded.
    """
    check_counts(n, b, c)
    check_alpha(alpha)
    level = math.log(1 / alpha)
    lower = lowest_kept(lambda d0: log_e_counts(n, b, c, d0, U, W), level)
    upper = -lowest_kept(lambda d0: log_e_counts(n, c, b, d0, U, W), level)
    return lower, upper


def lowest_kept(log_e: Callable[[float], float], level: float) -> float:
    """The smallest d0 in [-1, 1] that is not excluded; `log_e` decreases in d0, so bisection finds it."""
    low, high = -1.0, 1.0
    for _ in range(50):  # to 1e-15; never at -1 itself, where the price of a bet is 0
        middle = (low + high) / 2
        if log_e(middle) >= level:
            low = middle
        else:
            high = middle
    return (low + high) / 2 if low > -1.0 else -1.0
