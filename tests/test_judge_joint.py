"""Cost of a correct answer: hand-computed, taken apart exactly, intervals that hold, and silence where it must be."""

import math
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_judge_pairing import accuracy, rows, world
from test_judge_rounds import DECODE, MODEL, NULL, REPLAY, bench_of, emulated, energy, measured, steady

from evalsuite.errors import NotComparableError
from evalsuite.judge import Answered, judge_bench
from evalsuite.judge.answers import CORRECT, TOKENS, Answers, gather
from evalsuite.judge.costs import Cost, matching
from evalsuite.judge.effects import effect
from evalsuite.judge.joint import Asked, join
from evalsuite.records import WARNINGS, Arm, MeterAbsent, ModelRef, Realised, Recipe

PAIR = ("bf16", "fp8")


def priced(speed=1.25, joules=0.8, noise=0.0, workload=REPLAY, candidate=None, **changes):
    """A bench whose baseline makes 100 tokens a second at 2 J each, and whose candidate does so much better."""
    made = []
    for i, (arm, fast, cost) in enumerate((("bf16", 1.0, 1.0), (NULL, 1.0, 1.0), ("fp8", speed, joules))):
        speeds = steady(fast, noise=noise, seed=i)
        made.append(measured(arm, speeds, [2 * cost * s / (100 * fast) for s in speeds], workload=workload))
    made[2] = candidate or made[2]
    return bench_of(*made, **changes)


def answers(base, cand, tokens=(100, 110), n_tokens=None, **columns):
    """Samples of two arms in direct mode; `tokens` an answer."""
    one, two = tokens if n_tokens is None else n_tokens
    return pd.concat([rows("bf16", "t", base, n_output_tokens=one, **columns),
                      rows("fp8", "t", cand, n_output_tokens=two, **columns)], ignore_index=True)  # fmt: skip


def of(joints, arm, task="t"):
    return next(joint for joint in joints if joint.arm == arm and joint.task == task)


RIGHT = accuracy(200, 0.8)
LESS = accuracy(200, 0.75, seed=1)


def test_hand_computed_costs():
    """2 J and 10 ms a token; 100 tokens an answer, 80 % right: 250 J and 1.25 s a correct answer."""
    bench = priced(price_per_hour=3.6)
    joints = join(answers(RIGHT, LESS), "direct", Asked(PAIR, bench=bench))
    base, cand = of(joints, "bf16"), of(joints, "fp8")

    assert (base.n, base.n_correct, base.accuracy, base.tokens_per_answer) == (200, 160, 0.8, 100)
    assert base.tokens_per_correct.value == pytest.approx(125)
    assert base.j_per_answer.value == pytest.approx(200)
    assert base.j_per_correct.value == pytest.approx(250)
    assert base.s_per_correct.value == pytest.approx(1.25)
    assert base.cost_per_correct.value == pytest.approx(1.25 * 0.001)
    assert base.waste == pytest.approx(0.2)
    assert (base.token_inflation, base.decomposition, base.break_even_inflation) == (None, None, None)
    assert cand.j_per_correct.value == pytest.approx(1.6 * 110 / 0.75)
    assert cand.s_per_correct.value == pytest.approx(0.008 * 110 / 0.75)
    assert cand.token_inflation.value == pytest.approx(1.1)
    assert cand.break_even_inflation == pytest.approx(1 / 0.8 * 0.75 / 0.8)
    assert cand.relative["j_per_correct"].value == pytest.approx(0.8 * 1.1 * 0.8 / 0.75)
    assert (base.workload, base.meter, base.scope, base.quality) == (REPLAY.key, "nvml", "gpu_board", "L3")


@given(
    st.tuples(st.integers(30, 60), st.integers(30, 60)), st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    st.tuples(st.floats(0.2, 5), st.floats(0.2, 5)),
)  # fmt: skip
@settings(max_examples=15, deadline=None)
def test_the_decomposition_sums_exactly(right, tokens, cost):
    base, cand = (np.arange(60) < k for k in right)
    joints = join(answers(base, cand, tokens), "direct", Asked(PAIR, bench=priced(*cost), draws=20))
    cand, parts = of(joints, "fp8"), of(joints, "fp8").decomposition

    assert parts["j_per_token"] + parts["tokens"] - parts["accuracy"] == parts["j_per_correct"]
    assert parts["s_per_token"] + parts["tokens"] - parts["accuracy"] == parts["s_per_correct"]
    assert parts["j_per_correct"] == pytest.approx(
        math.log(cand.j_per_correct.value / of(joints, "bf16").j_per_correct.value), abs=1e-9
    )
    assert math.exp(parts["tokens"]) == pytest.approx(cand.token_inflation.value)
    # At the break-even inflation the joules a correct answer are the baseline's.
    assert math.log(cand.break_even_inflation) == pytest.approx(parts["accuracy"] - parts["j_per_token"], abs=1e-9)


