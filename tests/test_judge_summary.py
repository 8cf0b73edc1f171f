"""A whole run judged: planted losses, noise, missing and mismatched items, stopped runs, findings, summaries."""


import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from test_judge_pairing import accuracy, flip, item_hash, rows, world

from evalsuite.judge import judge_run, stats
from evalsuite.records import FINDINGS, Finding, Realised, Sampling, Sequence

N = 2000
RIGHT = accuracy(N, 0.7)


def run_of(candidate, *, again=None, tasks=("t",), **options):
    """One run in direct mode, every task answered alike."""
    again = flip(RIGHT, 0.004, seed=9) if again is None else again
    answers = {}
    for task in tasks:
        answers |= {("bf16", task, "direct"): RIGHT, ("fp8", task, "direct"): candidate}
        if options.get("noise", True):
            answers["bf16@aa", task, "direct"] = again
    return world(answers, **options)


def codes(judgement):
    return [finding.code for finding in judgement.findings]


def test_a_few_symmetric_flips_are_safe():
    judgement = judge_run(*run_of(flip(RIGHT, 0.02)))
    decision = judgement.decisions[0]

    assert ("SAFE", 0) == (judgement.verdict, judgement.exit_code)
    assert decision.sentence.startswith("SAFE: on new items like these 2,000 (direct mode), fp8 changes accuracy by ")
    assert decision.noise.n10 + decision.noise.n01 == 8


def test_a_planted_loss_on_five_percent_of_all_items_is_unsafe():
    judgement = judge_run(*run_of(flip(RIGHT, 0.05, only=True)))

    assert ("UNSAFE", 10) == (judgement.verdict, judgement.exit_code)
    assert -0.05 == pytest.approx(judgement.decisions[0].pooled.delta)


def test_the_baseline_against_itself_is_neither_unsafe_nor_invalid():
    for seed in range(5):
        judgement = judge_run(*run_of(flip(RIGHT, 0.04, seed=seed)))
        assert judgement.verdict in ("SAFE", "INCONCLUSIVE")


def test_a_broken_noise_floor_is_invalid():
    judgement = judge_run(*run_of(RIGHT, again=flip(RIGHT, 0.02, only=True)))

    assert ("INVALID", 12) == (judgement.verdict, judgement.exit_code)
    assert "NOISE_FLOOR_BROKEN" in codes(judgement)


def test_a_noise_floor_broken_in_parsability_alone_is_invalid():
    manifest, samples = run_of(RIGHT, again=RIGHT)
    wrong = samples.index[(samples.arm == "bf16@aa") & ~samples.correct][:15]
    samples.loc[wrong, "parsed"] = False

    assert "INVALID" == judge_run(manifest, samples).verdict


def test_no_noise_floor_is_a_finding():
    judgement = judge_run(*run_of(RIGHT, noise=False))

    assert ("SAFE", ["NOISE_FLOOR_MISSING"]) == (judgement.verdict, codes(judgement))


def test_changed_prompts_are_invalid_and_the_reason_names_an_item():
    manifest, samples = run_of(RIGHT)
    samples.loc[samples.index[(samples.arm == "fp8") & (samples.position == 7)], "prompt_hash"] = "changed"
    judgement = judge_run(manifest, samples)

    assert ("INVALID", 12) == (judgement.verdict, judgement.exit_code)
    assert item_hash("t", 7) in judgement.decisions[0].sentence


def test_other_items_in_one_arm_are_invalid():
    manifest, samples = run_of(RIGHT)
    samples.loc[samples.arm == "fp8", "item_hash"] = [f"x{i}" for i in range(N)]

    assert "INVALID" == judge_run(manifest, samples).verdict


@pytest.mark.parametrize(("lost", "verdict"), [(40, "SAFE"), (41, "INVALID")])
def test_more_than_two_percent_missing_items_are_invalid(lost, verdict):
    manifest, samples = run_of(RIGHT, margin=0.05)
    judgement = judge_run(manifest, samples.drop(samples.index[samples.arm == "fp8"][:lost]))

    assert verdict == judgement.verdict
    assert "MISSING" in codes(judgement)


def test_log_likelihoods_that_are_no_numbers_are_invalid():
    manifest, samples = run_of(RIGHT)
    samples["choice_loglikelihoods"] = [
        np.array([-1.0, np.nan if arm == "fp8" and place < 100 else -2.0])
        for arm, place in zip(samples.arm, samples.position, strict=True)
    ]

    assert "INVALID" == judge_run(manifest, samples).verdict


