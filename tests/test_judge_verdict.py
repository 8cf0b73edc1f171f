"""Decisions: the golden verdicts, every edge case of the specification (section 11), the bounds for missing items."""


import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalsuite.errors import RefusedError
from evalsuite.judge import PairCounts, Plan, decide, decide_suite, stats
from evalsuite.judge.evidence import at_best, at_worst
from evalsuite.judge.pairing import Scores
from evalsuite.records import Subject, worst

GOLDEN = [  # b, c, n, m, verdict, items still needed if nothing changed
    (0, 0, 10, 0.01, "INCONCLUSIVE", None),
    (0, 0, 298, 0.01, "INCONCLUSIVE", None),
    (0, 0, 299, 0.01, "SAFE", None),
    (0, 0, 1000, 0.01, "SAFE", None),
    (5, 5, 1000, 0.01, "SAFE", None),
    (10, 10, 1000, 0.01, "SAFE", None),
    (25, 25, 1000, 0.02, "SAFE", None),
    (12, 3, 500, 0.02, "INCONCLUSIVE", 916),
    (30, 10, 1319, 0.01, "INCONCLUSIVE", None),
    (60, 50, 1319, 0.02, "INCONCLUSIVE", 2276),
    (125, 125, 5000, 0.01, "SAFE", None),
    (40, 5, 1319, 0.01, "UNSAFE", None),
]
SUBJECT = Subject(model="m", baseline="bf16", candidate="fp8-ue8m0", mode="direct")


def table(n, b, c, accuracy=0.7, **missing):
    """A paired table with that baseline accuracy."""
    both = max(0, min(round(n * accuracy) - b, n - b - c))
    return PairCounts(n=n, n11=both, n10=b, n01=c, n00=n - both - b - c, **missing)


@st.composite
def tables(draw, most=300):
    n = draw(st.integers(0, most))
    b = draw(st.integers(0, n))
    c = draw(st.integers(0, n - b))
    both = draw(st.integers(0, n - b - c))
    return PairCounts(n=n, n11=both, n10=b, n01=c, n00=n - b - c - both)


@pytest.mark.parametrize(("b", "c", "n", "m", "verdict", "more"), GOLDEN)
def test_the_golden_verdicts_are_given(b, c, n, m, verdict, more):
    decision = decide(table(n, b, c), Plan(margin=m))

    assert verdict == decision.verdict
    if more is not None:
        assert more == round(decision.n_more_at_zero)


@pytest.mark.parametrize("n", [10, 100])
@pytest.mark.parametrize("design", ["fixed", "sequential"])
def test_few_items_without_a_flip_are_inconclusive_and_say_how_many_are_needed(n, design):
    decision = decide(table(n, 0, 0), Plan(margin=0.01, design=design))

    assert "INCONCLUSIVE" == decision.verdict
    assert decision.n_more_at_zero + n >= stats.n_zero_discordance(0.01)
    assert "UNDERPOWERED" in decision.flags
    assert f"about {round(decision.n_more_at_zero):,} more items" in decide_suite(decision).sentence
    assert "this margin would need 299 items to be SAFE" in decide_suite(decision).sentence


@given(tables(), st.sampled_from([0.01, 0.02, 0.05, 0.2]), st.sampled_from(["fixed", "sequential"]),
       st.sampled_from([None, 0.9, 0.99]))  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_every_table_gets_a_whole_decision_that_can_be_stored(counts, m, design, relative):
    decision = decide(counts, Plan(margin=m, design=design, relative=relative), SUBJECT)
    suite = decide_suite(decision, [decision])

    assert not (decision.p_safe <= 0.05 and decision.p_unsafe <= 0.05)
    assert decision.ci[0] <= decision.ci[1]
    assert decision.delta is None or decision.ci[0] - 1e-9 <= decision.delta <= decision.ci[1] + 1e-9
    json.dumps(suite.model_dump(mode="json"), allow_nan=False)
    assert suite.sentence.startswith(suite.verdict)
    assert suite.sentence.endswith(".")


@given(tables(), st.sampled_from([0.01, 0.05]))
@settings(max_examples=40, deadline=None)
def test_more_improvements_never_make_the_verdict_worse(counts, m):
    if counts.n00 == 0:
        return
    better = counts.model_copy(update={"n00": counts.n00 - 1, "n01": counts.n01 + 1})
    before, after = decide(counts, Plan(margin=m)), decide(better, Plan(margin=m))

    assert before.verdict == worst([before.verdict, after.verdict])


def test_no_items_are_no_data():
    decision = decide(table(0, 0, 0), Plan())

    assert ("INCONCLUSIVE", 0, None, None) == (decision.verdict, decision.n, decision.delta, decision.accuracy_base)
    assert (1.0, 1.0, (-1.0, 1.0)) == (decision.p_safe, decision.p_unsafe, decision.ci)
    assert "NO_DATA" in decision.reasons


@pytest.mark.parametrize("plan", [Plan(margin=0.0), Plan(margin=0.5), Plan(margin=-0.1), Plan(alpha_safe=0.0),
                                  Plan(alpha_unsafe=0.5), Plan(alpha_safe=1.0), Plan(relative=1.0)])  # fmt: skip
