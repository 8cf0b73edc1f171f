"""Divergence figures in llama.cpp's vocabulary, intervals by answer, levels that warn and certify nothing."""

import numpy as np
import pandas as pd
import pytest
from test_judge_pairing import accuracy, flip, world

from evalsuite.judge import judge_run
from evalsuite.judge.divergence import divergence_findings, divergences

RIGHT = accuracy(400, 0.7)


def tokens(arm: str, mean: float, *, answers: int = 50, length: int = 40, task: str = "t", top: float = 1.0):
    rng = np.random.default_rng(len(arm))
    n = answers * length
    each = np.repeat(rng.gamma(2.0, mean / 2, answers), length)  # tokens of an answer hang together
    return pd.DataFrame({
        "arm": arm, "mode": "direct", "task": task, "item_hash": np.repeat(np.arange(answers).astype(str), length),
        "token": np.tile(np.arange(length), answers), "kl": each, "same_top": rng.random(n) < top,
        "logprob_base": -0.5, "logprob": -0.6,
    })  # fmt: skip


def test_figures_are_those_of_the_tokens():
    rows = tokens("fp8", 0.004)
    one = divergences(rows, ("fp8", None), "direct")[0]

    assert one.mean_kl == pytest.approx(rows.kl.mean())
    assert (one.median_kl, one.max_kl) == (pytest.approx(rows.kl.median()), rows.kl.max())
    assert one.p999_kl == pytest.approx(rows.kl.quantile(0.999))
    assert one.ppl_ratio == pytest.approx(np.exp(0.1))
    assert one.mean_dp == pytest.approx(np.exp(-0.6) - np.exp(-0.5))
    assert [(b.first, b.n_tokens) for b in one.bins] == [(0, 800), (16, 1200)]


def test_intervals_take_the_answer_as_the_unit():
    rows = tokens("fp8", 0.004)
    one = divergences(rows, ("fp8", None), "direct")[0]
    by_token = 1.645 * rows.kl.std() / len(rows) ** 0.5

    assert one.ci[0] < one.mean_kl < one.ci[1]
    assert (one.ci[1] - one.ci[0]) / 2 > 3 * by_token  # 40 tokens of one answer are not 40 observations


def test_the_noise_floor_stands_beside_it_task_by_task():
    rows = pd.concat([tokens("fp8", 0.004), tokens("fp8", 0.002, task="u"), tokens("bf16@aa", 0.0004),
                      tokens("bf16@aa", 0.0002, task="u")])  # fmt: skip
    pooled, t, u = divergences(rows, ("fp8", "bf16@aa"), "direct")

    assert (pooled.task, t.task, u.task) == (None, "t", "u")
    assert t.noise_ratio == pytest.approx(t.mean_kl / t.noise_kl)
    assert pooled.n_sequences == 100


@pytest.mark.parametrize(
    ("mean", "top", "level"),
    [(0.001, 1.0, "info"), (0.02, 1.0, "warning"), (0.001, 0.9, "warning"), (0.2, 0.8, "alert")],
)
def test_levels_warn(mean: float, top: float, level: str):
    found = divergences(tokens("fp8", mean, top=top), ("fp8", None), "direct")

    assert found[0].level == level
    assert len(divergence_findings(found, "fp8")) == (level != "info")


def test_divergence_changes_no_verdict():
    manifest, samples = world({("bf16", "t", "direct"): RIGHT, ("fp8", "t", "direct"): RIGHT})
    calm = judge_run(manifest, samples).decisions[0]
    wild = judge_run(manifest, samples, divergence=tokens("fp8", 0.5, top=0.1)).decisions[0]

    assert (calm.verdict, calm.sentence) == (wild.verdict, wild.sentence)
    assert "DIVERGED" in [finding.code for finding in wild.findings]


def named(candidate, **columns):
    manifest, samples = world({("bf16", "t", "direct"): RIGHT, ("fp8", "t", "direct"): candidate})
    for name, values in columns.items():
        samples.loc[samples.arm == "fp8", name] = values
    return {point.name: point for point in judge_run(manifest, samples).decisions[0].endpoints}


def test_unparsable_and_cut_answers_are_endpoints_of_their_own():
    bad = np.arange(400) < 40
    found = named(RIGHT, parsed=~bad, truncated=bad)

    assert (found["unparsable"].state, found["truncated"].state) == ("broken", "broken")
    assert found["unparsable"].change == pytest.approx(0.1)
    assert named(RIGHT)["unparsable"].state == "open"  # 400 items cannot show half a point


def test_longer_answers_are_seen_and_equal_ones_are_held():
    rng = np.random.default_rng(0)
    longer, equal = (rng.integers(low, low + 3, 400).astype(np.int32) for low in (14, 11))

    assert named(RIGHT, n_output_tokens=longer)["length ratio"].state == "broken"
    assert named(RIGHT, n_output_tokens=equal)["length ratio"].state == "held"


def test_soft_accuracy_sees_a_loss_that_flips_nothing():
    answers = {(arm, "t", "direct"): RIGHT for arm in ("bf16", "fp8")}
    manifest, samples = world(answers)
    gold = np.where(samples.arm == "bf16", -1.0, -1.3)
    samples["choice_loglikelihoods"] = [[g, -3.0, -3.0, -3.0] for g in gold]
    samples["gold_loglikelihood"] = gold
    found = {point.name: point for point in judge_run(manifest, samples).decisions[0].endpoints}

    assert found["gold log-likelihood"].change == pytest.approx(-0.3)
    assert found["soft accuracy"].base == pytest.approx(np.exp(-1) / (np.exp(-1) + 3 * np.exp(-3)))
    assert "length ratio" not in found
    samples.loc[samples.arm == "fp8", "gold_loglikelihood"] -= flip(RIGHT, 0.5) * 0.1
    assert judge_run(manifest, samples).verdict in ("SAFE", "INCONCLUSIVE")
