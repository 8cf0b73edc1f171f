"""One decision: paired counts and a plan in, SAFE, UNSAFE, INCONCLUSIVE or INVALID out, with every number it rests on.

SAFE needs proof that the loss is below the margin; UNSAFE needs proof that it is above. Neither proof is INCONCLUSIVE,
with the number of items that would be needed; "no significant difference" is never an argument, because with few items
there is never one. INVALID means that the data cannot carry a verdict at all. `decide` is a pure function: the same
counts under the same plan give the same decision, and everything people or programs see is made from it.

Order of the rules: more than 2 % of the items missing in either arm (INVALID); no items (NO_DATA); a fixed plan that is
not whole (INCONCLUSIVE, and no test is made: looking before the end would spend the error rate); then the evidence. A
baseline too near chance (NO_SIGNAL) cannot be SAFE: it has nothing to lose. A proven loss stays UNSAFE even there.
"""

import math

from evalsuite.errors import RefusedError
from evalsuite.judge.evidence import Evidence, check_plan, weigh
from evalsuite.judge.exact import mcnemar_exact
from evalsuite.judge.pairing import Scores
from evalsuite.judge.power import certifiable_margin, forecast_more, n_required, n_zero_discordance, planning_psi
from evalsuite.judge.sequential import design_mixture
from evalsuite.judge.words import beyond, count, limit, p_value, percent, points
from evalsuite.records import Decision, PairCounts, Plan, Subject, Verdict

MISSING_LIMIT = 0.02
"""Share of missing items, in either arm, above which there is no verdict."""
DEGRADED_P = 0.01
"""One-sided exact McNemar p at which a drop counts as real."""
UNDERPOWERED_BELOW = 0.8
"""Power, if nothing changed, below which a test counts as underpowered."""
SOMEONE = Subject(model="", baseline="baseline", candidate="candidate", mode="direct")
"""Subject of a decision on bare counts."""
NO_EVIDENCE = Evidence(1.0, 1.0, (-1.0, 1.0), "none", "finite-sample")


def decide(counts: PairCounts, plan: Plan, subject: Subject = SOMEONE, scores: Scores | None = None) -> Decision:
    """Decide about one pair of arms.

    `counts`: paired 2x2 table with what is missing. `scores`: the items' mean scores in the seeded order, for plans
    that need more than the table (k samples an item; drawing without replacement). ValueError for an impossible table
    or plan; RefusedError if items were added to a fixed plan.
    """
    check_plan(plan)
    _check_table(counts)
    share = _missing_share(counts)
    if share > MISSING_LIMIT:
        return invalid(counts, plan, subject, _missing_reason(counts))
    unmeasured = _unmeasured(counts, plan)
    if counts.n == 0:
        why = ("no item has been answered by both arms", "NO_DATA")
        return _decision(counts, plan, subject, "INCONCLUSIVE", why, NO_EVIDENCE)
    if plan.design == "fixed" and unmeasured > 0:
        done = counts.n + _single(counts)
        why = (f"plan not complete: {done:,} of {done + unmeasured:,} items; resume the run to complete it",)
        return _decision(counts, plan, subject, "INCONCLUSIVE", why, NO_EVIDENCE)
    if plan.design == "fixed" and plan.n_planned is not None and counts.n > plan.n_planned:
        raise RefusedError(
            f"{counts.n:,} items under a fixed plan of {plan.n_planned:,}: a fixed test is made once. "
            "Use the sequential design, or a fresh plan on new items."
        )
    return _conclude(counts, plan, subject, scores)


def invalid(counts: PairCounts, plan: Plan, subject: Subject, *reasons: str) -> Decision:
    """A decision that the data cannot carry a verdict; no test is made and no interval given."""
    return _decision(counts, plan, subject, "INVALID", reasons, NO_EVIDENCE)