def test_an_impossible_plan_is_refused(plan):
    with pytest.raises(ValueError, match="needed"):
        decide(table(100, 1, 1), plan)


@pytest.mark.parametrize("counts", [
    PairCounts(n=10, n11=5, n10=1, n01=1, n00=1), PairCounts(n=1, n11=2, n10=-1, n01=0, n00=0),
    PairCounts(n=1, n11=1, n10=0, n01=0, n00=0, missing_both=1),
    PairCounts(n=90, n11=90, n10=0, n01=0, n00=0, missing_cand=1, base_right_cand_missing=2),
])  # fmt: skip
def test_an_impossible_table_is_refused(counts):
    with pytest.raises(ValueError, match=r"missing|paired table"):
        decide(counts, Plan())


@pytest.mark.parametrize("arm", ["missing_base", "missing_cand"])
def test_more_than_two_percent_missing_in_either_arm_is_invalid(arm):
    allowed = decide(table(980, 0, 0, **{arm: 20}), Plan(margin=0.05))
    too_many = decide(table(979, 0, 0, **{arm: 21}), Plan(margin=0.05))

    assert "SAFE" == allowed.verdict
    assert "INVALID" == too_many.verdict
    assert "21 " in too_many.reasons[0]
    assert (1.0, 1.0, (-1.0, 1.0)) == (too_many.p_safe, too_many.p_unsafe, too_many.ci)


def test_missing_items_are_taken_at_their_worst_on_each_side():
    counts = table(1000, 10, 5, missing_cand=8, missing_base=6, missing_both=2,
                   base_right_cand_missing=4, cand_right_base_missing=3)  # fmt: skip
    low, high = at_worst(counts), at_best(counts)
    decision = decide(counts, Plan(margin=0.02))

    assert (1010, 10 + 4 + 1, 5) == (low.n, low.n10, low.n01)
    assert (1010, 10, 5 + 2 + 3) == (high.n, high.n10, high.n01)
    assert stats.exact_p(15, 5, 1010, 0.02) == decision.p_safe
    assert stats.exact_p(10, 10, 1010, 0.02, "unsafe") == decision.p_unsafe
    assert (stats.tango_ci(15, 5, 1010)[0], stats.tango_ci(10, 10, 1010)[1]) == decision.ci
    assert any("missing" in reason for reason in decision.reasons)


def test_missing_items_of_unknown_correctness_are_all_held_against_the_verdict():
    counts = table(1000, 10, 5, missing_cand=8, missing_base=6)

    assert (24, 5) == (at_worst(counts).n10, at_worst(counts).n01)
    assert (10, 19) == (at_best(counts).n10, at_best(counts).n01)


@given(tables(most=120), st.lists(st.sampled_from(["n11", "n10", "n01", "n00"]), min_size=1, max_size=3), st.data())
@settings(max_examples=40, deadline=None)
def test_whatever_the_missing_answers_were_the_verdict_would_stand(counts, answers, data):
    lost_base = data.draw(st.integers(0, len(answers)))
    lost = {"missing_base": lost_base, "missing_cand": len(answers) - lost_base}
    holed = decide(counts.model_copy(update=lost), Plan(margin=0.05))
    cells = {name: getattr(counts, name) + answers.count(name) for name in ("n11", "n10", "n01", "n00")}
    known = decide(PairCounts(n=counts.n + len(answers), **cells), Plan(margin=0.05))

    if holed.ci_kind == "score" and known.ci_kind == "score":
        assert known.p_safe <= holed.p_safe + 5e-4
        assert known.p_unsafe <= holed.p_unsafe + 5e-4
        assert holed.ci[0] - 1e-9 <= known.ci[0] <= known.ci[1] <= holed.ci[1] + 1e-9


def test_a_baseline_at_chance_cannot_be_safe():
    for accuracy, chance in ((0.09, 0.0), (0.0, 0.0), (0.3, 0.25)):
        decision = decide(table(5000, 0, 0, accuracy), Plan(margin=0.02, chance=chance))
        assert ("INCONCLUSIVE", None) == (decision.verdict, decision.n_more_at_zero)
        assert "NO_SIGNAL" in decision.flags
        assert "NO_SIGNAL" in decision.reasons
    assert "SAFE" == decide(table(5000, 0, 0, 0.11), Plan(margin=0.02)).verdict
    assert "INCONCLUSIVE" == decide(table(5000, 0, 0, 0.11), Plan(margin=0.04)).verdict


def test_a_proven_loss_stays_unsafe_near_chance():
    decision = decide(table(2000, 160, 0, 0.09), Plan(margin=0.05))

    assert "UNSAFE" == decision.verdict
    assert "NO_SIGNAL" in decision.flags


def test_both_arms_all_right_is_information_with_a_note():
    decision = decide(table(1000, 0, 0, 1.0), Plan(margin=0.01))

    assert "SAFE" == decision.verdict
    assert ("CEILING",) == decision.flags


