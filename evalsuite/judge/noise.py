"""How much of a candidate's flipping is noise: the baseline twice and the candidate once, item by item.

A flip is an item on which two runs differ: in correctness, or, more sensitive, in the answer given. Two runs of the
baseline flip too (other batches, other kernels). If the candidate were just another run of the baseline, then of the
items on which exactly one of "candidate against first run" and "second run against first run" flips, either would be as
likely: a sign test, exact given the items. Noise does not bias the change of accuracy, it costs power; nothing is ever
subtracted from a change. Source: statistics, section 7.
"""

import math

import numpy as np
from scipy.special import stdtrit

from evalsuite.judge.exact import IntArray, mcnemar_exact
from evalsuite.judge.layout import BoolArray, Grid
from evalsuite.judge.words import beyond_noise
from evalsuite.records import Excess, Flips

LEVEL = 0.90


def excess_flips(grid: Grid, first: str, second: str, candidate: str) -> Excess | None:
    """The triple test on the items that all three arms answered; None if there is none.

    `first`, `second`: the baseline's two runs. With several samples an item the first ones are compared.
    """
    one, two, cand = (grid.columns.get(arm, grid.columns[""]) for arm in (first, second, candidate))
    used = ~(np.isnan(one.mean) | np.isnan(two.mean) | np.isnan(cand.mean))
    if not used.any():
        return None

    def compare(a: IntArray, b: IntArray, c: IntArray) -> Flips:
        return triple_test((a != b)[used], (a != c)[used])

    right = [column.first["correct"].astype(np.int64) for column in (one, two, cand)]
    answers = [column.answer for column in (one, two, cand) if column.answer is not None]
    correct, given = compare(*right), compare(*answers) if len(answers) == 3 else None
    return Excess(n=int(used.sum()), correct=correct, answers=given, sentence=beyond_noise(correct, given))


def triple_test(noise: BoolArray, change: BoolArray) -> Flips:
    """The sign test. `noise`: items that differ between the baseline's runs; `change`: first run against candidate."""
    n, x, y = len(noise), int((change & ~noise).sum()), int((noise & ~change).sum())
    difference = change.astype(np.float64) - noise
    half = float(stdtrit(n - 1, (1 + LEVEL) / 2)) * float(difference.std(ddof=1)) / math.sqrt(n) if n > 1 else 1.0
    excess = float(difference.mean())
    return Flips(
        aa=float(noise.mean()), ab=float(change.mean()), excess=excess, ci=(excess - half, excess + half),
        p=mcnemar_exact(x, y),
    )  # fmt: skip

