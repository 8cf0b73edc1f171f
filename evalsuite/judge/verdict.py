"""One decision: paired counts and a plan in, SAFE, UNSAFE, INCONCLUSIVE or INVALID out, with every number it rests on.

SAFE needs proof that the loss is below the margin; UNSAFE needs proof that it is above. Neither proof is INCONCLUSIVE,
with the number of items that would be needed; "no significant difference" is never an argument, because with few items
there is never one. INVALID means that the data cannot carry a verdict at all. `decide` is a pure function: the same
counts under the same plan give the same decision, and everything people or programs see is made from it.

Order of the rules: more than 2 % of the items missing in either arm (INVALID); no items (NO_DATA); a fixed plan that is
not whole (INCONCLUSIVE, and no test is made: looking before the end would spend the error rate); then the evidence. A
baseline too near chance (NO_SIGNAL) cannot be SAFE: it has nothing to lose. A proven loss stays UNSAFE even there.
"""

import numpy as np

from evalsuite.errors import RefusedError
from evalsuite.judge.evidence import Evidence, check_plan, weigh
from evalsuite.judge.exact import mcnemar_exact
from evalsuite.judge.outlook import Case, finite, margin, more, open_question, psi
from evalsuite.judge.pairing import Scores
from evalsuite.judge.power import certifiable_margin, n_required
from evalsuite.judge.words import beyond, limit, p_value, percent, points
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
    case = Case(counts, plan, subject, scores)
    if _missing_share(counts) > MISSING_LIMIT:
        return _decision(case, "INVALID", (_missing_reason(counts),), NO_EVIDENCE)
    if counts.n == 0:
        return _decision(case, "INCONCLUSIVE", ("no item was answered by both arms", "NO_DATA"), NO_EVIDENCE)
    unmeasured = _unmeasured(counts, plan)
    if plan.design == "fixed" and unmeasured > 0:
        whole = _answered(counts) + unmeasured
        why = f"plan not complete: {counts.n:,} of {whole:,} items; resume the run to complete it"
        return _decision(case, "INCONCLUSIVE", (why,), NO_EVIDENCE)
    if plan.design == "fixed" and plan.n_planned is not None and counts.n > plan.n_planned:
        raise RefusedError(
            f"{counts.n:,} items under a fixed plan of {plan.n_planned:,}: a fixed test is made once. "
            "Use the sequential design, or a fresh plan on new items."
        )
    return _conclude(case)


def invalid(counts: PairCounts, plan: Plan, subject: Subject, *reasons: str) -> Decision:
    """A decision that the data cannot carry a verdict; no test is made and no interval given."""
    return _decision(Case(counts, plan, subject), "INVALID", reasons, NO_EVIDENCE)


def _conclude(case: Case) -> Decision:
    """Weigh the evidence and say what it shows."""
    counts, plan = case.counts, case.plan
    evidence = weigh(counts, plan, case.scores)
    silent = _no_signal(case)
    verdict: Verdict = "INCONCLUSIVE"
    reasons: tuple[str, ...] = open_question(case, evidence)
    if evidence.p_unsafe <= plan.alpha_unsafe:
        verdict, reasons = "UNSAFE", (f"{beyond(plan)} is shown ({_test(evidence, evidence.p_unsafe)})",)
    elif silent is not None:
        reasons = (silent, "NO_SIGNAL")
    elif evidence.p_safe <= plan.alpha_safe:
        verdict, reasons = "SAFE", (f"{limit(plan)} is excluded ({_test(evidence, evidence.p_safe)})",)
    if _answered(counts) > counts.n:
        reasons = (*reasons, f"{_missing_reason(counts)}; interval and tests take them at their worst")
    return _decision(case, verdict, reasons, evidence)


