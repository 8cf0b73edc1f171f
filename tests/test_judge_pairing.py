"""Pairing: items meet by hash, in any order; what is missing, duplicated, unmeasured or differently asked is seen.

`world` builds a run (manifest and samples) for the tests of the judge's other rooms too.
"""


import hashlib

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalsuite.judge.layout import COLUMNS, lay_out
from evalsuite.judge.pairing import pair
from evalsuite.records import (
    SAMPLE_COLUMNS,
    Arm,
    Cell,
    CellRecord,
    DecisionSpec,
    Manifest,
    ModelRef,
    Plan,
    Recipe,
    RunSpec,
    Sampling,
    TaskSpec,
)

MODEL = ModelRef(id="reference")
ARMS = ("bf16", "bf16@aa", "fp8")


def item_hash(task: str, index: int) -> str:
    return hashlib.sha256(f"{task}/{index}".encode()).hexdigest()[:16]


def rows(arm, task, right, mode="direct", **columns):
    """Samples of one cell; `right` says for each item whether the answer is right."""
    n = len(right)
    hashes = [item_hash(task, i) for i in range(n)]
    base = {
        "task": task, "item_id": [str(i) for i in range(n)], "item_hash": hashes, "arm": arm, "mode": mode,
        "prompt_hash": [f"p{h}{mode}" for h in hashes], "repeat": np.int32(0), "group": np.int32(0),
        "position": np.arange(n, dtype=np.int32), "correct": np.asarray(right, bool), "parsed": True,
        "score": np.asarray(right, float), "truncated": False, "n_output_tokens": np.int32(12),
        "choice_loglikelihoods": None, "tie": False,
    }  # fmt: skip
    frame = pd.DataFrame({**base, **columns}, index=range(n))
    return frame.reindex(columns=[c for c in SAMPLE_COLUMNS if c in frame])


def accuracy(n, share, seed=0):
    return np.random.default_rng(seed).permutation(n) < round(share * n)


def flip(right, share, seed=1, only=None):
    """Answers with a share of all items changed: as many gained as lost; `only=True` makes right ones wrong."""
    changed, rng = right.copy(), np.random.default_rng(seed)
    sides, k = ([True, False], share / 2) if only is None else ([only], share)
    for side in sides:
        chosen = rng.choice(np.flatnonzero(right == side), round(k * len(right)), replace=False)
        changed[chosen] = not side
    return changed


def world(answers, *, margin=0.02, guard=0.05, role="monitor", status="done", design="fixed", limit=None, noise=True):
    """A run. `answers`: {(arm, task, mode): right}. Everything that was planned is what the baseline answered."""
    frames = [rows(arm, task, right, mode) for (arm, task, mode), right in answers.items()]
    keys = list(dict.fromkeys((task, mode) for _, task, mode in answers))
    arms = tuple(
        Arm(id=a, model=MODEL, recipe=Recipe(id=a, label=a), noise_floor=a.endswith("@aa"))
        for a in ARMS if noise or not a.endswith("@aa")
    )  # fmt: skip
    tasks = tuple(
        TaskSpec(task=t, metric="exact_match", filter="answer", role=role, margin=guard,
                 modes=tuple(m for u, m in keys if u == t), max_gen_toks={"direct": 64, "thinking": 256})
        for t in dict.fromkeys(task for task, _ in keys)
    )  # fmt: skip
    items = {f"{t}.{m}": tuple(item_hash(t, i) for i in range(len(answers["bf16", t, m]))) for t, m in keys}
    plans = {key: Plan(margin=guard, role=role, design=design, n_planned=len(items[key])) for key in items}
    for mode in {m for _, m in keys}:
        total = sum(len(h) for key, h in items.items() if key.endswith("." + mode))
        plans[f"pooled.{mode}"] = Plan(margin=margin, design=design, n_planned=total)
    cells = [Cell(arm=a, task=t, mode=m) for a, t, m in answers]
    spec = RunSpec(
        name="test", model=MODEL, arms=arms, baseline="bf16", tasks=tasks, limit=limit, limited=limit is not None,
        decision=DecisionSpec(margin=margin, design=design), sampling={"direct": Sampling(), "thinking": Sampling()},
    )  # fmt: skip
    manifest = Manifest(
        run_id="r1", created="2026-01-01T00:00:00Z", status=status, spec=spec, spec_sha256="", plans=plans, items=items,
        machine={}, software={},
        cells={c.key: CellRecord(cell=c, status="done", resume_key="", n_planned=1) for c in cells},
    )  # fmt: skip
    return manifest, pd.concat(frames, ignore_index=True)