def test_a_missing_arm_is_invalid():
    manifest, samples = run_of(RIGHT)

    assert "INVALID" == judge_run(manifest, samples[samples.arm != "fp8"]).verdict


def failed(manifest, key):
    record = manifest.cells[key].model_copy(update={"status": "failed", "error": "out of memory"})
    return manifest.model_copy(update={"cells": {**manifest.cells, key: record}})


@pytest.mark.parametrize("status", ["done", "partial"])
def test_a_failed_cell_is_invalid_and_named(status):
    manifest, samples = run_of(RIGHT, status=status)
    judgement = judge_run(failed(manifest, "fp8.t.direct.r0"), samples[samples.arm != "fp8"])

    assert "INVALID" == judgement.verdict
    assert any("out of memory" in reason for reason in judgement.decisions[0].reasons)
    assert "CELL_FAILED" in codes(judgement)


@pytest.mark.parametrize("status", ["partial", "interrupted", "running"])
def test_a_stopped_run_is_inconclusive_until_its_fixed_plan_is_whole(status):
    manifest, samples = run_of(RIGHT, status=status)
    key = "fp8.t.direct.r0"
    running = manifest.cells[key].model_copy(update={"status": "running"})
    manifest = manifest.model_copy(update={"cells": {**manifest.cells, key: running}})
    judgement = judge_run(manifest, samples.drop(samples.index[samples.arm == "fp8"][512:]))

    assert ("INCONCLUSIVE", 11) == (judgement.verdict, judgement.exit_code)
    assert "plan not complete: 512 of 2,000 items" in judgement.decisions[0].sentence
    assert 1.0 == judgement.decisions[0].pooled.p_safe


def sequential(candidate, done, **options):
    """A sequential run of one task with a look every 500 items; `done`: windows by arm."""
    manifest, samples = run_of(candidate, design="sequential", **options)
    drawn = Sequence(order=(0,) * N, ends=(500, 1000, 1500, 2000), done=done)
    reached = samples["arm"].map(done) * 500
    return manifest.model_copy(update={"sequences": {"direct": drawn}}), samples[samples.position < reached]


def test_a_sequential_run_is_judged_on_the_windows_that_both_arms_have_finished():
    manifest, samples = sequential(RIGHT, {"bf16": 4, "bf16@aa": 3, "fp8": 3}, status="interrupted")
    judgement = judge_run(manifest, samples)

    assert ("SAFE", 1500) == (judgement.verdict, judgement.decisions[0].pooled.n)
    assert 1500 == judgement.decisions[0].noise.n
    assert "decided after 1,500 of at most 2,000 items" in judgement.decisions[0].sentence


def test_an_unfinished_window_counts_for_nothing():
    manifest, samples = sequential(RIGHT, {"bf16": 3, "bf16@aa": 3, "fp8": 3})
    early = {"bf16": 3, "bf16@aa": 3, "fp8": 2}
    drawn = manifest.sequences["direct"].model_copy(update={"done": early})
    under_way = manifest.model_copy(update={"sequences": {"direct": drawn}})
    less = samples[(samples.arm != "fp8") | (samples.position < 1000)]

    assert 1000 == judge_run(under_way, samples).decisions[0].pooled.n
    assert judge_run(under_way, samples).decisions[0].pooled == judge_run(under_way, less).decisions[0].pooled


def test_items_that_a_finished_window_lacks_are_missing_in_a_sequential_run_too():
    manifest, samples = sequential(RIGHT, {"bf16": 3, "bf16@aa": 3, "fp8": 3})
    lost = samples[(samples.arm != "fp8") | (samples.position >= 100)]

    assert 100 == judge_run(manifest, lost).decisions[0].pooled.counts.missing_cand
    assert "INVALID" == judge_run(manifest, lost).verdict


def test_a_mode_pools_the_tasks_that_have_it():
    answers = {(arm, task, mode): RIGHT for arm in ("bf16", "bf16@aa", "fp8")
               for task, mode in (("gen", "direct"), ("gen", "thinking"), ("mc", "direct"))}  # fmt: skip
    judgement = judge_run(*world(answers))
    by_mode = {d.pooled.subject.mode: d for d in judgement.decisions}

    assert (2 * N, N) == (by_mode["direct"].pooled.n, by_mode["thinking"].pooled.n)
    assert ["gen", "mc"] == [t.subject.task for t in by_mode["direct"].tasks]
    assert ["gen"] == [t.subject.task for t in by_mode["thinking"].tasks]


