"""What the data say for and against a loss: two p-values and an interval, by the method that the plan names.

    plan                                method                                        guarantee
    fixed, population                   exact unconditional test                      finite-sample
    fixed, benchmark                    all items measured: the change is known       finite-sample
    fixed, k samples an item            paired t-test of item means                   asymptotic
    fixed, clusters                     t-test of cluster sums, twice its p; and the
                                        exact test of the items                       asymptotic
    fixed, relative                     score test of the ratio (t-test for k > 1)    asymptotic
    sequential, population              betting on items (any scores, relative too)   anytime
    sequential, benchmark               the same without replacement, in seeded order anytime

Missing answers are taken at their worst on each side: for SAFE an absent candidate answer is wrong and an absent
baseline answer right; for UNSAFE the opposite. The interval spans both. In a sequential plan the p-value is 1 / wealth.
"""

import math
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import ndtr

from evalsuite.judge.exact import FloatArray, check_alpha, check_margin, settled_p, tango_ci
from evalsuite.judge.means import MIN_ITEMS, MeanTest, cluster_t, recovery_z, t_paired
from evalsuite.judge.pairing import Scores
from evalsuite.judge.power import n_zero_discordance
from evalsuite.judge.sequential import design_mixture, log_e_scores, log_e_weighted, log_e_wor, lowest_kept
from evalsuite.records import PairCounts, Plan

CI_ALPHA = 0.05
"""Intervals are 90 % everywhere: the two one-sided 5 % tests."""


class Evidence(NamedTuple):
    """The numbers a verdict rests on."""

    p_safe: float
    p_unsafe: float
    ci: tuple[float, float]
    ci_kind: str
    guarantee: Literal["finite-sample", "anytime", "asymptotic"]
    ln_e_safe: float | None = None
    ln_e_unsafe: float | None = None


def check_plan(plan: Plan) -> None:
    """ValueError for a margin outside (0, 0.5), an alpha outside (0, 0.5), a recovery outside (0, 1)."""
    check_margin(plan.margin)
    check_alpha(plan.alpha_safe)
    check_alpha(plan.alpha_unsafe)
    if plan.relative is not None and not 0 < plan.relative < 1:
        raise ValueError(f"relative {plan.relative}: a recovery in (0, 1) is needed (0.99 keeps 99 % of the accuracy)")


def at_worst(counts: PairCounts) -> PairCounts:
    """The table with every missing answer counted against the candidate; unknown details are taken at their worst."""
    only_cand, only_base = counts.missing_cand - counts.missing_both, counts.missing_base - counts.missing_both
    lost = only_cand if counts.base_right_cand_missing is None else counts.base_right_cand_missing
    kept = 0 if counts.cand_right_base_missing is None else counts.cand_right_base_missing
    return _plus(counts, n11=kept, n10=lost + only_base - kept, n00=only_cand - lost)


def at_best(counts: PairCounts) -> PairCounts:
    """The table with every missing answer counted for the candidate; unknown details are taken at their best."""
    only_cand, only_base = counts.missing_cand - counts.missing_both, counts.missing_base - counts.missing_both
    kept = 0 if counts.base_right_cand_missing is None else counts.base_right_cand_missing
    won = only_base if counts.cand_right_base_missing is None else counts.cand_right_base_missing
    return _plus(counts, n11=kept, n01=only_cand - kept + won, n00=only_base - won)


def _plus(counts: PairCounts, n11: int = 0, n10: int = 0, n01: int = 0, n00: int = 0) -> PairCounts:
    return PairCounts(
        n=counts.n + n11 + n10 + n01 + n00,
        n11=counts.n11 + n11, n10=counts.n10 + n10, n01=counts.n01 + n01, n00=counts.n00 + n00,
    )  # fmt: skip


def weigh(counts: PairCounts, plan: Plan, scores: Scores | None = None) -> Evidence:
    """Weigh a table of at least one item. `scores`: for k samples an item and for drawing without replacement."""
    low, high = at_worst(counts), at_best(counts)
    sampled = scores is not None and scores.repeats > 1
    if plan.design == "sequential":
        return _bet(low, high, plan, scores)
    if scores is not None and scores.cluster is not None:
        return _clustered(low, high, plan, scores)
    if scores is not None and sampled:
        return _t_test(scores, plan)
    if plan.estimand == "benchmark":
        return _known(low, high, plan)
    ci = (tango_ci(low.n10, low.n01, low.n)[0], tango_ci(high.n10, high.n01, high.n)[1])
    if plan.relative is not None:
        return _recover(low, high, plan, ci)
    return Evidence(
        settled_p(low.n10, low.n01, low.n, plan.margin, "safe", alpha=plan.alpha_safe),
        settled_p(high.n10, high.n01, high.n, plan.margin, "unsafe", alpha=plan.alpha_unsafe),
        ci, "score", "finite-sample",
    )  # fmt: skip


def _recover(low: PairCounts, high: PairCounts, plan: Plan, ci: tuple[float, float]) -> Evidence:
    """Score tests of the ratio. Asymptotic, so SAFE also needs the items without which no valid test could say it."""
    r = plan.relative or 1.0
    z_low = recovery_z(low.n11, low.n01, low.n10, low.n00, r)
    z_high = recovery_z(high.n11, high.n01, high.n10, high.n00, r)
    p_safe, margin = float(ndtr(-z_low)), (1 - r) * (low.n11 + low.n10) / low.n
    if not 0 < margin < 0.5 or low.n < n_zero_discordance(margin, plan.alpha_safe):
        p_safe = 1.0
    return Evidence(p_safe, float(ndtr(z_high)), ci, "score", "asymptotic")


