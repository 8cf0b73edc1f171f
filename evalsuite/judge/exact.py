"""Tests and intervals for paired right/wrong answers that hold at any number of items.

Every function takes the two counts in which the arms disagree: `b` items that the baseline got right and the candidate
wrong, `c` items the other way round, out of `n`. The change of accuracy is delta = (c - b) / n.

The verdict rests on `exact_p`. It orders all tables (b', c') by Tango's score statistic, adds up the probability of
those at least as extreme as the one seen, and takes the largest such sum over the unknown share psi of items on which
the arms disagree. No approximation is involved, so the error rate holds for 10 items as for 10,000. The score statistic
orders tables by a Barnard convex statistic, hence the largest sum over "delta <= d0" lies on delta = d0 (Hsueh, Liu &
Chen, Biometrics 2001 57:478), and one dimension, psi, is left to search.

The score interval (`tango_ci`) is for reading; it is asymptotic and no verdict depends on it.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, bdtrc, betainc, betaincinv, gammaln, ndtri

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

NEAR_ALPHA = 0.002
"""Within this distance of alpha the supremum is searched again on `FINE_GRID` points (statistics, section 16)."""
FINE_GRID = 1500
# Mass of a binomial that may be left out on each side: exp(-32) = 1.3e-14. Both sides of the outer sum and one of the
# inner are added back, so a p-value is never understated, and never 0.
_TAIL_NATS = 32.0
_LEFT_OUT = 3 * float(np.exp(-_TAIL_NATS))
# Two tables whose statistics agree to this much are tied: both count as extreme, so rounding never lowers a p-value.
_TIE = 1e-10


def check_counts(n: int, b: int, c: int) -> None:
    """Raise ValueError unless `b` and `c` are counts of disjoint items among `n`."""
    if min(n, b, c) < 0 or b + c > n:
        raise ValueError(f"not a paired table: n={n}, b={b}, c={c} (all at least 0, b + c at most n)")


def check_margin(m: float) -> None:
    """Raise ValueError unless the margin is a fraction in (0, 0.5)."""
    if not 0 < m < 0.5:
        raise ValueError(f"margin {m}: a fraction in (0, 0.5) is needed (0.02 is two points)")


def check_alpha(alpha: float) -> None:
    """Raise ValueError unless the one-sided error rate lies in (0, 0.5)."""
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha {alpha}: a number in (0, 0.5) is needed")


def restricted_p10(b: FloatArray, c: FloatArray, n: float, d0: float) -> FloatArray:
    """Maximum-likelihood share of regressions when the change is fixed at `d0` (Tango, Stat Med 1998 17:891)."""
    B = -(b + c) + (2 * n - c + b) * d0
    C = -b * d0 * (1 - d0)
    root = np.sqrt(np.maximum(B * B - 8 * n * C, 0.0))
    # Two forms of the same root: each is used where it does not subtract nearly equal numbers.
    with np.errstate(divide="ignore", invalid="ignore"):
        p10 = np.where(B > 0, -2 * C / (B + root), (root - B) / (4 * n))
    return np.maximum(p10, max(0.0, -d0))


@overload
def tango_z(b: float, c: float, n: float, d0: float) -> float: ...
@overload
def tango_z(b: FloatArray, c: FloatArray, n: float, d0: float) -> FloatArray: ...
def tango_z(b: float | FloatArray, c: float | FloatArray, n: float, d0: float) -> float | FloatArray:
    """Score statistic of "delta = d0": positive where the table shows a better candidate than `d0` says.

    `b`, `c`: numbers or arrays of one shape; `n`: items, above 0; `d0`: a fraction in [-1, 1]. Without variance the
    result is +inf, -inf or 0 by the sign of the numerator. Source: Tango, Stat Med 1998 17:891.
    """
    b_, c_ = np.asarray(b, np.float64), np.asarray(c, np.float64)
    numerator = c_ - b_ - n * d0
    variance = n * (2 * restricted_p10(b_, c_, n, d0) + d0 * (1 - d0))
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(variance > 0, numerator / np.sqrt(np.maximum(variance, 0.0)), np.sign(numerator) * np.inf)
    z = np.where(numerator == 0, 0.0, z)
    return float(z) if z.ndim == 0 else z


def tango_ci(b: int, c: int, n: int, level: float = 0.90) -> tuple[float, float]:
    """Score interval of the change, `{d : |z(d)| <= z_(1+level)/2}`, as fractions. (-1, 1) for no items.

    The 90 % interval is the one that belongs to two one-sided tests at 5 %. Asymptotic: for reading, not for verdicts.
    """
    check_counts(n, b, c)
    if n == 0:
        return (-1.0, 1.0)
    estimate = (c - b) / n
    critical = float(ndtri((1 + level) / 2))

    def solve(outside: float, sign: float) -> float:
        """The end between the estimate (inside) and -1 or 1 (outside), by bisection: z may be infinite there."""
        inside = estimate
        for _ in range(60):
            middle = (inside + outside) / 2
            if sign * tango_z(b, c, n, middle) <= critical:
                inside = middle
            else:
                outside = middle
        return (inside + outside) / 2

    return (solve(-1.0, 1.0), solve(1.0, -1.0))


def exact_p(
    b: int, c: int, n: int, m: float, side: Literal["safe", "unsafe"] = "safe", *, gamma: float = 0.0, grid: int = 200
) -> float:
    """Exact unconditional p-value of "the loss is at least `m`" (side `safe`) or "at most `m`" (side `unsafe`).

    `m`: margin, a fraction in (0, 0.5). `gamma` > 0 restricts the search to a 1 - gamma interval of psi and adds gamma
    (Berger & Boos 1994); 0, the default, keeps p monotone in `b` and `c`. `grid`: points of psi searched. ValueError
    for impossible counts or margins. 1.0 for no items. Source: statistics, section 3.2.
    """
    check_counts(n, b, c)
    check_margin(m)
    if n == 0:
        return 1.0
    # "At most m is lost" mirrors "at least m is gained": swap the arms and the same code serves both sides.
    b, c, d0 = (b, c, -m) if side == "safe" else (c, b, m)
    low, high = abs(d0), 1.0
    if gamma > 0:
        low, high = _psi_interval(b + c, n, gamma, low)
    psi = low + (high - low) * np.linspace(0.0, 1.0, grid) ** 2  # denser at the low end, where p changes fastest
    first_extreme = _first_extreme_c(n, d0, tango_z(float(b), float(c), n, d0))
    tail = _tail_probability(n, first_extreme, ((psi - d0) / 2, (psi + d0) / 2))
    return min(1.0, float(tail.max()) + gamma + _LEFT_OUT)


def settled_p(b: int, c: int, n: int, m: float, side: Literal["safe", "unsafe"], *, alpha: float) -> float:
    """`exact_p`, searched on a finer grid where the coarse one (off by at most 0.0005) could be on the wrong side."""
    p = exact_p(b, c, n, m, side)
    if abs(p - alpha) < NEAR_ALPHA:
        p = max(p, exact_p(b, c, n, m, side, grid=FINE_GRID))
    return p


def _psi_interval(flips: int, n: int, gamma: float, floor: float) -> tuple[float, float]:
    """Clopper-Pearson 1 - gamma interval of psi, cut to [floor, 1]."""
    low = float(betaincinv(flips, n - flips + 1, gamma / 2)) if flips > 0 else 0.0
    high = float(betaincinv(flips + 1, n - flips, 1 - gamma / 2)) if flips < n else 1.0
    return max(low, floor), max(high, floor)


def exact_power(n: int, m: float, psi: float, delta: float = 0.0, alpha: float = 0.05) -> float:
    """Probability that `exact_p` of `n` items says SAFE at `alpha` when the truth is `delta` and `psi`: no simulation.

    `psi` is raised to |delta| where it is smaller, which it cannot be. Half a second for a new (n, m, alpha).
    """
    psi = max(psi, abs(delta))
    p10, p01 = np.array([(psi - delta) / 2]), np.array([(psi + delta) / 2])
    return float(_tail_probability(n, _first_extreme_c(n, -m, critical_z(n, m, alpha)), (p10, p01))[0])


@lru_cache(maxsize=256)
def critical_z(n: int, m: float, alpha: float = 0.05) -> float:
    """The score statistic from which on `exact_p` of `n` items is at most `alpha` (side `safe`); infinite if never.

    The exact p-value depends on the statistic alone and falls with it, so bisection finds the border.
    """
    check_margin(m)
    check_alpha(alpha)
    psi = m + (1 - m) * np.linspace(0.0, 1.0, 200) ** 2
    low, high = 0.0, max(10.0, 2 * float(tango_z(0.0, float(n), n, -m)))
    for _ in range(45):
        middle = (low + high) / 2
        tail = _tail_probability(n, _first_extreme_c(n, -m, middle), ((psi + m) / 2, (psi - m) / 2))
        low, high = (low, middle) if float(tail.max()) + _LEFT_OUT <= alpha else (middle, high)
    return high


def _tail_probability(n: int, first_extreme: IntArray, truth: tuple[FloatArray, FloatArray]) -> FloatArray:
    """P(c' >= first_extreme[b']) for every pair of `truth`, that is (p10, p01)."""
    p10, p01 = truth
    point, rows = _rows_that_matter(n, p10)
    q10 = p10[point]
    left = n - rows
    log_factorial = gammaln(np.arange(n + 1) + 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_row = (
            log_factorial[n] - log_factorial[rows] - log_factorial[left] + rows * np.log(q10) + left * np.log1p(-q10)
        )
    share = np.clip(p01[point] / (1 - q10), 0.0, 1.0)
    tail = _at_least(first_extreme[rows], left, share)
    weight = np.where(q10 > 0, np.exp(log_row), np.where(rows == 0, 1.0, 0.0))
    return np.bincount(point, weights=weight * tail, minlength=len(p10)).astype(np.float64)


def _first_extreme_c(n: int, d0: float, observed: float) -> IntArray:
    """For every b' in 0..n: the smallest c' whose statistic reaches `observed`; n - b' + 1 where none does."""
    rows = np.arange(n + 1, dtype=np.float64)
    threshold = observed - _TIE * (1 + abs(observed))
    low, high = np.zeros(n + 1, np.int64), np.arange(n + 1, 0, -1, dtype=np.int64)
    while bool(np.any(low < high)):  # integer bisection: the statistic increases in c'
        middle = (low + high) // 2
        extreme = (tango_z(rows, middle.astype(np.float64), n, d0) >= threshold) | (middle >= high)
        low, high = np.where(extreme, low, middle + 1), np.where(extreme, np.minimum(middle, high), high)
    return high


