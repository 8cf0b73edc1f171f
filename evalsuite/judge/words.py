"""Numbers and verdicts in plain English: the one place where sentences are made.

A sentence says what was measured, the change with its 90 % interval, the limit, and how often such a verdict is wrong.
Changes and margins are printed in points (hundredths of accuracy).
"""

from collections.abc import Sequence

from evalsuite.records import Decision, Flips, Plan, Verdict


def points(fraction: float, *, sign: bool = False) -> str:
    """A fraction in points: `2.0`, with sign `+0.7`; more digits only where one would round a margin away."""
    value = 100 * fraction
    text = f"{value:+.1f}" if sign else f"{value:.1f}"
    if not sign and abs(float(text) - value) > 1e-9:
        text = f"{value:.6g}"
    return "0.0" if float(text) == 0 else text


def percent(fraction: float) -> str:
    """A share: `2.0 %`."""
    return f"{100 * fraction:.1f} %"


def p_value(p: float) -> str:
    """`p = 0.012`; very small ones as a bound."""
    return f"p = {p:.2g}" if p >= 1e-4 else "p < 0.0001"


def count(items: float) -> str:
    """A number of items, at least one, with thousands separators."""
    return f"{max(1, round(items)):,}"


def limit(plan: Plan) -> str:
    """The loss that SAFE excludes: `a loss of 2.0 points or more`."""
    if plan.relative is not None:
        return f"a fall to {points(plan.relative)} % of the baseline's accuracy or below"
    return f"a loss of {points(plan.margin)} points or more"


def beyond(plan: Plan) -> str:
    """The loss that UNSAFE shows."""
    if plan.relative is not None:
        return f"a fall below {points(plan.relative)} % of the baseline's accuracy"
    return f"a loss of more than {points(plan.margin)} points"


def comparison(decision: Decision) -> str:
    """What was seen: "on new items like these 2,000 (direct mode), X changes accuracy by -0.1 points against Y"."""
    subject, plan = decision.subject, decision.plan
    items = "on exactly these" if plan.estimand == "benchmark" else "on new items like these"
    if decision.delta is None:
        return f"{subject.candidate} against {subject.baseline} ({subject.mode} mode)"
    low, high = (points(end, sign=True) for end in decision.ci)
    interval = "" if decision.ci_kind in ("all items", "none") else f" [{low}, {high}] (90 %)"
    return (
        f"{items} {decision.n:,} ({subject.mode} mode), {subject.candidate} changes accuracy by "
        f"{points(decision.delta, sign=True)} points{interval} against {subject.baseline}"
    )


def guarantee(decision: Decision, verdict: Verdict) -> str:
    """How often a SAFE or an UNSAFE by this plan is wrong."""
    plan = decision.plan
    if decision.ci_kind == "all items":
        return "every item was measured, so no chance is involved if the outputs are deterministic"
    alpha = plan.alpha_safe if verdict == "SAFE" else plan.alpha_unsafe
    often = "about" if decision.guarantee == "asymptotic" else "at most"
    runs = f"{often} {100 * alpha:g} of 100 runs"
    when = ", whenever one looks" if decision.guarantee == "anytime" else ""
    if plan.relative is not None:
        truth = f"keeps {points(plan.relative)} % of the accuracy or {'less' if verdict == 'SAFE' else 'more'}"
    else:
        truth = f"loses {points(plan.margin)} points or {'more' if verdict == 'SAFE' else 'less'}"
    return f"a change that really {truth} would get {verdict} in {runs}{when}"


def release_sentence(verdict: Verdict, reasons: Sequence[str], pooled: Decision) -> str:
    """The verdict of a suite for people, from its pooled decision and the reasons of the release rule."""
    degraded = ", DEGRADED" if verdict == "SAFE" and "DEGRADED" in pooled.flags else ""
    head = f"{verdict}{degraded}: "
    if verdict == "INVALID":
        arms = f"{pooled.subject.candidate} against {pooled.subject.baseline} ({pooled.subject.mode} mode)"
        return f"{head}no verdict on {arms}: {reasons[0]}."
    text = head + comparison(pooled)
    if verdict == pooled.verdict and verdict in ("SAFE", "UNSAFE"):
        text += f"; {guarantee(pooled, verdict)}{_early(pooled)}"
        # The first reason restates the pooled test; what else the release rule found comes after it.
        reasons = reasons[1:]
        if degraded:
            reasons = ["the drop is real, though tolerable", *reasons]
    return "; ".join([text, *(r for r in reasons if not r.isupper())]) + "."


def _early(pooled: Decision) -> str:
    """What a sequential run saved."""
    most = pooled.plan.n_planned
    if pooled.plan.design == "fixed" or most is None or pooled.n >= most:
        return ""
    return f"; decided after {pooled.n:,} of at most {most:,} items"


def beyond_noise(correct: Flips, answers: Flips | None) -> str:
    """How the candidate's flips compare with the baseline's own: by answers where they are known."""
    flips, what = (correct, "right and wrong") if answers is None else (answers, "answers")
    low, high = (points(end, sign=True) for end in flips.ci)
    share = f", {100 * flips.aa / flips.ab:.0f} % as many" if flips.ab else ""
    return (
        f"{what} differ on {percent(flips.ab)} of the items between baseline and candidate, on {percent(flips.aa)} "
        f"between two runs of the baseline{share}; beyond noise {points(flips.excess, sign=True)} points "
        f"[{low}, {high}], exact {p_value(flips.p)}"
    )


def again(attempt: int) -> str:
    """What a repeated question adds to its sentence: repeating a run until it passes must be seen."""
    return "" if attempt == 1 else f" This is attempt {attempt} at the same question."