def _known(low: PairCounts, high: PairCounts, plan: Plan) -> Evidence:
    """All items of the benchmark were measured: nothing is left to chance."""
    r = 1.0 if plan.relative is None else plan.relative
    m = plan.margin if plan.relative is None else 0.0

    def excess(t: PairCounts) -> float:
        """How much better than the limit, in items; rounded so that an exact hit is one."""
        return round(t.n11 + t.n01 - r * (t.n11 + t.n10) + m * t.n, 9)

    change = ((low.n01 - low.n10) / low.n, (high.n01 - high.n10) / high.n)
    return Evidence(
        0.0 if excess(low) > 0 else 1.0, 0.0 if excess(high) < 0 else 1.0, change, "all items", "finite-sample"
    )


def _t_test(scores: Scores, plan: Plan) -> Evidence:
    """Paired t-tests of item means; too few items, or no spread, decide nothing."""
    r, m = (1.0, plan.margin) if plan.relative is None else (plan.relative, 0.0)
    low, high = t_paired(scores.worst(), m, CI_ALPHA), t_paired(scores.best(), m, CI_ALPHA)
    p_safe, p_unsafe = t_paired(scores.worst(r), m).p_safe, t_paired(scores.best(r), m).p_unsafe
    if len(scores.base) < MIN_ITEMS:
        p_safe = p_unsafe = 1.0
    return Evidence(p_safe, p_unsafe, (low.low, high.high), "paired t", "asymptotic")


def _clustered(low: PairCounts, high: PairCounts, plan: Plan, scores: Scores) -> Evidence:
    """t-tests over clusters. With uneven clusters they are too eager, so half of alpha is spent (statistics, 4.2);
    where few items differ they are blind, so the exact test of the items must agree."""
    r, m = (1.0, plan.margin) if plan.relative is None else (plan.relative, 0.0)
    assert scores.cluster is not None
    members = pd.factorize(scores.cluster)[0]
    size = np.bincount(members).astype(np.float64)

    def test(d: FloatArray, margin: float) -> MeanTest:
        return cluster_t(np.bincount(members, weights=d).astype(np.float64), size, margin, CI_ALPHA)

    p_safe, p_unsafe = min(1.0, 2 * test(scores.worst(r), m).p_safe), min(1.0, 2 * test(scores.best(r), m).p_unsafe)
    if scores.repeats == 1 and plan.relative is None:
        p_safe = max(p_safe, settled_p(low.n10, low.n01, low.n, m, "safe", alpha=plan.alpha_safe))
        p_unsafe = max(p_unsafe, settled_p(high.n10, high.n01, high.n, m, "unsafe", alpha=plan.alpha_unsafe))
    if len(size) < MIN_ITEMS:
        p_safe = p_unsafe = 1.0
    ci = (test(scores.worst(), 0.0).low, test(scores.best(), 0.0).high)
    return Evidence(p_safe, p_unsafe, ci, "cluster t", "asymptotic")


def _bet(low: PairCounts, high: PairCounts, plan: Plan, scores: Scores | None) -> Evidence:
    """Wealth against "the loss is at least the margin" and against "at most the margin", and the interval it leaves."""
    r, mu0 = (1.0, -plan.margin) if plan.relative is None else (plan.relative, 0.0)
    U, W = design_mixture(plan.margin if plan.relative is None else min(1 - r, 0.49), plan.psi_plan)
    without_replacement = plan.estimand == "benchmark"
    if scores is None and without_replacement:
        raise ValueError("a sequential benchmark plan needs the item scores in their order, not only the counts")
    N = plan.n_planned if plan.n_planned is not None else low.n

    def wealth(sign: int, ratio: float, limit: float, bound: float) -> float:
        """Log-wealth against "the mean of sign * (candidate - ratio * baseline) is at most limit"."""
        if scores is None or (scores.repeats <= 1 and not without_replacement):
            table = low if sign > 0 else high
            levels = sign * np.array([1 - ratio, -ratio, 1.0, 0.0])
            weights = np.array([table.n11, table.n10, table.n01, table.n00], np.float64)
            return log_e_weighted(levels, weights, limit, (U, W), bound)
        x: FloatArray = scores.worst(ratio) if sign > 0 else -scores.best(ratio)
        if without_replacement:
            return log_e_wor(x, max(N, len(x)), limit, U, W, bound)
        return log_e_scores(x, limit, U, W, bound)

    safe, unsafe = wealth(1, r, mu0, -r), wealth(-1, r, -mu0, -1.0)
    level = math.log(1 / CI_ALPHA)
    ci = (
        lowest_kept(lambda d: wealth(1, 1.0, d, -1.0), level),
        -lowest_kept(lambda d: wealth(-1, 1.0, d, -1.0), level),
    )
    return Evidence(
        min(1.0, math.exp(-safe)), min(1.0, math.exp(-unsafe)), ci, "confidence sequence", "anytime", safe, unsafe
    )