def _decision(case: Case, verdict: Verdict, reasons: tuple[str, ...], evidence: Evidence) -> Decision:
    """Assemble the record; what does not apply stays None."""
    counts, plan, n = case.counts, case.plan, case.counts.n
    base, cand = ((counts.n11 + counts.n10) / n, (counts.n11 + counts.n01) / n) if n else (None, None)
    delta = (counts.n01 - counts.n10) / n if n else None
    if case.scores is not None and case.scores.repeats > 1 and n:
        paired = ~np.isnan(case.scores.base) & ~np.isnan(case.scores.cand)
        base, cand = float(case.scores.base[paired].mean()), float(case.scores.cand[paired].mean())
        delta = cand - base
    tested = evidence is not NO_EVIDENCE
    wanting = tested and verdict == "INCONCLUSIVE" and "NO_SIGNAL" not in reasons
    at_zero, at_hat = more(case) if wanting else (None, None)
    return Decision(
        subject=case.subject, plan=plan, counts=counts, verdict=verdict, reasons=reasons,
        flags=_flags(case, verdict) if tested else (),
        n=n, accuracy_base=base, accuracy_cand=cand, delta=delta, psi=(counts.n10 + counts.n01) / n if n else None,
        ci=evidence.ci, ci_kind=evidence.ci_kind, p_safe=evidence.p_safe, p_unsafe=evidence.p_unsafe,
        ln_e_safe=finite(evidence.ln_e_safe), ln_e_unsafe=finite(evidence.ln_e_unsafe),
        n_more_at_zero=at_zero, n_more_at_hat=at_hat,
        mde_margin=certifiable_margin(n, psi(case), 0.0, plan.alpha_safe, plan.power) if n else None,
        guarantee=evidence.guarantee,
    )  # fmt: skip


def _check_table(counts: PairCounts) -> None:
    """ValueError unless the cells are counts that sum to n and the missing ones fit together."""
    cells = (counts.n11, counts.n10, counts.n01, counts.n00)
    if min(cells) < 0 or sum(cells) != counts.n:
        raise ValueError(f"not a paired table: n11, n10, n01, n00 = {cells} must be counts that sum to n = {counts.n}")
    both, base, cand = counts.missing_both, counts.missing_base, counts.missing_cand
    if not 0 <= both <= min(base, cand):
        raise ValueError(f"missing_both = {both} must be part of missing_base = {base} and of missing_cand = {cand}")
    details = ((counts.base_right_cand_missing, cand - both), (counts.cand_right_base_missing, base - both))
    if any(known is not None and not 0 <= known <= most for known, most in details):
        raise ValueError("more right answers beside missing ones than there are missing ones")


def _answered(counts: PairCounts) -> int:
    """Items that at least one arm answered."""
    return counts.n + counts.missing_base + counts.missing_cand - 2 * counts.missing_both


def _missing_share(counts: PairCounts) -> float:
    """The larger of the two arms' shares of missing items, of all items that should have been answered."""
    total = _answered(counts) + counts.missing_both
    return max(counts.missing_base, counts.missing_cand) / total if total else 0.0


def _missing_reason(counts: PairCounts) -> str:
    return (
        f"of {_answered(counts) + counts.missing_both:,} items {counts.missing_base:,} are missing in the baseline and "
        f"{counts.missing_cand:,} in the candidate ({percent(MISSING_LIMIT)} of either are allowed)"
    )


def _unmeasured(counts: PairCounts, plan: Plan) -> int:
    """Planned items that were not reached."""
    if counts.unmeasured is not None:
        return counts.unmeasured
    return max(0, (plan.n_planned or 0) - _answered(counts) - counts.missing_both)


def _no_signal(case: Case) -> str | None:
    """Why the baseline is too near chance to lose anything; None if it is not."""
    accuracy = (case.counts.n11 + case.counts.n10) / case.counts.n
    needed = max(0.10, 3 * margin(case))
    if accuracy - case.plan.chance >= needed:
        return None
    return (
        f"the baseline is right on {percent(accuracy)}, chance is {percent(case.plan.chance)}: "
        f"less than {points(needed)} points above it, so a loss could not show"
    )


def _flags(case: Case, verdict: Verdict) -> tuple[str, ...]:
    counts, plan = case.counts, case.plan
    held = {
        "DEGRADED": mcnemar_exact(counts.n10, counts.n01) <= DEGRADED_P,
        "NO_SIGNAL": _no_signal(case) is not None,
        "UNDERPOWERED": verdict == "INCONCLUSIVE"
        and counts.n < n_required(psi(case), margin(case), 0.0, plan.alpha_safe, UNDERPOWERED_BELOW),
        "CEILING": counts.n11 == counts.n,
    }
    return tuple(flag for flag, holds in held.items() if holds)


def _test(evidence: Evidence, p: float) -> str:
    """Name and p-value of the test, for reasons."""
    if evidence.ci_kind == "all items":
        return "all items were measured"
    names = {"finite-sample": "exact", "anytime": "anytime-valid", "asymptotic": "approximate"}
    return f"{names[evidence.guarantee]} {p_value(p)}"
