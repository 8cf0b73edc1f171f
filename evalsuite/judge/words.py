"""Numbers and verdicts in plain English: the one place where sentences are made.

A sentence says what was measured, the change with its 90 % interval, the limit, and how often such a verdict is wrong.
Changes and margins are printed in points (hundredths of accuracy).
"""

import math
from collections.abc import Sequence

from evalsuite.records import REASONS, WARNINGS, Decision, Flips, Plan, Ratio, Scaling, Verdict


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


DOES = {"prefill": "reads prompts", "decode": "decodes", "whole": "answers"}
"""Phase -> what an arm does in it."""


def ratio_sentence(ratio: Ratio, *, null: bool = False) -> str:
    """A ratio for people: the change with its interval, or how much stays unresolved, or why there is no number."""
    at = ratio.workload.key
    best = " at its best batch" if ratio.workload.comparison == "best_config" else ""
    pair = f"{ratio.arm} against {ratio.baseline} ({at}{best})"
    if ratio.value is None:
        codes = [code for code in ratio.reasons if code not in WARNINGS] or list(ratio.reasons)
        why = " ".join(REASONS[code] for code in codes)
        what = "speed" if ratio.quantity == "tokens_per_s" else "energy"
        return f"No ratio of {what} for {pair}: {why}"
    seen = f"{ratio.value:.3g}" if ratio.ci95 is None else f"{_factor(ratio.value)} {_range(ratio.ci95)} (95 %)"
    if null:
        floor = "" if ratio.aa_halfwidth is None else f"; less than {100 * ratio.aa_halfwidth:.1f} % apart is noise"
        if "aa_failed" in ratio.reasons:
            floor = "; that is not 1, so nothing here can be told from noise: measure again"
        return f"{pair}, the same arm twice: {seen}{floor}."
    if not ratio.resolved:
        return f"{pair}: {_unresolved(ratio)}; seen was {seen}."
    end = f"{_range(ratio.ci95)} (95 %, {at}{best})"
    if ratio.quantity == "j_per_token":
        return f"{ratio.arm} uses {_factor(ratio.value)} times the energy a token of {ratio.baseline} {end}."
    done = f"{ratio.arm} {DOES[ratio.workload.phase]} {_factor(ratio.value)} times as fast as {ratio.baseline} {end}"
    if ratio.limit_ratio is None:
        return f"{done}."
    return f"{done}; at most {ratio.limit_ratio:.2f} is possible at the same share of the limit."


def _unresolved(ratio: Ratio) -> str:
    """What could have been told: the widest of the interval's half, the null arm's, and 1 %."""
    if ratio.ci95 is None:
        return "one round has no interval"
    if ratio.aa_halfwidth is None:
        return "without the null arm a difference cannot be told from noise"
    half = math.expm1(math.log(ratio.ci95[1] / ratio.ci95[0]) / 2)
    return f"no difference resolved (± {100 * max(half, ratio.aa_halfwidth, 0.01):.1f} %)"


def _factor(value: float) -> str:
    """A factor with two decimals, three where two would round it to 1."""
    return f"{value:.2f}" if abs(value - 1) >= 0.015 else f"{value:.3f}"


def _range(ends: tuple[float, float] | None) -> str:
    """`[1.05, 1.09]`."""
    return "" if ends is None else f"[{_factor(ends[0])}, {_factor(ends[1])}]"


def scaling_sentence(scaling: Scaling) -> str:
    """Where adding devices stops paying, or that it does not."""
    last, at = scaling.steps[-1], scaling.workload.key
    seen = f"{scaling.arm} on {last.devices} devices runs at {percent(last.efficiency.value)} efficiency ({at})"
    wanted = f"{100 * scaling.threshold:.0f} % of its ideal gain"
    if scaling.stops_at is not None:
        step = next(step for step in scaling.steps if step.devices == scaling.stops_at)
        gain = percent(step.gain.value) if step.gain else "-"
        less = f"{step.devices} bring {gain} of the ideal gain, less than {100 * scaling.threshold:.0f} %"
        return f"{seen}; beyond {_before(scaling)} it does not pay: {less}."
    open_ = [f"{step.devices}" for step in scaling.steps[1:] if step.pays is None]
    if open_:
        return f"{seen}; whether {', '.join(open_)} devices bring {wanted} is not resolved."
    return f"{seen}; every step brings at least {wanted}."


def _before(scaling: Scaling) -> int:
    """Devices of the step before the one that does not pay."""
    counts = [step.devices for step in scaling.steps]
    return counts[counts.index(scaling.stops_at or 0) - 1]