def _conclude(counts: PairCounts, plan: Plan, subject: Subject, scores: Scores | None) -> Decision:
    """Weigh the evidence and say what it shows."""
    evidence = weigh(counts, plan, scores)
    chance_reason = _no_signal(counts, plan)
    reasons: tuple[str, ...]
    if evidence.p_unsafe <= plan.alpha_unsafe:
        verdict: Verdict = "UNSAFE"
        reasons = (f"{beyond(plan)} is shown ({_test(evidence)}, {p_value(evidence.p_unsafe)})",)
    elif chance_reason is not None:
        verdict, reasons = "INCONCLUSIVE", (chance_reason, "NO_SIGNAL")
    elif evidence.p_safe <= plan.alpha_safe:
        verdict = "SAFE"
        reasons = (f"{limit(plan)} is excluded ({_test(evidence)}, {p_value(evidence.p_safe)})",)
    else:
        verdict, reasons = "INCONCLUSIVE", _open_question(counts, plan, evidence)
    if _single(counts):
        reasons = (*reasons, f"{_missing_reason(counts)}; the interval and both tests take them at their worst")
    return _decision(counts, plan, subject, verdict, reasons, evidence, scores)


def _decision(
    counts: PairCounts, plan: Plan, subject: Subject, verdict: Verdict, reasons: tuple[str, ...], evidence: Evidence,
    scores: Scores | None = None,
) -> Decision:  # fmt: skip
    """Assemble the record; what does not apply stays None."""
    n, b, c = counts.n, counts.n10, counts.n01
    base, cand = ((counts.n11 + b) / n, (counts.n11 + c) / n) if n else (None, None)
    delta = (c - b) / n if n else None
    if scores is not None and scores.repeats > 1 and n:
        paired = ~((scores.base != scores.base) | (scores.cand != scores.cand))
        base, cand = float(scores.base[paired].mean()), float(scores.cand[paired].mean())
        delta = cand - base
    tested = evidence is not NO_EVIDENCE
    at_zero, at_hat = _more(counts, plan) if tested and verdict == "INCONCLUSIVE" else (None, None)
    return Decision(
        subject=subject, plan=plan, counts=counts, verdict=verdict, reasons=reasons,
        flags=_flags(counts, plan, verdict) if tested else (),
        n=n, accuracy_base=base, accuracy_cand=cand, delta=delta, psi=(b + c) / n if n else None,
        ci=evidence.ci, ci_kind=evidence.ci_kind, p_safe=evidence.p_safe, p_unsafe=evidence.p_unsafe,
        ln_e_safe=_finite(evidence.ln_e_safe), ln_e_unsafe=_finite(evidence.ln_e_unsafe),
        n_more_at_zero=at_zero, n_more_at_hat=at_hat,
        mde_margin=certifiable_margin(n, planning_psi(n, b + c), 0.0, plan.alpha_safe, plan.power) if n else None,
        guarantee=evidence.guarantee,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------- the table


def _check_table(counts: PairCounts) -> None:
    """ValueError unless the cells are counts that sum to n and the missing ones fit together."""
    cells = (counts.n11, counts.n10, counts.n01, counts.n00)
    if min(cells) < 0 or sum(cells) != counts.n:
        raise ValueError(f"not a paired table: n11, n10, n01, n00 = {cells} must be counts that sum to n = {counts.n}")
    if not 0 <= counts.missing_both <= min(counts.missing_base, counts.missing_cand):
        raise ValueError(
            f"missing_both = {counts.missing_both} is counted in missing_base = {counts.missing_base} "
            f"and in missing_cand = {counts.missing_cand} too"
        )


def _single(counts: PairCounts) -> int:
    """Items that exactly one arm answered."""
    return counts.missing_base + counts.missing_cand - 2 * counts.missing_both


def _missing_share(counts: PairCounts) -> float:
    """The larger of the two arms' shares of missing items, of all items that should have been answered."""
    total = counts.n + _single(counts) + counts.missing_both
    return max(counts.missing_base, counts.missing_cand) / total if total else 0.0


def _missing_reason(counts: PairCounts) -> str:
    total = counts.n + _single(counts) + counts.missing_both
    return (
        f"of {total:,} items {counts.missing_base:,} are missing in the baseline and {counts.missing_cand:,} in the "
        f"candidate ({percent(_missing_share(counts))} at most; {percent(MISSING_LIMIT)} is allowed)"
    )


def _unmeasured(counts: PairCounts, plan: Plan) -> int:
    """Planned items that were not reached."""
    if counts.unmeasured is not None:
        return counts.unmeasured
    done = counts.n + _single(counts) + counts.missing_both
    return max(0, (plan.n_planned or 0) - done)


# ---------------------------------------------------------------------------------------------- flags and forecasts


def _no_signal(counts: PairCounts, plan: Plan) -> str | None:
    """Why the baseline is too near chance to lose anything; None if it is not."""
    accuracy = (counts.n11 + counts.n10) / counts.n
    margin = plan.margin if plan.relative is None else (1 - plan.relative) * accuracy
    needed = max(0.10, 3 * margin)
    if accuracy - plan.chance >= needed:
        return None
    return (
        f"the baseline is right on {percent(accuracy)}, chance is {percent(plan.chance)}: "
        f"less than {points(needed)} points above it, so a loss could not show"
    )


def _flags(counts: PairCounts, plan: Plan, verdict: Verdict) -> tuple[str, ...]:
    n, b, c = counts.n, counts.n10, counts.n01
    needed = n_required(planning_psi(n, b + c), plan.margin, 0.0, plan.alpha_safe, UNDERPOWERED_BELOW)
    held = {
        "DEGRADED": mcnemar_exact(b, c) <= DEGRADED_P,
        "NO_SIGNAL": _no_signal(counts, plan) is not None,
        "UNDERPOWERED": verdict == "INCONCLUSIVE" and n < needed,
        "CEILING": counts.n11 == n,
    }
    return tuple(flag for flag, holds in held.items() if holds)


def _more(counts: PairCounts, plan: Plan) -> tuple[float | None, float | None]:
    """Further items until SAFE is expected, if the true change is 0 and if it is the one seen."""
    n, b, c = counts.n, counts.n10, counts.n01
    U, W = design_mixture(plan.margin, plan.psi_plan)
    at_zero = forecast_more(n, b, c, plan.margin, plan.alpha_safe, U, W)
    at_hat = forecast_more(n, b, c, plan.margin, plan.alpha_safe, U, W, delta=(c - b) / n)
    return _finite(at_zero), _finite(at_hat)


def _open_question(counts: PairCounts, plan: Plan, evidence: Evidence) -> tuple[str, ...]:
    """Why the data cannot decide, and how many more items would."""
    n, b, c, m = counts.n, counts.n10, counts.n01, plan.margin
    reasons = [f"neither {limit(plan)} is excluded ({p_value(evidence.p_safe)}) nor a larger one shown "
               f"({p_value(evidence.p_unsafe)})"]  # fmt: skip
    floor = n_zero_discordance(m, plan.alpha_safe)
    if n < floor:
        reasons.append(f"fewer than {floor:,} items can never be SAFE at this margin, even if no answer changes")
    at_zero, _ = _more(counts, plan)
    if at_zero is not None:
        fresh = n_required(planning_psi(n, b + c), m, 0.0, plan.alpha_safe, plan.power)
        plans = f", or a fresh fixed plan of {count(fresh)} new ones," if plan.design == "fixed" else ""
        reasons.append(f"about {count(at_zero)} more items (sequential design){plans} would show SAFE if nothing changed")
    if (c - b) / n < -m:
        U, W = design_mixture(m, plan.psi_plan)
        unsafe = forecast_more(n, c, b, -m, plan.alpha_unsafe, U, W, delta=(b - c) / n)
        if math.isfinite(unsafe):
            reasons.append(f"about {count(unsafe)} more would show UNSAFE if the loss is the one seen")
    return tuple(reasons)


def _test(evidence: Evidence) -> str:
    """Name of the test, for reasons."""
    if evidence.ci_kind == "all items":
        return "all items measured"
    return {"finite-sample": "exact test", "anytime": "betting", "asymptotic": "approximate test"}[evidence.guarantee]


def _finite(x: float | None) -> float | None:
    """None for infinity: it cannot be stored, and "never" is not a number of items."""
    return x if x is not None and math.isfinite(x) else None