def _spread(n: IntArray | int, p: FloatArray) -> FloatArray:
    """Distance from the mean beyond which a binomial has at most exp(-32) of its mass (Bernstein's inequality)."""
    return _TAIL_NATS / 3 + np.sqrt(_TAIL_NATS**2 / 9 + 2 * _TAIL_NATS * n * p * (1 - p))


def _rows_that_matter(n: int, p10: FloatArray) -> tuple[IntArray, IntArray]:
    """All pairs (grid point, b') whose b' has more than negligible probability, as two flat arrays.

    With what is left out bounded for every grid point, 14,042 items cost little more than 1,000.
    """
    spread = _spread(n, p10)
    first = np.maximum(0, np.floor(n * p10 - spread)).astype(np.int64)
    last = np.minimum(n, np.ceil(n * p10 + spread)).astype(np.int64)
    lengths = last - first + 1
    point = np.repeat(np.arange(len(p10)), lengths)
    start = np.repeat(np.cumsum(lengths) - lengths, lengths)
    return point, np.arange(len(point)) - start + first[point]


def _at_least(needed: IntArray, left: IntArray, share: FloatArray) -> FloatArray:
    """P(Bin(left, share) >= needed), elementwise; certain and impossible cases skip the incomplete beta function."""
    mean, spread = left * share, _spread(left, share)
    tail = np.where((needed <= 0) | (needed < mean - spread), 1.0, 0.0)
    open_ = (tail == 0) & (needed <= left) & (needed <= mean + spread)
    tail[open_] = betainc(needed[open_], left[open_] - needed[open_] + 1, share[open_])
    return tail