def test_a_collapsed_task_vetoes_although_the_pool_is_safe():
    answers = {(arm, "big", "direct"): RIGHT for arm in ("bf16", "bf16@aa", "fp8")}
    small = accuracy(100, 0.8)
    answers |= {(arm, "small", "direct"): small for arm in ("bf16", "bf16@aa")}
    answers["fp8", "small", "direct"] = flip(small, 0.2, only=True)
    decision = judge_run(*world(answers)).decisions[0]

    assert ("SAFE", "UNSAFE") == (decision.pooled.verdict, decision.verdict)
    assert "task small" in decision.sentence


def test_duplicates_truncation_ties_emulation_and_limits_become_findings():
    manifest, samples = run_of(RIGHT, limit=N)
    extra = samples[samples.arm == "fp8"].head(3).assign(position=9999)
    samples = pd.concat([samples, extra], ignore_index=True)
    samples.loc[samples.position < 30, "truncated"] = True
    samples.loc[samples.position < 30, "tie"] = True
    samples.loc[(samples.position < 5) & (samples.arm == "fp8"), "parsed"] = False
    key = "fp8.t.direct.r0"
    realised = Realised(
        recipe="fp8", execution="emulated", kernel="k", gemm_mode="fast", logits_dtype="float32", device="cpu",
        threads=1, modules=(), params_quantised=1.0, macs_quantised=1.0,
    )  # fmt: skip
    cut = Finding(code="PROMPT_TRUNCATED", severity="warning", message="2 prompts were cut.")
    record = manifest.cells[key].model_copy(update={"realised": realised, "findings": (cut,)})
    manifest = manifest.model_copy(update={"cells": {**manifest.cells, key: record}})
    judgement = judge_run(manifest, samples)

    expected = {"LIMITED", "PROMPT_TRUNCATED", "EMULATED", "TRUNCATED", "UNPARSABLE", "TIES", "DUPLICATE_ITEMS"}
    assert expected == set(codes(judgement))
    assert set(codes(judgement)) <= set(FINDINGS)
    messages = {finding.code: finding for finding in judgement.findings}
    assert "fp8 5 of 2,000" in messages["UNPARSABLE"].message
    assert ("warning", "info") == (messages["TRUNCATED"].severity, messages["UNPARSABLE"].severity)
    assert "3 rows of fp8" in messages["DUPLICATE_ITEMS"].message


def test_native_kernels_that_were_not_seen_at_work_become_a_finding():
    manifest, samples = run_of(RIGHT)
    realised = Realised(
        recipe="fp8", execution="native-unproven", kernel="k", gemm_mode="none", logits_dtype="float32", device="cuda",
        threads=1, modules=(), params_quantised=1.0, macs_quantised=1.0, kernels=("gemm_bf16",), kernel_share=0.0,
    )  # fmt: skip
    key = "fp8.t.direct.r0"
    cells = {**manifest.cells, key: manifest.cells[key].model_copy(update={"realised": realised})}
    found = codes(judge_run(manifest.model_copy(update={"cells": cells}), samples))

    assert "KERNEL_UNPROVEN" in found
    assert "EMULATED" not in found


def test_every_arm_is_summed_up_by_task_and_pooled():
    manifest, samples = run_of(RIGHT, tasks=("a", "b"))
    samples.loc[(samples.arm == "fp8") & (samples.task == "b"), "n_output_tokens"] = 30
    summaries = {(row.arm, row.task): row for row in judge_run(manifest, samples).arms}

    assert {(arm, task) for arm in ("bf16", "bf16@aa", "fp8") for task in (None, "a", "b")} == set(summaries)
    pooled = summaries["fp8", None]
    assert (2 * N, 2 * int(RIGHT.sum()), 0.7) == (pooled.n, pooled.n_correct, pooled.accuracy)
    assert stats.wilson(pooled.n_correct, pooled.n) == pytest.approx(pooled.ci)
    assert (21.0, 12.0) == (pooled.mean_output_tokens, summaries["bf16", "b"].mean_output_tokens)


def test_an_arm_that_answered_nothing_has_no_accuracy_rather_than_zero():
    manifest, samples = run_of(RIGHT)
    summary = next(s for s in judge_run(manifest, samples[samples.arm != "fp8"]).arms if s.arm == "fp8")

    assert (0, None, None, None) == (summary.n, summary.accuracy, summary.ci, summary.mean_output_tokens)