def paired(samples, planned, **kwargs):
    return pair(lay_out(planned, samples, "direct", **kwargs), "bf16", "fp8")


PLANNED = {"t": [item_hash("t", i) for i in range(6)]}
BASE = rows("bf16", "t", [1, 1, 1, 0, 0, 0])
CAND = rows("fp8", "t", [1, 0, 0, 1, 0, 0])


def cells(counts):
    return (counts.n, counts.n11, counts.n10, counts.n01, counts.n00)


def test_items_meet_by_hash_not_by_position():
    shuffled = CAND.sample(frac=1, random_state=4).assign(position=range(6))

    assert (6, 1, 2, 1, 2) == cells(paired(pd.concat([BASE, shuffled]), PLANNED).pooled)


@given(st.randoms(use_true_random=False), st.integers(0, 40))
@settings(max_examples=25, deadline=None)
def test_the_order_of_rows_does_not_matter(random, copies):
    samples = pd.concat([BASE, CAND, CAND.head(copies % 4).assign(correct=True)], ignore_index=True)
    order = list(range(len(samples)))
    random.shuffle(order)

    assert paired(samples, PLANNED).pooled == paired(samples.iloc[order], PLANNED).pooled


def test_swapping_the_arms_swaps_the_counts():
    grid = lay_out(PLANNED, pd.concat([BASE, CAND]), "direct")
    one, two = pair(grid, "bf16", "fp8").pooled, pair(grid, "fp8", "bf16").pooled

    assert (one.n10, one.n01, one.n11) == (two.n01, two.n10, two.n11)


def test_counts_agree_with_a_merge():
    rng = np.random.default_rng(5)
    planned = {t: [item_hash(t, i) for i in range(300)] for t in ("a", "b")}
    frames = [rows(arm, t, rng.random(300) < 0.6).sample(280, random_state=i)
              for i, (arm, t) in enumerate([("bf16", "a"), ("bf16", "b"), ("fp8", "a"), ("fp8", "b")])]  # fmt: skip
    samples = pd.concat(frames)
    merged = samples[samples.arm == "bf16"].merge(samples[samples.arm == "fp8"], on=["task", "item_hash"])
    result = paired(samples, planned)

    table = merged.groupby(["task", "correct_x", "correct_y"]).size()
    for task in planned:
        assert int(table[task, True, False]) == result.tasks[task].n10
        assert int(table[task, False, True]) == result.tasks[task].n01
    assert len(merged) == result.pooled.n
    assert 40 == result.pooled.missing_base


def test_items_that_one_arm_lacks_are_missing_with_what_the_other_answered():
    counts = paired(pd.concat([BASE.drop([0, 5]), CAND.drop([1, 5])]), PLANNED).pooled

    assert (3, 2, 2, 1) == (counts.n, counts.missing_base, counts.missing_cand, counts.missing_both)
    assert (1, 1) == (counts.base_right_cand_missing, counts.cand_right_base_missing)
    assert 0 == counts.unmeasured


def test_an_arm_without_samples_has_everything_missing():
    counts = paired(BASE, PLANNED).pooled

    assert (0, 6, 0) == (counts.n, counts.missing_cand, counts.missing_base)


def test_items_of_a_cell_that_has_not_ended_are_unmeasured_not_missing():
    samples = pd.concat([BASE, CAND.head(2)])
    counts = paired(samples, PLANNED, open_cells={("fp8", "t"): 1}).pooled

    assert (2, 4, 0) == (counts.n, counts.unmeasured, counts.missing_cand)


def test_an_item_waits_for_its_last_repeat():
    samples = pd.concat([BASE, BASE.assign(repeat=1), CAND, CAND.head(2).assign(repeat=1)])
    counts = paired(samples, PLANNED, open_cells={("fp8", "t"): 2}).pooled

    assert (2, 4) == (counts.n, counts.unmeasured)


