"""The release rule: pool, guards, certificates, Holm, the noise floor, and the sentence people read."""


import pytest
from test_judge_verdict import SUBJECT, table

from evalsuite.judge import Noise, Plan, decide, decide_suite
from evalsuite.records import FINDINGS, Finding


def task(name, n, b, c, margin=0.05, role="monitor", accuracy=0.7):
    return decide(table(n, b, c, accuracy), Plan(margin=margin, role=role), SUBJECT.model_copy(update={"task": name}))


QUIET = Noise(table(2000, 4, 6), table(2000, 0, 1))
POOLED = decide(table(2000, 19, 17), Plan(margin=0.02), SUBJECT)


def test_a_safe_sentence_names_estimand_interval_margin_and_error_rate():
    suite = decide_suite(POOLED, [], QUIET)

    assert (
        "SAFE: on new items like these 2,000 (direct mode), fp8-ue8m0 changes accuracy by -0.1 points [-0.6, +0.4] "
        "(90 %) against bf16; a change that really loses 2.0 points or more would get SAFE in at most 5 of 100 runs."
    ) == suite.sentence
    assert () == suite.findings


def test_a_safe_pool_with_quiet_tasks_is_safe():
    suite = decide_suite(POOLED, [task("a", 1000, 9, 9), task("b", 100, 4, 3)], QUIET)

    assert "SAFE" == suite.verdict
    assert "safe at their own margins too: a" in suite.sentence
    assert "not certified by themselves: b" in suite.sentence


def test_one_unsafe_task_vetoes_a_safe_pool():
    suite = decide_suite(POOLED, [task("a", 1000, 9, 9), task("b", 200, 40, 2)], QUIET)

    assert "UNSAFE" == suite.verdict
    assert suite.reasons[0].startswith("task b changes by -19.0 points")


def test_a_task_that_holms_correction_does_not_uphold_does_not_veto():
    weak = task("weak", 400, 38, 4)
    others = [task(f"t{i}", 400, 5, 5) for i in range(9)]
    suite = decide_suite(POOLED, [weak, *others], QUIET)

    assert weak.verdict == "UNSAFE"
    assert 0.005 < weak.p_unsafe < 0.05
    assert ("SAFE", "INCONCLUSIVE") == (suite.verdict, suite.tasks[0].verdict)
    assert "Holm" in suite.tasks[0].reasons[0]


def test_a_certified_task_must_be_safe_by_itself():
    weak = [task("a", 1000, 9, 9, role="certify"), task("b", 100, 4, 3, role="certify")]
    suite = decide_suite(POOLED, weak, QUIET)

    assert "INCONCLUSIVE" == suite.verdict
    assert "task b must be SAFE by itself at 5.0 points" in suite.sentence
    assert "SAFE" == decide_suite(POOLED, weak[:1], QUIET).verdict


@pytest.mark.parametrize("noise", [Noise(table(2000, 40, 8), table(2000, 0, 0)),
                                   Noise(table(2000, 4, 4), table(2000, 0, 14)),
                                   Noise(table(2000, 4, 4), table(2000, 0, 0), mismatches=3)])  # fmt: skip
def test_a_broken_noise_floor_is_invalid_whatever_else_was_found(noise):
    for pooled in (POOLED, decide(table(2000, 100, 0), Plan(margin=0.02), SUBJECT)):
        suite = decide_suite(pooled, [], noise)
        assert "INVALID" == suite.verdict
        assert suite.sentence.startswith("INVALID: no verdict on fp8-ue8m0 against bf16 (direct mode): the noise floor")
        assert ["NOISE_FLOOR_BROKEN"] == [finding.code for finding in suite.findings]


def test_a_missing_noise_floor_is_a_finding_not_a_verdict():
    suite = decide_suite(POOLED)

    assert ("SAFE", ["NOISE_FLOOR_MISSING"]) == (suite.verdict, [f.code for f in suite.findings])
    assert (None, None) == (suite.noise, suite.noise_p)


def test_an_invalid_task_makes_the_release_invalid():
    broken = decide(table(100, 0, 0, missing_cand=50), Plan(margin=0.05), SUBJECT.model_copy(update={"task": "a"}))

    assert "INVALID" == decide_suite(POOLED, [broken], QUIET).verdict


def test_findings_and_attempt_are_kept_and_chance_is_reported():
    given_ = Finding(code="LIMITED", severity="info", message="x")
    suite = decide_suite(POOLED, [task("a", 500, 0, 0, accuracy=0.05)], QUIET, [given_], attempt=3)

    assert ["LIMITED", "BASELINE_AT_CHANCE"] == [f.code for f in suite.findings]
    assert 3 == suite.attempt
    assert {f.code for f in suite.findings} <= set(FINDINGS)


def test_the_same_question_gets_the_same_answer():
    assert decide_suite(POOLED, [task("a", 1000, 9, 9)], QUIET) == decide_suite(POOLED, [task("a", 1000, 9, 9)], QUIET)
