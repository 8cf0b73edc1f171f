"""Whole runs over the tiny model: completeness, kills, resume, failing cells."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from evalsuite import spec as suites
from evalsuite import workflow
from evalsuite.errors import RefusedError
from evalsuite.records import SAMPLE_COLUMNS
from evalsuite.store import Store


def resolved(path: Path, **overrides):
    return suites.resolve(suites.load(str(path)), suites.Overrides(**overrides))[0]


def start(suite: Path, results: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "evalsuite", "run", str(suite), "--results", str(results), *more]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def same(a: pd.DataFrame, b: pd.DataFrame) -> None:
    order = ["arm", "task", "mode", "position"]
    a, b = (f.sort_values(order).reset_index(drop=True) for f in (a, b))
    for column in ("output_token_ids", "choice_loglikelihoods"):
        a[column], b[column] = (f[column].map(lambda v: None if v is None else tuple(v)) for f in (a, b))
    pd.testing.assert_frame_equal(a, b)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> workflow.Run:
    """One uninterrupted run, shared by the tests of this module."""
    from tests.conftest import SUITE

    folder = tmp_path_factory.mktemp("whole")
    suite = folder / "tiny.yaml"
    suite.write_text(SUITE.format(name="tiny", model=tiny_model, group_tokens=1024, limit=24))
    return workflow.run(resolved(suite), workflow.Options(results=folder / "results"))


def test_every_planned_item_has_one_sample_in_every_cell(whole: workflow.Run):
    samples = whole.samples()

    assert whole.manifest.status == "done"
    assert len(whole.manifest.cells) == 3 * 3  # arms x (two modes of one task, one of the other)
    assert list(samples.columns) == list(SAMPLE_COLUMNS)
    for key, record in whole.manifest.cells.items():
        cell = record.cell
        own = samples[(samples["arm"] == cell.arm) & (samples["task"] == cell.task) & (samples["mode"] == cell.mode)]

        assert own["item_hash"].tolist() == list(whole.manifest.items[f"{cell.task}.{cell.mode}"]), key
        assert record.realised is not None
        assert record.realised.execution == ("emulated" if "fp8" in cell.arm else "native")


def test_arms_answer_the_same_groups_and_the_noise_floor_others(whole: workflow.Run):
    samples = whole.samples()
    where = ["task", "mode", "position"]
    groups = {arm: rows.set_index(where)["group"].to_dict() for arm, rows in samples.groupby("arm")}

    assert groups["bf16"] == groups["fp8-ue8m0"] != groups["bf16@aa"]


def test_the_plan_is_in_the_manifest(whole: workflow.Run):
    assert set(whole.manifest.plans) == {
        "ref_chain_sum.direct", "ref_chain_sum.thinking", "ref_ordering_mc.direct", "pooled.direct", "pooled.thinking",
    }  # fmt: skip
    assert whole.manifest.plans["pooled.direct"].n_planned == 48


def test_the_same_run_gives_the_same_decisions_as_often_as_one_likes(whole: workflow.Run):
    assert whole.decisions() == workflow.load_run(whole.path).decisions()
    assert len(whole.decisions()) == 2


def test_a_second_run_of_the_same_question_is_numbered(suite, tmp_path: Path):
    for _ in range(2):
        run = workflow.run(resolved(suite(limit=4)), workflow.Options(results=tmp_path / "r"))

    assert {d.attempt for d in run.decisions()} == {2}
    assert "attempt 2" in run.decisions()[0].sentence


@pytest.mark.parametrize("after", [2, 6])
def test_sigkill_in_the_middle_then_resume_gives_the_samples_of_an_uninterrupted_run(suite, tmp_path, whole, after):
    results = tmp_path / "killed"
    process = start(suite(), results)
    deadline = time.time() + 120
    while time.time() < deadline:
        done = len(list(results.glob("*/cells/*/samples.parquet")))
        if done >= after:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    stored = Store(results).run()
    assert stored.manifest.status == "running"
    assert not stored.is_running
    cells = stored.path / "cells"
    done = [key for key, record in stored.manifest.cells.items() if record.status == "done"]
    finished = {p: p.stat().st_mtime_ns for p in (cells / key / "samples.parquet" for key in done)}

    resumed = start(suite(), results, "--resume", "last")
    assert resumed.wait(timeout=300) == 0, resumed.stderr.read()
    same(Store(results).run().samples(), whole.samples())
    assert all(p.stat().st_mtime_ns == at for p, at in finished.items())  # what was finished was not computed again


def test_an_interrupt_finishes_the_group_and_prints_the_command_that_goes_on(suite, tmp_path: Path):
    process = start(suite(limit=200), tmp_path / "r")
    while not list((tmp_path / "r").glob("*/journal/*.jsonl")):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)

    assert process.wait(timeout=120) == 130
    assert Store(tmp_path / "r").run().manifest.status == "interrupted"


def test_a_time_limit_keeps_what_is_finished_and_the_rest_is_resumable(suite, tmp_path: Path, whole):
    options = workflow.Options(results=tmp_path / "r", max_time_s=0)
    run = workflow.run(resolved(suite()), options)

    assert run.manifest.status == "interrupted"
    assert {d.verdict for d in run.decisions()} <= {"INCONCLUSIVE"}
    resumed = workflow.run(run.manifest.spec, workflow.Options(results=tmp_path / "r"), resume=run.stored)
    same(resumed.samples(), whole.samples())


def test_a_cell_whose_key_changed_is_computed_again_and_the_others_are_kept(suite, tmp_path: Path):
    options = workflow.Options(results=tmp_path / "r")
    run = workflow.run(resolved(suite(limit=6)), options)
    key = next(iter(run.manifest.cells))
    cells = {**run.manifest.cells, key: run.manifest.cells[key].model_copy(update={"resume_key": "another"})}
    (run.path / "manifest.json").write_text(run.manifest.model_copy(update={"cells": cells}).model_dump_json())
    times = {p.parent.name: p.stat().st_mtime_ns for p in run.path.glob("cells/*/samples.parquet")}
    old = Store(tmp_path / "r").run()
    again = workflow.run(old.manifest.spec, options, resume=old)
    now = {p.parent.name: p.stat().st_mtime_ns for p in run.path.glob("cells/*/samples.parquet")}
    changed = {name for name, at in now.items() if at != times[name]}

    assert changed == {key}
    assert again.manifest.cells[key].resume_key == run.manifest.cells[key].resume_key


def test_samples_that_were_tampered_with_are_computed_again(suite, tmp_path: Path):
    options = workflow.Options(results=tmp_path / "r")
    run = workflow.run(resolved(suite(limit=6)), options)
    victim = next(run.path.glob("cells/*/samples.parquet"))
    good = victim.read_bytes()
    victim.write_bytes(good[:-1] + b"x")
    workflow.run(run.manifest.spec, options, resume=Store(tmp_path / "r").run())

    assert victim.read_bytes() == good


def test_resuming_over_changed_items_is_refused(suite, tmp_path: Path):
    items = tmp_path / "items.jsonl"
    items.write_text("".join(f'{{"question": "{i}+1?", "answer": {i + 1}}}\n' for i in range(6)))
    path = suite()
    entry = (
        f"- {{task: mine, items: {items}, metric: exact_match, filter: answer, modes: [direct], max_gen_toks: 8, "
        "role: monitor, margin: 0.1}"
    )
    path.write_text(path.read_text().replace("- ref_ordering_mc", entry))
    options = workflow.Options(results=tmp_path / "r")
    run = workflow.run(resolved(path, limit=4), options)
    items.write_text(items.read_text().replace("1+1", "1 plus 1").replace("2+1", "2 plus 1"))

    with pytest.raises(RefusedError, match="items or their order changed"):
        workflow.run(run.manifest.spec, options, resume=run.stored)


def test_a_failing_cell_is_recorded_and_the_rest_goes_on(suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from evalsuite.engines.session import LocalSession

    def fail(*_: object) -> None:
        raise RuntimeError("kernel fell over\nsecond line")

    monkeypatch.setattr(LocalSession, "score", fail)
    run = workflow.run(resolved(suite(limit=6)), workflow.Options(results=tmp_path / "r"))
    states = {key: record.status for key, record in run.manifest.cells.items()}

    assert run.manifest.status == "partial"
    assert {state for key, state in states.items() if "ordering_mc" in key} == {"failed"}
    assert {state for key, state in states.items() if "chain_sum" in key} == {"done"}
    assert run.manifest.cells["bf16.ref_ordering_mc.direct.r0"].error == "RuntimeError: kernel fell over"
    assert {d.verdict for d in run.decisions() if d.pooled.subject.mode == "direct"} == {"INVALID"}


def test_an_engine_that_runs_another_recipe_than_asked_fails_the_cell(suite, tmp_path: Path, monkeypatch):
    from evalsuite.engines.session import LocalSession

    kind = LocalSession.__init__

    def lies(self, engine, forward, applied):
        kind(self, engine, forward, applied)
        self.realised = self.realised.model_copy(update={"recipe": "bf16"})

    monkeypatch.setattr(LocalSession, "__init__", lies)
    run = workflow.run(resolved(suite(limit=4)), workflow.Options(results=tmp_path / "r"))
    failed = [record for record in run.manifest.cells.values() if record.status == "failed"]

    assert {record.cell.arm for record in failed} == {"fp8-ue8m0"}
    assert "asked for recipe 'fp8-ue8m0', the engine ran 'bf16'" in failed[0].error


def test_samples_hold_no_time_and_the_store_no_absolute_item_paths_of_tasks(whole: workflow.Run):
    assert not [c for c in SAMPLE_COLUMNS if "time" in c or c.endswith("_s")]
    assert os.sep not in whole.samples()["item_id"].iloc[0].split("/", 1)[0]


def test_k_samples_an_item_are_cells_of_their_own_and_one_item_to_the_judge(suite, tmp_path: Path):
    path = suite(limit=6)
    path.write_text(path.read_text() + "sampling: {direct: {temperature: 1.0, k: 3}}\n")
    run = workflow.run(resolved(path), workflow.Options(results=tmp_path / "r"))
    samples = run.samples()
    texts = samples[(samples["mode"] == "direct") & (samples["task"] == "ref_chain_sum") & (samples["arm"] == "bf16")]
    counts = samples.groupby(["task", "mode", "arm"])["repeat"].nunique()

    assert counts["ref_chain_sum", "direct"].eq(3).all()
    assert counts["ref_chain_sum", "thinking"].eq(1).all()
    assert counts["ref_ordering_mc", "direct"].eq(1).all()  # a log-likelihood has no chance in it
    assert texts.groupby("item_id")["output_text"].nunique().max() > 1
    assert texts["seed"].nunique() == len(texts) == 18
    assert next(d for d in run.decisions() if d.pooled.subject.mode == "direct").pooled.n == 12


def test_every_arm_reads_the_answers_of_the_baseline(whole: workflow.Run):
    rows = whole.stored.divergence()
    counts = rows.groupby(["arm", "mode"]).size()
    answers = whole.samples().query("arm == 'bf16'").set_index(["mode", "item_id"])["output_token_ids"]
    written = answers.map(len, "ignore")

    assert set(rows["arm"]) == {"bf16@aa", "fp8-ue8m0"}
    assert counts["bf16@aa", "direct"] == counts["fp8-ue8m0", "direct"]
    for (mode, item), own in rows[rows["arm"] == "fp8-ue8m0"].groupby(["mode", "item_id"]):
        assert own["token"].tolist() == list(range(int(written[mode, item])))
    assert rows.loc[rows["arm"] == "fp8-ue8m0", "kl"].mean() > rows.loc[rows["arm"] == "bf16@aa", "kl"].mean()
    assert all(len(decision.divergence) == 2 for decision in whole.decisions())


def test_what_the_suite_declares_about_the_decision_stands_in_its_plans(suite, tmp_path: Path):
    path = suite(limit=4)
    path.write_text(path.read_text().replace("{margin: 0.02}", "{margin: 0.02, recovery: 0.97, psi_plan: 0.12}"))
    plans = workflow.run(resolved(path), workflow.Options(results=tmp_path / "r")).manifest.plans

    assert {plan.psi_plan for plan in plans.values()} == {0.12}
    assert (plans["pooled.direct"].relative, plans["ref_ordering_mc.direct"].relative) == (0.97, None)
