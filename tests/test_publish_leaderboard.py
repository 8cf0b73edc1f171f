from test_publish_sample import sample_run, spec, summary

from evalsuite.publish.leaderboard import panels
from evalsuite.records import ModelRef


def with_pooled(run, arm: str, **changes):
    """The run with other numbers for an arm, pooled, direct mode."""
    rows = tuple(summary(arm, None, "direct", 2000, 1400, **changes) if (s.arm, s.task, s.mode) == (arm, None, "direct")
                 else s for s in run.judgement.arms)  # fmt: skip
    return type(run)(run.manifest, run.judgement.model_copy(update={"arms": rows}))


def test_rows_are_ordered_by_lower_bound_and_overlapping_rows_share_ranks():
    run = with_pooled(sample_run(), "fp8-e4m3", accuracy=0.80, ci=(0.78, 0.82))
    run = with_pooled(run, "bf16", accuracy=0.79, ci=(0.77, 0.81))
    run = with_pooled(run, "fp8-ue8m0", accuracy=0.50, ci=(0.48, 0.52))

    direct = panels([run])[0]

    assert [(row.arm.id, row.rank) for row in direct.rows] == [
        ("fp8-e4m3", "1–2"), ("bf16", "1–2"), ("fp8-ue8m0", "3")]  # fmt: skip


def test_the_noise_floor_is_no_row():
    assert {row.arm.id for row in panels([sample_run()])[0].rows} == {"bf16", "fp8-e4m3", "fp8-ue8m0"}


def test_modes_are_never_ranked_together():
    assert [panel.mode for panel in panels([sample_run()])] == ["direct", "thinking"]


def test_runs_over_other_items_stand_in_their_own_panel():
    one, items = sample_run(), sample_run().manifest.items
    other = sample_run(items=items | {"ref_boolean.direct": items["ref_boolean.direct"][:-1]}, run_id="other")

    assert [panel.n_items for panel in panels([one, other]) if panel.mode == "direct"] == [2000, 1999]


def test_the_newest_complete_run_gives_the_row():
    old = sample_run(run_id="old", created="2026-11-20T00:00:00Z")
    cells = {key: r.model_copy(update={"status": "failed", "n_done": 0}) if key.startswith("fp8-ue8m0.") else r
             for key, r in old.manifest.cells.items()}  # fmt: skip
    new = sample_run(run_id="new", created="2026-11-24T00:00:00Z", cells=cells)

    rows = {row.arm.id: row for row in panels([new, old])[0].rows}

    assert rows["fp8-e4m3"].run.manifest.run_id == "new"
    assert rows["fp8-ue8m0"].run.manifest.run_id == "old"
    assert rows["fp8-ue8m0"].runs == 2


def test_incomplete_invalid_and_unparsable_rows_get_no_rank_and_come_last():
    run = sample_run()
    cells = {key: r.model_copy(update={"status": "planned", "n_done": 0}) if key.startswith("fp8-e4m3.") else r
             for key, r in run.manifest.cells.items()}  # fmt: skip
    run = with_pooled(sample_run(cells=cells), "bf16", n_unparsable=2000, accuracy=0.0, ci=(0.0, 0.001))
    decisions = tuple(d.model_copy(update={"verdict": "INVALID"}) for d in run.judgement.decisions)
    run = type(run)(run.manifest, run.judgement.model_copy(update={"decisions": decisions}))

    assert [row.rank for row in panels([run])[0].rows] == ["", "", ""]


def test_two_machines_are_two_rows():
    machine = {"accelerator": "cuda", "accelerator_name": "Example GPU", "accelerators": 2}
    gpu = sample_run(run_id="gpu", machine=machine)

    rows = panels([sample_run(), gpu])[0].rows

    assert {row.machine for row in rows} == {"Example CPU 9000, 2 cores", "2× Example GPU"}
    assert len(rows) == 6


def test_two_checkpoints_are_two_rows():
    model = ModelRef(id="reference", revision="abcdef0123456789")
    other = spec(model=model, arms=tuple(arm.model_copy(update={"model": model}) for arm in spec().arms))

    rows = panels([sample_run(), sample_run(other, run_id="other")])[0].rows

    assert {row.model for row in rows} == {"reference", "reference@abcdef01"}