def test_emulated_arms_have_tokens_and_nothing_that_needs_hardware():
    bench = priced(candidate=emulated(workload=REPLAY))
    cand = of(join(answers(RIGHT, LESS), "direct", Asked(PAIR, bench=bench)), "fp8")

    assert cand.tokens_per_correct.value == pytest.approx(110 / 0.75)
    assert cand.token_inflation.value == pytest.approx(1.1)
    assert set(cand.relative) == {"tokens_per_correct"}
    assert set(cand.decomposition) == {"tokens", "accuracy", "tokens_per_correct"}
    assert (cand.j_per_answer, cand.j_per_correct, cand.s_per_correct, cand.cost_per_correct) == (None,) * 4
    assert (cand.workload, cand.meter, cand.break_even_inflation) == (None, None, None)
    assert "emulated_speed" in cand.reasons


def test_emulated_answers_are_not_joined_with_a_native_speed():
    joints = join(answers(RIGHT, LESS), "direct", Asked(PAIR, bench=priced(), emulated=frozenset({"fp8"})))
    cand = of(joints, "fp8")

    assert (cand.j_per_correct, cand.s_per_correct) == (None, None)
    assert set(cand.relative) == {"tokens_per_correct"}
    assert "composite" in cand.reasons
    assert of(joints, "bf16").j_per_correct is not None


def test_fewer_than_thirty_correct_answers_give_no_cost_of_each():
    few, enough = (of(join(answers(RIGHT, np.arange(200) < k), "direct", Asked(PAIR, bench=priced())), "fp8")
                   for k in (29, 30))  # fmt: skip

    assert (few.tokens_per_correct, few.j_per_correct, few.s_per_correct, few.relative) == (None, None, None, {})
    assert "few_correct" in few.reasons
    assert few.j_per_answer is not None
    assert enough.j_per_correct.value == pytest.approx(1.6 * 110 * 200 / 30)


def test_no_correct_answer_at_all_is_not_infinity():
    joint = of(join(answers(RIGHT, np.zeros(200, bool)), "direct", Asked(PAIR, bench=priced())), "fp8")

    assert joint.accuracy == 0
    assert joint.waste == 1
    assert joint.j_per_correct is None


def test_a_baseline_that_differs_from_itself_bars_comparisons_and_not_the_costs():
    bench = priced()
    off = measured(NULL, steady(1.05, noise=1e-4, seed=8), [2.0] * 6, workload=REPLAY)
    bench = bench.model_copy(update={"measurements": (bench.measurements[0], off, bench.measurements[2])})
    cand = of(join(answers(RIGHT, LESS), "direct", Asked(PAIR, bench=bench)), "fp8")

    assert "aa_failed" in cand.reasons
    assert cand.s_per_correct is not None
    assert set(cand.relative) == {"tokens_per_correct", "j_per_correct"}


def test_without_a_meter_seconds_are_joined_and_joules_say_why_not():
    bare = tuple(row.model_copy(update={"windows": tuple(w.model_copy(update={"energy": ()}) for w in row.windows)})
                 for row in priced().measurements)  # fmt: skip
    absent = MeterAbsent(id="rapl", reason="rapl_absent_vm", detail="a virtual machine")
    joint = of(join(answers(RIGHT, LESS), "direct", Asked(PAIR, bench=bench_of(*bare, absent=(absent,)))), "bf16")

    assert joint.s_per_correct.value == pytest.approx(1.25)
    assert joint.j_per_correct is None
    assert joint.reasons == ("rapl_absent_vm",)


def test_the_meter_that_sees_most_is_joined_and_others_are_never_mixed_in():
    rows_ = []
    for row in priced().measurements:
        both = tuple(w.model_copy(update={"energy": (*w.energy, energy(3 * w.energy[0].energy_j, meter="wall",
                     scope="node_ac", method="external.ac_meter", quality="L4"))}) for w in row.windows)  # fmt: skip
        rows_.append(row.model_copy(update={"windows": both}))
    joint = of(join(answers(RIGHT, LESS), "direct", Asked(PAIR, bench=bench_of(*rows_))), "bf16")

    assert (joint.meter, joint.scope, joint.quality) == ("wall", "node_ac", "L4")
    assert joint.j_per_correct.value == pytest.approx(750)


def test_a_replay_is_preferred_and_decoding_alone_is_said():
    decode, replay = priced(workload=DECODE), priced()
    both = bench_of(*decode.measurements, *replay.measurements)
    joint = of(join(answers(RIGHT, LESS), "direct", Asked(PAIR, bench=decode)), "fp8")

    assert matching(both, "direct") == REPLAY
    assert joint.workload == DECODE.key
    assert "decode_only" in joint.reasons
    assert "decode_only" in WARNINGS
    assert matching(priced(workload=DECODE.model_copy(update={"phase": "prefill"})), "direct") is None


