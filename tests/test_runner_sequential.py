"""Sequential runs: looks after whole windows, early ends, kills, continuation with more items."""

from pathlib import Path

import pytest
from test_runner import resolved, same, start

from evalsuite import runner, workflow
from evalsuite.errors import RefusedError, UsageError
from evalsuite.store import Store

SUITE = """\
schema: 1
name: seq
model: {model}
arms: [bf16, {{id: again, recipe: bf16}}, fp8-ue8m0]
baseline: bf16
engine: {{name: local, options: {{group_tokens: 1024}}}}
tasks:
  - {{task: ref_chain_sum, modes: [direct], max_gen_toks: 8}}
  - ref_ordering_mc
decision: {{margin: 0.1, design: {design}, window: 16}}
limit: 20
"""


@pytest.fixture
def sequential(tmp_path: Path, tiny_model: Path):
    path = tmp_path / "seq.yaml"
    path.write_text(SUITE.format(model=tiny_model, design="sequential"))
    return path


def job(results: Path, decided=lambda *_: frozenset()) -> runner.Job:
    return runner.Job(Store(results), workflow.Silent(), decided=decided)


def after(windows: int, *arms: str):
    """A look that finds these arms decided once so many windows are done."""

    def decided(stored, mode):
        done = stored.manifest.sequences[mode].done
        assert len({done[a] for a in done if a not in stored.manifest.sequences[mode].stopped}) == 1  # a whole window
        return frozenset(arms) if done["bf16"] >= windows else frozenset()

    return decided


def per_arm(run) -> dict[str, int]:
    return run.samples().groupby("arm").size().to_dict()


def test_a_decided_candidate_stops_and_the_others_go_on(sequential: Path, tmp_path: Path):
    stored = runner.run(resolved(sequential), job(tmp_path / "r", after(1, "again")))
    drawn = stored.manifest.sequences["direct"]

    assert per_arm(stored) == {"again": 16, "bf16": 40, "bf16@aa": 40, "fp8-ue8m0": 40}
    assert drawn.ends == (16, 32, 40)
    assert drawn.stopped == ("again",)
    assert stored.manifest.status == "done"
    cells = [record for record in stored.manifest.cells.values() if record.cell.arm == "again"]
    assert sum(record.n_planned for record in cells) == sum(record.n_done for record in cells) == 16


def test_once_all_candidates_are_decided_nobody_goes_on(sequential: Path, tmp_path: Path):
    stored = runner.run(resolved(sequential), job(tmp_path / "r", after(2, "again", "fp8-ue8m0")))

    assert set(per_arm(stored).values()) == {32}
    assert stored.manifest.status == "done"


def test_arms_take_turns_and_see_the_same_items_in_the_same_batches(sequential: Path, tmp_path: Path):
    samples = runner.run(resolved(sequential), job(tmp_path / "r")).samples()
    where = ["task", "position"]
    groups = {arm: rows.set_index(where)["group"].to_dict() for arm, rows in samples.groupby("arm")}

    assert groups["bf16"] == groups["again"] == groups["fp8-ue8m0"]
    assert groups["bf16@aa"].keys() == groups["bf16"].keys()


def test_a_kill_between_windows_then_resume_gives_the_samples_of_an_uninterrupted_run(sequential, tmp_path: Path):
    whole = runner.run(resolved(sequential), job(tmp_path / "whole"))
    calls = iter(range(10**6))
    broken = runner.Job(Store(tmp_path / "r"), workflow.Silent(), stop=lambda: next(calls) > 12)
    first = runner.run(resolved(sequential), broken)
    assert 0 < len(first.samples()) < len(whole.samples())
    resumed = runner.run(first.manifest.spec, job(tmp_path / "r"), first)

    same(resumed.samples(), whole.samples())
    assert resumed.manifest.sequences == whole.manifest.sequences


def test_more_items_continue_undecided_arms_and_keep_what_was_answered(sequential: Path, tmp_path: Path):
    first = runner.run(resolved(sequential), job(tmp_path / "r", after(1, "again")))
    before = first.samples()
    longer = runner.run(first.manifest.spec, job(tmp_path / "r", after(1, "again")), first, more=20)

    assert per_arm(longer) == {"again": 16, "bf16": 60, "bf16@aa": 60, "fp8-ue8m0": 60}
    assert longer.manifest.plans["pooled.direct"].n_planned == 60
    kept = longer.samples().merge(before[["arm", "task", "item_hash"]], on=["arm", "task", "item_hash"])
    same(kept, before)


def test_a_failed_cell_does_not_go_on_and_is_tried_again_on_resume(sequential, tmp_path: Path, monkeypatch):
    from evalsuite.engines.session import LocalSession

    real, calls = LocalSession.score, iter(range(10**6))

    def fail_once(self, requests):
        if next(calls) == 0:
            raise RuntimeError("fell over")
        return real(self, requests)

    monkeypatch.setattr(LocalSession, "score", fail_once)
    first = runner.run(resolved(sequential), job(tmp_path / "r"))
    record = first.manifest.cells["bf16.ref_ordering_mc.direct.r0"]
    assert (first.manifest.status, record.status) == ("partial", "failed")
    healed = runner.run(first.manifest.spec, job(tmp_path / "r"), first)

    assert healed.manifest.status == "done"
    assert set(per_arm(healed).values()) == {40}


def test_a_fixed_plan_refuses_more_items_and_says_the_way_out(tmp_path: Path, tiny_model: Path):
    path = tmp_path / "fixed.yaml"
    path.write_text(SUITE.format(model=tiny_model, design="fixed").replace("limit: 20", "limit: 3"))
    options = workflow.Options(results=tmp_path / "r")
    run = workflow.run(resolved(path), options)

    with pytest.raises(RefusedError, match="sequential"):
        workflow.run(run.manifest.spec, options, resume=run.stored, more=10)
    with pytest.raises(UsageError, match="--resume"):
        workflow.run(run.manifest.spec, options, more=10)


def test_an_unchanged_model_is_safe_early_and_the_sentence_says_what_was_saved(tmp_path: Path):
    path = tmp_path / "same.yaml"
    path.write_text(
        "schema: 1\nname: same\nmodel: reference\narms: [bf16, {id: again, recipe: bf16}]\nbaseline: bf16\n"
        "noise_floor: false\ntasks: [{task: ref_counting, modes: [thinking], max_gen_toks: 128}]\n"
        "decision: {margin: 0.05, design: sequential, window: 96}\n"
    )
    process = start(path, tmp_path / "r", "--gate")
    stderr = process.stderr.read()

    assert process.wait() == 0, stderr
    assert "again is decided in thinking mode after 96 of at most 300 items" in stderr
    run = workflow.load_run(Store(tmp_path / "r").run().path)
    assert "decided after 96 of at most 300 items" in run.decisions()[0].sentence
    with pytest.raises(RefusedError, match="decided in every mode"):
        workflow.run(run.manifest.spec, workflow.Options(results=tmp_path / "r"), resume=run.stored, more=10)
