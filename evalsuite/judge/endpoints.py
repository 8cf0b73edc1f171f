"""What may get worse although accuracy does not: parsability, truncation, length, and the certainty of choices.

Each is a test of its own beside the verdict, which it never changes: answers that can no longer be parsed and answers
that are cut (exact non-inferiority at half a point), longer answers (paired t of the log ratio within 90 to 110 %), and
for multiple choice the probability of the right option (soft accuracy) and the shift of its log-likelihood. Soft scores
see small changes with few items, but they answer another question than accuracy: they warn and never certify.
"""

import math

import numpy as np
from scipy.special import ndtri

from evalsuite.judge.exact import exact_p, tango_ci
from evalsuite.judge.layout import BoolArray, Column, Grid
from evalsuite.judge.means import MIN_ITEMS, t_paired
from evalsuite.records import Endpoint

RATE_LIMIT = 0.005
"""Tolerated rise of the unparsable or truncated share."""
LENGTH_LIMITS = (0.9, 1.1)
"""Tolerated ratio of answer lengths (MLPerf's bounds on tokens a sample)."""
SOFT_LIMIT = 0.01
ALPHA = 0.05


def endpoints(grid: Grid, base: str, cand: str) -> tuple[Endpoint, ...]:
    """All endpoints that the samples hold."""
    one, two = (grid.columns.get(arm, grid.columns[""]) for arm in (base, cand))
    both = ~np.isnan(one.mean) & ~np.isnan(two.mean)
    if not both.any():
        return ()
    found = [
        _rate("unparsable", ~one.first["parsed"][both], ~two.first["parsed"][both]),
        _rate("truncated", one.first["truncated"][both], two.first["truncated"][both]),
    ]
    found += [made for made in (_length(one, two, both), _soft(one, two), _gold(one, two)) if made is not None]
    return tuple(found)


def _rate(name: str, before: BoolArray, after: BoolArray) -> Endpoint:
    """A share that may rise by `RATE_LIMIT`; `before` and `after` mark the bad answers."""
    n, more, fewer = len(before), int((after & ~before).sum()), int((before & ~after).sum())
    low, high = tango_ci(fewer, more, n)
    held, broken = exact_p(more, fewer, n, RATE_LIMIT), exact_p(more, fewer, n, RATE_LIMIT, "unsafe")
    return Endpoint(
        name=name, n=n, base=float(before.mean()), cand=float(after.mean()), change=(more - fewer) / n, ci=(low, high),
        limit=(-1.0, RATE_LIMIT), p=held, state="held" if held <= ALPHA else "broken" if broken <= ALPHA else "open",
    )  # fmt: skip


def _length(one: Column, two: Column, both: BoolArray) -> Endpoint | None:
    """Ratio of answer lengths: the geometric mean over the items that both arms answered with text."""
    used = both & (one.tokens > 0) & (two.tokens > 0) & one.generated
    n = int(used.sum())
    if n < 2:
        return None
    ratio = np.log(two.tokens[used] / one.tokens[used])
    test = t_paired(ratio, 0.0, ALPHA)
    low, high = (math.exp(x) for x in (test.low, test.high)) if test.se > 0 else (math.exp(test.estimate),) * 2
    bounds = [math.log(limit) for limit in LENGTH_LIMITS]
    p_low, p_high = (t_paired(sign * ratio, -sign * bound).p_safe for sign, bound in zip((1, -1), bounds, strict=True))
    p = max(p_low, p_high) if test.se > 0 else float(not LENGTH_LIMITS[0] < low < LENGTH_LIMITS[1])
    outside = high < LENGTH_LIMITS[0] or low > LENGTH_LIMITS[1]
    state = "open" if n < MIN_ITEMS else "held" if p <= ALPHA else "broken" if outside else "open"
    return Endpoint(
        name="length ratio", n=n, base=float(one.tokens[used].mean()), cand=float(two.tokens[used].mean()),
        change=math.exp(test.estimate), ci=(low, high), limit=LENGTH_LIMITS, p=p, state=state,
    )  # fmt: skip


def _soft(one: Column, two: Column) -> Endpoint | None:
    """Probability of the right option among the options."""
    used = ~np.isnan(one.soft) & ~np.isnan(two.soft)
    n = int(used.sum())
    if n < 2:
        return None
    test = t_paired((two.soft - one.soft)[used], SOFT_LIMIT, ALPHA)
    p = test.p_safe if n >= MIN_ITEMS else 1.0
    broken = n >= MIN_ITEMS and test.p_unsafe <= ALPHA
    return Endpoint(
        name="soft accuracy", n=n, base=float(one.soft[used].mean()), cand=float(two.soft[used].mean()),
        change=test.estimate, ci=(test.low, test.high), limit=(-SOFT_LIMIT, 1.0), p=p,
        state="held" if p <= ALPHA else "broken" if broken else "open",
    )  # fmt: skip


def _gold(one: Column, two: Column) -> Endpoint | None:
    """Shift of the right option's log-likelihood, in nats; there is no limit to hold it to."""
    used = ~np.isnan(one.gold) & ~np.isnan(two.gold)
    n = int(used.sum())
    if n < 2:
        return None
    shift = (two.gold - one.gold)[used]
    half = float(ndtri(0.95)) * float(shift.std(ddof=1)) / math.sqrt(n)
    mean = float(shift.mean())
    return Endpoint(
        name="gold log-likelihood", n=n, base=float(one.gold[used].mean()), cand=float(two.gold[used].mean()),
        change=mean, ci=(mean - half, mean + half), limit=None, p=None, state="shown", spread=float(shift.std(ddof=1)),
    )  # fmt: skip