def test_only_questions_that_every_arm_answered_count_in_any_order():
    samples = answers(RIGHT, LESS, n_tokens=(np.arange(200) + 50, np.arange(200) + 60))
    holes = samples.drop(index=[3, 250]).sample(frac=1, random_state=1)
    doubled = pd.concat([holes, holes.head(20).assign(n_output_tokens=9999)])
    joint, again = (of(join(s, "direct", Asked(PAIR, bench=priced())), "fp8") for s in (holes, doubled))

    assert joint.n == 198
    assert joint == again
    kept = [i for i in range(200) if i not in (3, 50)]
    assert joint.token_inflation.value == pytest.approx((np.mean(kept) + 60) / (np.mean(kept) + 50))


def test_choices_by_likelihood_have_no_tokens_and_no_cost():
    assert join(answers(RIGHT, LESS, (None, None)), "direct", Asked(PAIR)) == ()
    assert join(answers(RIGHT, LESS), "thinking", Asked(PAIR)) == ()


def test_pooled_comes_first_and_adds_up_the_tasks():
    second = answers(RIGHT, LESS, (300, 300)).assign(task="u")
    joints = join(pd.concat([answers(RIGHT, LESS), second]), "direct", Asked(PAIR))

    assert [(j.task, j.arm) for j in joints] == [(t, a) for t in (None, "t", "u") for a in PAIR]
    assert of(joints, "fp8", None).n == 400
    assert of(joints, "fp8", None).token_inflation.value == pytest.approx(410 / 400)


def test_cut_and_wrong_answers_are_wasted_and_counted():
    cut = np.arange(200) < 10
    samples = answers(RIGHT, RIGHT, truncated=cut)
    joint = of(join(samples, "direct", Asked(PAIR)), "fp8")

    assert joint.waste == pytest.approx(np.mean(~RIGHT | cut))
    assert joint.truncated == pytest.approx(0.05)
    assert "length_saturated" in joint.reasons


def test_inflation_outside_the_band_is_said_and_that_of_right_answers_stands_beside():
    two = np.where(RIGHT, 100, 400)
    joint = of(join(answers(RIGHT, RIGHT, n_tokens=(100, two)), "direct", Asked(PAIR)), "fp8")

    assert joint.token_inflation.value == pytest.approx(1.6)
    assert joint.token_inflation_both_right.value == pytest.approx(1.0)
    assert "tpi_out_of_band" in joint.reasons


def test_the_noise_floor_is_the_inflation_between_two_runs_of_the_baseline():
    again = rows("bf16@aa", "t", RIGHT, n_output_tokens=97)
    samples = pd.concat([answers(RIGHT, LESS), again])
    joint = of(join(samples, "direct", Asked(PAIR, noise_arm="bf16@aa")), "fp8")

    assert joint.token_inflation_noise == pytest.approx(-math.log(0.97))
    assert of(join(samples, "direct", Asked(PAIR)), "fp8").token_inflation_noise is None


def lognormal(rng, n, repeats=1):
    """Tokens of both arms: items differ much, the arms little (true inflation 1)."""
    item = np.exp(0.8 * rng.standard_normal(n))
    return [200 * np.repeat(item, repeats) * np.exp(0.2 * rng.standard_normal(n * repeats)) for _ in PAIR]


def test_pairing_makes_the_interval_of_the_inflation_narrow():
    one, two = lognormal(np.random.default_rng(0), 200)
    joint = of(join(answers(RIGHT, RIGHT, n_tokens=(one, two)), "direct", Asked(PAIR)), "fp8")
    half = math.log(joint.token_inflation.ci95[1] / joint.token_inflation.ci95[0]) / 2
    log = np.log([one.sum(), two.sum()])
    unpaired = 1.96 * math.sqrt(one.var() / one.mean() ** 2 / 200 + two.var() / two.mean() ** 2 / 200)

    assert joint.token_inflation.ci95[0] < math.exp(log[1] - log[0]) < joint.token_inflation.ci95[1]
    assert half < unpaired / 2


def test_repeats_of_an_item_and_clusters_of_items_are_resampled_together():
    """200 items, four times over, are not 800 questions; nor are 40 passages with five questions each 200."""
    rng = np.random.default_rng(3)
    item = np.exp(0.8 * rng.standard_normal(200))
    frames = [answers(RIGHT, RIGHT, n_tokens=(100 * item, 100 * item)).assign(repeat=k) for k in range(4)]
    passages = answers(RIGHT, RIGHT, n_tokens=(100 * np.repeat(item[:40], 5),) * 2, cluster=np.repeat(np.arange(40), 5))

    def half(samples):
        joint = of(join(samples.astype({"cluster": "string"}) if "cluster" in samples else samples, "direct",
                        Asked(PAIR)), "fp8")  # fmt: skip
        return math.log(joint.tokens_per_correct.ci95[1] / joint.tokens_per_correct.ci95[0]) / 2

    assert half(pd.concat(frames)) == pytest.approx(half(frames[0]), rel=0.05)
    assert half(passages) > 1.5 * half(passages.drop(columns="cluster"))