def test_a_second_answer_to_an_item_is_dropped_and_counted():
    again = CAND.assign(position=CAND.position + 100, correct=True)
    grid = lay_out(PLANNED, pd.concat([again, BASE, CAND]), "direct")

    assert (6, 1, 2, 1, 2) == cells(pair(grid, "bf16", "fp8").pooled)
    assert (6, 0) == (grid.columns["fp8"].duplicates, grid.columns["bf16"].duplicates)


def test_an_item_that_the_plan_names_twice_counts_once():
    grid = lay_out({"t": [*PLANNED["t"], PLANNED["t"][0]]}, pd.concat([BASE, CAND]), "direct")

    assert {"t": 1} == grid.duplicates
    assert 6 == pair(grid, "bf16", "fp8").pooled.n


def test_rows_that_were_not_planned_are_ignored_and_counted():
    grid = lay_out({"t": PLANNED["t"][:4]}, pd.concat([BASE, CAND]), "direct")

    assert (4, 1, 2, 1, 0) == cells(pair(grid, "bf16", "fp8").pooled)
    assert 4 == grid.unplanned


def test_the_same_item_under_another_prompt_is_a_mismatch():
    changed = CAND.assign(prompt_hash=["other", *CAND.prompt_hash[1:]])
    result = paired(pd.concat([BASE, changed]), PLANNED)

    assert {"t": 1} == result.mismatches
    assert ("t", item_hash("t", 0)) == result.first_mismatch


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_log_likelihood_that_is_no_number_makes_the_item_missing(bad):
    good = [np.array([-1.0, -2.0])] * 6
    broken = [np.array([-1.0, bad]), *good[1:]]
    samples = pd.concat([BASE.assign(choice_loglikelihoods=good), CAND.assign(choice_loglikelihoods=broken)])
    counts = paired(samples, PLANNED).pooled

    assert (5, 1, 1) == (counts.n, counts.missing_cand, counts.base_right_cand_missing)


def test_unparsable_answers_count_as_wrong_and_are_counted():
    counts = paired(pd.concat([BASE, CAND.assign(parsed=[False, False, True, True, True, True])]), PLANNED)

    assert (0, 2) == (counts.pooled.unparsable_base, counts.pooled.unparsable_cand)
    assert (6, 4, 2, 0, 0) == cells(counts.parsed)


def test_repeats_of_an_item_are_averaged_not_pooled():
    samples = pd.concat([BASE, BASE.assign(repeat=1), CAND, CAND.assign(repeat=1, correct=True)])
    result = paired(samples, PLANNED)

    assert 6 == result.pooled.n
    assert 2 == result.scores.repeats
    assert [1.0, 0.5, 0.5, 1.0, 0.5, 0.5] == result.scores.cand.tolist()
    assert [0.0, -0.5, -0.5, 1.0, 0.5, 0.5] == result.scores.worst().tolist()


def test_absent_scores_are_taken_at_their_worst_and_best():
    scores = paired(pd.concat([BASE.drop(0), CAND.drop(1)]), PLANNED).scores

    assert [0.0, -1.0, -1.0, 1.0, 0.0, 0.0] == scores.worst().tolist()
    assert [1.0, 0.0, -1.0, 1.0, 0.0, 0.0] == scores.best().tolist()


def test_unknown_flags_count_as_false_and_an_unknown_answer_as_missing():
    base = BASE.assign(tie=[None, True, None, None, None, None], n_output_tokens=[None] * 6)
    cand = CAND.assign(correct=pd.Series([None, *CAND.correct[1:]], dtype=object))
    grid = lay_out(PLANNED, pd.concat([base, cand]), "direct")

    assert [False, True, False, False, False, False] == grid.columns["bf16"].first["tie"].tolist()
    assert np.isnan(grid.columns["bf16"].tokens).all()
    assert 1 == pair(grid, "bf16", "fp8").pooled.missing_cand


def test_only_the_mode_asked_for_is_laid_out():
    samples = pd.concat([BASE, CAND, CAND.assign(mode="thinking", correct=True)])

    assert 2 == paired(samples, PLANNED).pooled.n10


def test_the_columns_that_judging_reads_exist():
    assert set(COLUMNS) <= set(SAMPLE_COLUMNS)


def test_nothing_planned_is_nothing_paired():
    assert 0 == paired(pd.concat([BASE, CAND]), {}).pooled.n
    assert 0 == paired(BASE.head(0), {"t": []}).pooled.n