def test_the_order_of_rows_does_not_change_the_judgement():
    manifest, samples = run_of(flip(RIGHT, 0.02))

    assert judge_run(manifest, samples) == judge_run(manifest, samples.sample(frac=1, random_state=3))


def test_plans_and_items_that_the_manifest_lacks_come_from_suite_and_samples():
    manifest, samples = run_of(flip(RIGHT, 0.02))
    bare = judge_run(manifest.model_copy(update={"plans": {}, "items": {}}), samples)
    full = judge_run(manifest, samples)

    assert full.decisions[0].pooled.counts == bare.decisions[0].pooled.counts
    assert (full.verdict, 0.02, 0.05) == (
        bare.verdict, bare.decisions[0].pooled.plan.margin, bare.decisions[0].tasks[0].plan.margin)  # fmt: skip


def test_samples_of_an_item_are_judged_by_item():
    manifest, samples = run_of(RIGHT)
    more = [rows(arm, "t", flip(RIGHT, 0.1, seed=i), repeat=i) for arm in ("bf16", "fp8") for i in (1, 2, 3)]
    spec = manifest.spec.model_copy(update={"sampling": {"direct": Sampling(temperature=0.6, k=4)}})
    pooled = judge_run(manifest.model_copy(update={"spec": spec}), pd.concat([samples, *more])).decisions[0].pooled

    assert (N, "asymptotic", "INCONCLUSIVE") == (pooled.n, pooled.guarantee, pooled.verdict)
    assert 0.0 == pooled.delta  # the arms drew alike, so there is no spread and no test
    assert 1.0 == pooled.p_safe


def test_a_run_without_samples_is_invalid():
    manifest, samples = run_of(RIGHT)

    assert "INVALID" == judge_run(manifest, samples.head(0)).verdict


def test_judging_imports_neither_torch_nor_the_measuring_half():
    code = (
        "import sys, evalsuite.judge; "
        "print([m for m in sys.modules if m.split('.')[0] in ('torch', 'lm_eval', 'plotly', 'transformers') "
        "or m.startswith(('evalsuite.precision', 'evalsuite.engines', 'evalsuite.measure', 'evalsuite.runner', "
        "'evalsuite.harness', 'evalsuite.executors'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "[]" == done.stdout.strip()


def clustered(groups: int, size: int, lost: int):
    """Items in clusters; in `lost` whole clusters every right answer became wrong."""
    right = accuracy(groups * size, 0.7)
    cluster = np.arange(groups * size) // size
    manifest, samples = world({("bf16", "t", "direct"): right, ("fp8", "t", "direct"): right & (cluster >= lost)},
                              margin=0.05)  # fmt: skip
    samples["cluster"] = cluster[samples["position"]].astype(str)
    return manifest, samples


def test_a_loss_in_few_clusters_is_not_taken_for_many_independent_ones():
    manifest, samples = clustered(40, 50, 4)
    alone = judge_run(manifest, samples.drop(columns="cluster")).decisions[0].pooled
    grouped = judge_run(manifest, samples).decisions[0].pooled

    assert ("UNSAFE", "finite-sample") == (alone.verdict, alone.guarantee)
    assert ("INCONCLUSIVE", "cluster t", "asymptotic") == (grouped.verdict, grouped.ci_kind, grouped.guarantee)
    assert grouped.ci[1] - grouped.ci[0] > 2 * (alone.ci[1] - alone.ci[0])
    assert grouped.p_unsafe >= alone.p_unsafe


def test_clusters_of_one_item_are_no_obstacle_and_fewer_than_thirty_decide_nothing():
    assert judge_run(*clustered(2000, 1, 10)).verdict == "SAFE"
    assert judge_run(*clustered(20, 100, 1)).verdict == "INCONCLUSIVE"


def test_a_task_without_clusters_keeps_its_exact_test_beside_one_that_has_them():
    right = accuracy(1000, 0.7)
    answers = {(arm, task, "direct"): right for arm in ("bf16", "fp8") for task in ("alone", "grouped")}
    manifest, samples = world(answers)
    samples["cluster"] = np.where(samples["task"] == "grouped", (samples["position"] // 10).astype(str), None)
    kinds = {d.subject.task: d.ci_kind for d in judge_run(manifest, samples).decisions[0].tasks}

    assert kinds == {"alone": "score", "grouped": "cluster t"}