def test_the_interval_of_joules_a_correct_answer_covers_the_truth():
    """Items and rounds both vary, and each matters; the truth is a ratio of 1."""
    rng, covered, sims = np.random.default_rng(5), 0, 600
    for sim in range(sims):
        tokens, right = np.array(lognormal(rng, 150)).T, (rng.random((150, 2)) < 0.7).astype(float)
        sums = np.stack([np.ones((150, 2)), tokens, right], axis=2)
        drawn = Answers(("t",), PAIR, np.zeros(150, np.int64), sums).resampled(400, sim)[0]
        cost = Cost({arm: 0.05 * rng.standard_normal(6) for arm in PAIR}, {}, {})
        rounds = cost.resampled(400, sims + sim)
        logs = np.log(drawn[..., TOKENS] / drawn[..., CORRECT]) + np.array([rounds[arm] for arm in PAIR]).T
        low, high = np.quantile(logs[:, 1] - logs[:, 0], (0.025, 0.975))
        covered += low <= 0 <= high

    assert 0.925 <= covered / sims <= 0.985


@pytest.mark.parametrize("n", [3, 6, 10])
def test_resampled_rounds_spread_as_wide_as_the_t_interval(n: int):
    """Six rounds resampled as they are would claim an interval a third too narrow."""
    y = 0.02 * np.random.default_rng(n).standard_normal(n)
    drawn = Cost({"bf16": y}, {}, {}).resampled(20_000, 1)["bf16"]
    low, high = np.quantile(drawn, (0.025, 0.975))

    assert (high - low) / 2 == pytest.approx(float(effect(y).half), rel=0.25 if n == 3 else 0.1)
    assert Cost({"bf16": y[:1]}, {}, {}).resampled(10, 1) == {}


def test_two_thousand_items_and_ten_thousand_draws_take_seconds():
    rng = np.random.default_rng(0)
    right = accuracy(2000, 0.8)
    samples = answers(right, right, n_tokens=lognormal(rng, 2000))
    start = time.process_time()
    joints = join(samples, "direct", Asked(PAIR, bench=priced()))

    assert of(joints, "fp8").n == 2000
    assert time.process_time() - start < 10


def test_resampling_keeps_the_number_of_items_and_is_seeded():
    found = gather(answers(RIGHT, LESS), PAIR, "direct")
    one, two = found.resampled(50, 7), found.resampled(50, 7)

    assert (one == two).all()
    assert (one[..., 0] == 200).all()
    assert not (one == found.resampled(50, 8)).all()


def judged(bench, execution="native"):
    manifest, samples = world({(a, "t", "direct"): RIGHT for a in ("bf16", "bf16@aa", "fp8")})
    samples["n_output_tokens"] = np.where(samples["arm"] == "fp8", 105, 100)
    realised = Realised(recipe="fp8", execution=execution, kernel="k", gemm_mode="none", logits_dtype="float32",
                        device="cuda", threads=1, modules=(), params_quantised=1.0, macs_quantised=1.0)  # fmt: skip
    cells = {key: record.model_copy(update={"realised": realised}) if record.cell.arm == "fp8" else record
             for key, record in manifest.cells.items()}  # fmt: skip
    return judge_bench(bench, Answered(manifest.model_copy(update={"cells": cells}), samples))


def test_a_bench_is_joined_with_a_run():
    made = judged(priced())

    assert made.run_id == "r1"
    assert [joint.arm for joint in made.joints] == ["bf16", "fp8"]
    assert made.joints[1].relative["j_per_correct"].value == pytest.approx(0.8 * 1.05)
    assert made.joints[1].token_inflation_noise == pytest.approx(0.0)
    assert set(judged(priced(), "emulated").reasons) == {"composite"}
    assert not judged(priced(), "declared").reasons  # a server answered: nothing was emulated


@pytest.mark.parametrize("changes", [
    {"arms": tuple(Arm(id=a, model=MODEL, recipe=Recipe(id=a, label="other")) for a in PAIR)},
    {"arms": tuple(Arm(id=a, model=ModelRef(id="other"), recipe=Recipe(id=a, label=a)) for a in PAIR)},
    {"baseline": "fp8"},
])  # fmt: skip
def test_a_run_of_other_arms_or_models_is_refused(changes):
    bench = priced()
    bench = bench.model_copy(update={"spec": bench.spec.model_copy(update=changes)})
    with pytest.raises(NotComparableError, match="Join a run"):
        judged(bench)
