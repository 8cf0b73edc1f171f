"""How many items are needed, and what a number of items can show: planning before a run, forecasts after it.

Everything here is a forecast: it spends compute wisely, and no verdict depends on it. `psi` is the share of items on
which the arms differ; it sets the price of a decision. Infinity means that no number of items would do (the assumed
loss is the margin or more); None means that no margin below one half can be certified.
"""

import math

import numpy as np
from scipy.special import ndtri

from evalsuite.judge.exact import FloatArray, check_alpha, check_margin, restricted_p10
from evalsuite.judge.sequential import log_e_stakes


def planning_psi(n: int, flips: int) -> float:
    """Share of differing items to plan with after seeing `flips` of `n`: never 0, even if none was seen."""
    return (flips + 1) / (n + 2)


def n_required(psi: float, m: float, delta: float = 0.0, alpha: float = 0.05, power: float = 0.9) -> float:
    """Items for which the fixed test says SAFE with probability `power` when the true change is `delta`.

    `psi` in (0, 1], `m` a margin, `delta` a fraction (negative is a loss). A whole number, or infinity if
    delta <= -m. Source: section 10 (score test, variance under the hypothesis by restricted maximum likelihood).
    """
    check_margin(m)
    check_alpha(alpha)
    if not (0 < psi <= 1 and 0 < power < 1):
        raise ValueError(f"psi {psi} must lie in (0, 1] and power {power} in (0, 1)")
    if delta <= -m:
        return math.inf
    psi = max(psi, abs(delta))  # a change needs at least as many differing items
    p10, p01 = np.asarray((psi - delta) / 2), np.asarray((psi + delta) / 2)
    under_null = 2 * float(restricted_p10(p10, p01, 1.0, -m)) - m - m * m
    under_truth = psi - delta * delta
    root = float(ndtri(1 - alpha)) * math.sqrt(under_null) + float(ndtri(power)) * math.sqrt(under_truth)
    return math.ceil(max(0.0, root) ** 2 / (m + delta) ** 2)


def n_zero_discordance(m: float, alpha: float = 0.05) -> int:
    """Below this many items no valid test can say SAFE, not even if the arms never differ: ceil(ln alpha / ln(1-m))."""
    check_margin(m)
    check_alpha(alpha)
    return math.ceil(math.log(alpha) / math.log1p(-m))


def certifiable_margin(
    n: int, psi: float, delta: float = 0.0, alpha: float = 0.05, power: float = 0.9
) -> float | None:
    """Smallest margin that `n` items certify with probability `power` at change `delta`; None if none below 0.5 is."""
    low, high = max(0.0, -delta), 0.5 - 1e-9
    if n <= 0 or low >= high or n_required(psi, high, delta, alpha, power) > n:
        return None
    for _ in range(50):
        middle = (low + high) / 2
        if n_required(psi, middle, delta, alpha, power) <= n:
            high = middle
        else:
            low = middle
    return high


def forecast_more(
    n: int, b: int, c: int, m: float, alpha: float, U: FloatArray, W: FloatArray, *,
    delta: float = 0.0, psi: float | None = None,
) -> float:  # fmt: skip
    """Further items after which the sequential design is expected to say SAFE if the true change is `delta`.

    Expected growth of the wealth of every stake, the quickest counts. `psi`: share of differing items from now on; None
    plans with (b + c + 1) / (n + 2). 0 if SAFE is reached already, infinity if it is not to be expected. A median:
    nine in ten runs need less than twice as many. For UNSAFE swap `b` and `c`, pass -m for `m` and -delta for `delta`.
    Source: section 5.5.
    """
    share = planning_psi(n, b + c) if psi is None else psi
    share = max(share, abs(delta))
    p10, p01 = (share - delta) / 2, (share + delta) / 2
    stay, price = 1 - U, 1 - m
    growth = p10 * np.log(stay) + (1 - share) * np.log(stay + U / price) + p01 * np.log(stay + 2 * U / price)
    missing = math.log(1 / alpha) - np.log(W) - log_e_stakes(n, b, c, -m, U)
    if float(missing.min()) <= 0:
        return 0.0
    useful = growth > 0
    return float(np.min(missing[useful] / growth[useful])) if bool(useful.any()) else math.inf
