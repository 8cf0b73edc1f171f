"""What an undecided comparison would need: further items, a fresh plan, and why the data at hand cannot decide.

Forecasts plan with the share of differing items seen, (b + c + 1) / (n + 2), never 0. Further items are those of the
sequential design, which alone may be continued; a fixed plan is not extended but made anew, on new items.
"""

import math
from typing import NamedTuple

from evalsuite.judge.evidence import Evidence, at_best, at_worst
from evalsuite.judge.pairing import Scores
from evalsuite.judge.power import forecast_more, n_required, n_zero_discordance, planning_psi
from evalsuite.judge.sequential import design_mixture
from evalsuite.judge.words import beyond, count, limit, p_value
from evalsuite.records import PairCounts, Plan, Subject


class Case(NamedTuple):
    """Everything a decision is made from."""

    counts: PairCounts
    plan: Plan
    subject: Subject
    scores: Scores | None = None


def finite(x: float | None) -> float | None:
    """None for infinity: it cannot be stored, and "never" is not a number of items."""
    return x if x is not None and math.isfinite(x) else None


def margin(case: Case) -> float:
    """The margin as a fraction; a relative one at the baseline's accuracy."""
    if case.plan.relative is None:
        return case.plan.margin
    accuracy = (case.counts.n11 + case.counts.n10) / max(case.counts.n, 1)
    return min(max((1 - case.plan.relative) * accuracy, 1e-6), 0.499)


def psi(case: Case) -> float:
    """Share of differing items to plan with; for k samples an item the variance of item differences takes its place."""
    share = planning_psi(case.counts.n, case.counts.n10 + case.counts.n01)
    if case.scores is not None and case.scores.repeats > 1 and len(case.scores.base) > 1:
        return max(float(case.scores.worst().var(ddof=1)), planning_psi(case.counts.n, 0))
    return share


def more(case: Case) -> tuple[float | None, float | None]:
    """Further items until SAFE is expected: if nothing changed, and if the change is the one seen. None is "never"."""
    plan, m, worst = case.plan, margin(case), at_worst(case.counts)
    n, b, c = worst.n, worst.n10, worst.n01
    if case.scores is not None and case.scores.repeats > 1:
        seen = float(case.scores.worst().mean())
        needed = [n_required(psi(case), m, delta, plan.alpha_safe, plan.power) for delta in (0.0, seen)]
        return finite(max(0.0, needed[0] - n)), finite(max(0.0, needed[1] - n))
    U, W = design_mixture(m, plan.psi_plan)
    at_zero = forecast_more(n, b, c, m, plan.alpha_safe, U, W)
    at_hat = forecast_more(n, b, c, m, plan.alpha_safe, U, W, delta=(c - b) / n)
    return finite(at_zero), finite(at_hat)


def open_question(case: Case, evidence: Evidence) -> tuple[str, ...]:
    """Why the data cannot decide, and how many more items would."""
    plan, n = case.plan, case.counts.n
    excluded = f"the data neither exclude {limit(plan)} ({p_value(evidence.p_safe)})"
    reasons = [f"{excluded} nor show {beyond(plan)} ({p_value(evidence.p_unsafe)})"]
    floor = n_zero_discordance(margin(case), plan.alpha_safe)
    if n < floor:
        reasons.append(f"if no answer changed at all, this margin would need {floor:,} items to be SAFE")
    low, high = evidence.ci
    return (*reasons, _wanted(case, nothing_changed=low <= 0 <= high))


def _wanted(case: Case, *, nothing_changed: bool) -> str:
    """How many more items would decide if nothing changed; where the data rule that out, if the change is as seen."""
    plan, m = case.plan, margin(case)
    best = at_best(case.counts)
    b, c = best.n10, best.n01
    at_zero, at_hat = more(case)
    items, delta, truth = at_zero, 0.0, "nothing changed"
    if not nothing_changed:
        seen = (case.counts.n01 - case.counts.n10) / case.counts.n
        items, delta, truth = at_hat, seen, "the change is as seen"
    if items is not None:
        fresh = n_required(psi(case), m, delta, plan.alpha_safe, plan.power)
        anew = f", or a fresh fixed plan of {count(fresh)} new ones," if plan.design == "fixed" else ""
        return f"about {count(items)} more items (sequential design){anew} would show SAFE if {truth}"
    if (c - b) / best.n >= -m:
        return "the change seen is the margin itself, so no number of items is expected to decide"
    U, W = design_mixture(m, plan.psi_plan)
    unsafe = forecast_more(best.n, c, b, -m, plan.alpha_unsafe, U, W, delta=(b - c) / best.n)
    if not math.isfinite(unsafe):
        return "no number of items is expected to decide"
    return f"about {count(unsafe)} more items (sequential design) would show UNSAFE if the loss is as seen"
