"""The triple test: exact under "just another run of the baseline", and it finds flips beyond the noise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_judge_pairing import accuracy, flip, world

from evalsuite.judge import judge_run
from evalsuite.judge.noise import triple_test

RIGHT = accuracy(1000, 0.7)


def runs(*shares: float, seed: int, n: int = 1000) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.random(n) < share for share in shares]


def test_a_candidate_that_is_just_another_run_is_flagged_at_most_as_often_as_stated():
    found = sum(triple_test(*runs(0.05, 0.05, seed=seed)).p <= 0.05 for seed in range(2000))

    assert found / 2000 <= 0.05 + 2 * (0.05 * 0.95 / 2000) ** 0.5
    assert found / 2000 >= 0.01  # specification: 1.3 to 4.1 %


def test_flips_beyond_the_noise_are_found_with_the_specified_power():
    found = sum(triple_test(*runs(0.05, 0.072, seed=seed)).p <= 0.05 for seed in range(400))

    assert found / 400 > 0.5


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60))
def test_excess_is_the_difference_of_the_shares_and_lies_in_its_interval(pairs):
    noise, change = np.array(pairs, bool).T
    flips = triple_test(noise, change)

    assert flips.excess == pytest.approx(flips.ab - flips.aa)
    assert flips.ci[0] <= flips.excess <= flips.ci[1]
    assert 0 < flips.p <= 1


def test_no_flip_at_all_proves_nothing():
    assert triple_test(np.zeros(50, bool), np.zeros(50, bool)).p == 1


def judged(candidate_predictions):
    answers = {("bf16", "t", "direct"): RIGHT, ("bf16@aa", "t", "direct"): flip(RIGHT, 0.01),
               ("fp8", "t", "direct"): flip(RIGHT, 0.06, seed=4)}  # fmt: skip
    manifest, samples = world(answers)
    if candidate_predictions is not None:
        samples["prediction"] = samples["position"].astype(str)
        wrong = (samples["arm"] == "fp8") & (samples["position"] < candidate_predictions)
        samples.loc[wrong, "prediction"] = "other"
    return judge_run(manifest, samples).decisions[0].excess


def test_answers_are_compared_where_the_samples_hold_them():
    excess = judged(300)

    assert (excess.answers.aa, excess.answers.ab) == (0, 0.3)
    assert (excess.correct.aa, excess.correct.ab) == (0.01, 0.06)
    assert "answers differ on 30.0 % of the items" in excess.sentence


def test_without_stored_answers_correctness_alone_is_compared():
    excess = judged(None)

    assert excess.answers is None
    assert excess.correct.p < 1e-6
    assert "right and wrong differ on 6.0 %" in excess.sentence