def mcnemar_exact(b: int, c: int, alternative: Literal["greater", "less", "two-sided"] = "greater") -> float:
    """Exact McNemar p-value: is `b` (regressions) too large for a fair coin over the b + c items that differ?

    `greater`: more regressions than improvements; `less`: fewer; `two-sided`: either. 1.0 where nothing differs.
    """
    check_counts(b + c, b, c)
    upper = float(bdtrc(b - 1, b + c, 0.5)) if b > 0 else 1.0
    lower = float(bdtr(b, b + c, 0.5))
    if alternative == "two-sided":
        return min(1.0, 2 * min(upper, lower))
    return upper if alternative == "greater" else lower


def wilson(k: float, n: int, level: float = 0.90) -> tuple[float, float]:
    """Wilson's score interval of a share, from `k` of `n`. (0, 1) for no items."""
    if n == 0:
        return (0.0, 1.0)
    z = float(ndtri((1 + level) / 2))
    share, shrink = k / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / shrink
    half = z / shrink * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    return (max(0.0, centre - half), min(1.0, centre + half))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: the chance of one or more false alarms over all of them holds."""
    adjusted, running = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        running = max(running, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = running
    return adjusted


def poisson_binomial(pi: Sequence[float] | FloatArray) -> FloatArray:
    """Distribution of the number of successes of independent trials with chances `pi`: array of len(pi) + 1."""
    pmf = np.ones(1)
    for chance in np.asarray(pi, np.float64):
        pmf = np.append(pmf * (1 - chance), 0.0) + np.append(0.0, pmf * chance)
    return pmf