def test_a_real_drop_within_the_margin_is_safe_and_degraded():
    decision = decide(table(2000, 60, 30), Plan(margin=0.03))

    assert ("SAFE", ("DEGRADED",)) == (decision.verdict, decision.flags)
    assert decide_suite(decision).sentence.startswith("SAFE, DEGRADED: ")


def test_a_planted_loss_of_five_percent_is_unsafe():
    decision = decide(table(2000, 100, 0), Plan(margin=0.02))

    assert "UNSAFE" == decision.verdict
    assert "DEGRADED" in decision.flags


def test_a_fixed_plan_is_not_tested_before_it_is_whole():
    for counts in (table(1000, 0, 0), table(1000, 0, 0, unmeasured=1000)):
        decision = decide(counts, Plan(margin=0.01, n_planned=2000))
        assert ("INCONCLUSIVE", 1.0, 1.0) == (decision.verdict, decision.p_safe, decision.p_unsafe)
        assert "plan not complete: 1,000 of 2,000 items" in decision.reasons[0]
    assert "SAFE" == decide(table(1000, 0, 0), Plan(margin=0.01, n_planned=2000, design="sequential")).verdict
    assert "SAFE" == decide(table(1998, 0, 0, missing_cand=2), Plan(margin=0.01, n_planned=2000)).verdict


def test_items_added_to_a_fixed_plan_are_refused_with_the_way_out():
    with pytest.raises(RefusedError, match="sequential design, or a fresh plan"):
        decide(table(2001, 0, 0), Plan(margin=0.01, n_planned=2000))


def test_the_sequential_design_decides_by_wealth():
    decision = decide(table(1000, 5, 5), Plan(margin=0.01, design="sequential"))

    assert ("INCONCLUSIVE", "anytime") == (decision.verdict, decision.guarantee)
    assert (2.1331, -1.7150) == pytest.approx((decision.ln_e_safe, decision.ln_e_unsafe), abs=5e-5)
    assert (-0.01205, 0.01205) == pytest.approx(decision.ci, abs=5.1e-6)
    assert "SAFE" == decide(table(5000, 125, 125), Plan(margin=0.01, design="sequential")).verdict
    assert "UNSAFE" == decide(table(1319, 40, 5), Plan(margin=0.01, design="sequential")).verdict


def test_a_wholly_measured_benchmark_needs_no_test():
    plan = Plan(margin=0.02, estimand="benchmark")
    decisions = [decide(table(1000, b, 10), plan) for b in (29, 30, 31)]

    assert ["SAFE", "INCONCLUSIVE", "UNSAFE"] == [d.verdict for d in decisions]
    assert (-0.019, -0.019) == decisions[0].ci
    assert "exactly these 1,000" in decide_suite(decisions[0]).sentence


def test_a_sequential_benchmark_bets_without_replacement_in_order():
    scores = Scores(np.ones(600), np.ones(600), 1)
    plan = Plan(margin=0.01, estimand="benchmark", design="sequential", n_planned=1000)
    decision = decide(table(600, 0, 0, 1.0), plan, SUBJECT, scores)
    population = decide(table(600, 0, 0, 1.0), Plan(margin=0.01, design="sequential"))

    assert "SAFE" == decision.verdict
    assert decision.ln_e_safe > population.ln_e_safe
    with pytest.raises(ValueError, match="in their order"):
        decide(table(600, 0, 0, 1.0), plan)


def test_recovery_is_judged_relative_to_the_baseline():
    plan = Plan(relative=0.98)

    assert "SAFE" == decide(table(5000, 40, 40), plan).verdict
    assert "UNSAFE" == decide(table(5000, 200, 20), plan).verdict
    assert "INCONCLUSIVE" == decide(table(200, 0, 0), plan).verdict  # no valid test could say SAFE yet
    assert "asymptotic" == decide(table(5000, 40, 40), plan).guarantee
    assert "SAFE" == decide(table(9000, 40, 40), Plan(relative=0.98, design="sequential")).verdict


def test_samples_of_an_item_are_judged_by_their_means():
    rng = np.random.default_rng(2)
    p = rng.uniform(0.4, 1.0, 800)
    base, cand = (rng.binomial(8, p) / 8 for _ in range(2))
    scores, counts = Scores(base, cand, 8), table(800, 90, 90)
    fixed = decide(counts, Plan(margin=0.03), SUBJECT, scores)
    sequential = decide(counts, Plan(margin=0.03, design="sequential"), SUBJECT, scores)
    few = decide(table(20, 1, 1), Plan(margin=0.4), SUBJECT, Scores(base[:20], cand[:20], 8))

    assert ("SAFE", "asymptotic", "paired t") == (fixed.verdict, fixed.guarantee, fixed.ci_kind)
    assert stats.t_paired(cand - base, 0.03).p_safe == fixed.p_safe
    assert pytest.approx((cand - base).mean()) == fixed.delta
    assert stats.log_e_scores(cand - base, -0.03, *stats.design_mixture(0.03, 0.05)) == sequential.ln_e_safe
    assert "INCONCLUSIVE" == few.verdict
