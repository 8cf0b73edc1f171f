import json
import os
from pathlib import Path

import pytest

from evalsuite.errors import CannotRunError, RefusedError, SchemaError, UsageError
from evalsuite.precision.recipes import RECIPES
from evalsuite.records import (
    SAMPLE_COLUMNS,
    SCHEMA,
    Arm,
    Cell,
    CellRecord,
    DecisionSpec,
    Manifest,
    ModelRef,
    RunSpec,
    Sampling,
)  # fmt: skip
from evalsuite.store import Store, read_journal, read_manifest

CELL = Cell(arm="bf16", task="t", mode="direct")
RECORD = CellRecord(cell=CELL, status="running", resume_key="k1", n_planned=4)


def manifest(run_id: str = "run-a", created: str = "2026-01-01T00:00:00+00:00") -> Manifest:
    model = ModelRef(id="reference")
    spec = RunSpec(
        name="s", model=model, arms=(Arm(id="bf16", model=model, recipe=RECIPES["bf16"]),), baseline="bf16", tasks=(),
        decision=DecisionSpec(margin=0.02), sampling={"direct": Sampling()},
    )  # fmt: skip
    return Manifest(
        run_id=run_id, created=created, status="running", spec=spec, spec_sha256=spec.digest(), plans={}, items={},
        machine={}, software={}, cells={CELL.key: RECORD},
    )  # fmt: skip


def row(position: int) -> dict:
    return {**dict.fromkeys(SAMPLE_COLUMNS), "task": "t", "position": position, "correct": position % 2 == 0,
            "score": 1.0, "output_token_ids": [1, 2], "choice_loglikelihoods": [-1.5], "seed": 2**40}  # fmt: skip


def test_groups_come_back_in_item_order_with_their_types(tmp_path: Path):
    writer = Store(tmp_path).create(manifest())
    with writer.journal(RECORD) as append:
        append(1, [row(3), row(1)])
        append(0, [row(0), row(2)])
    done = writer.fold(RECORD)
    frame = Store(tmp_path).run().samples()

    assert (done.status, done.n_done) == ("done", 4)
    assert frame["position"].tolist() == [0, 1, 2, 3]
    assert frame["correct"].tolist() == [True, False, True, False]
    assert list(frame.columns) == list(SAMPLE_COLUMNS)
    assert [list(x) for x in frame["output_token_ids"]] == [[1, 2]] * 4
    assert frame["prediction"].isna().all()


def test_a_torn_last_line_loses_that_group_alone_and_is_cut_off_on_reopening(tmp_path: Path):
    writer = Store(tmp_path).create(manifest())
    with writer.journal(RECORD) as append:
        append(0, [row(0)])
        append(1, [row(1)])
    path = writer.path / "journal" / f"{CELL.key}.jsonl"
    for length in range(1, 60):
        torn = path.read_bytes()[:-length]
        (tmp_path / "torn").mkdir(exist_ok=True)
        (tmp_path / "torn" / "journal").mkdir(exist_ok=True)
        (tmp_path / "torn" / "journal" / path.name).write_bytes(torn)

        assert set(read_journal(tmp_path / "torn", CELL.key).groups) == {0}
    path.write_bytes(path.read_bytes()[:-10])
    with writer.journal(RECORD) as append:
        append(1, [row(1)])

    assert set(read_journal(writer.path, CELL.key).groups) == {0, 1}


def test_a_journal_under_another_key_is_never_reused(tmp_path: Path):
    writer = Store(tmp_path).create(manifest())
    with writer.journal(RECORD) as append:
        append(0, [row(0)])
    with writer.journal(RECORD.model_copy(update={"resume_key": "k2"})):
        pass

    assert read_journal(writer.path, CELL.key).groups == {}


def test_samples_of_an_unfinished_cell_are_read_from_its_journal(tmp_path: Path):
    writer = Store(tmp_path).create(manifest())
    with writer.journal(RECORD) as append:
        append(0, [row(1), row(0)])

    assert Store(tmp_path).run().samples(["position"])["position"].tolist() == [0, 1]


def test_a_manifest_survives_a_round_trip(tmp_path: Path):
    writer = Store(tmp_path).create(manifest())

    assert read_manifest(writer.path / "manifest.json") == manifest()


def test_a_second_writer_is_refused_and_told_who_holds_the_run(tmp_path: Path):
    store = Store(tmp_path)
    writer = store.create(manifest())
    with pytest.raises(RefusedError, match=f"process {os.getpid()} is writing"):
        store.reopen(store.run())
    assert store.run().is_running
    writer.close()
    assert not store.run().is_running
    store.reopen(store.run()).close()


NEWER = json.dumps({"schema_version": SCHEMA + 1})


@pytest.mark.parametrize("content", [NEWER, "{}", "[]", "{", '{"schema_version": 1}'])
def test_a_newer_unversioned_or_broken_manifest_is_refused_with_its_path(tmp_path: Path, content: str):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "manifest.json").write_text(content)
    with pytest.raises(SchemaError, match=r"x/manifest.json"):
        Store(tmp_path).runs()


def test_a_read_only_results_folder_is_refused_before_anything_is_written(tmp_path: Path):
    blocked = tmp_path / "file"
    blocked.write_text("")  # a file where the folder should be: refused for root too
    with pytest.raises(CannotRunError, match="cannot be written"):
        Store(blocked / "results").create(manifest())


def test_runs_are_found_by_the_beginning_of_their_name(tmp_path: Path):
    store = Store(tmp_path)
    store.create(manifest("alpha-1", "2026-01-02T00:00:00+00:00"))
    store.create(manifest("beta-1", "2026-01-01T00:00:00+00:00"))

    assert store.run("bet").manifest.run_id == "beta-1"
    assert store.run().manifest.run_id == "alpha-1"
    with pytest.raises(UsageError, match="Did you mean 'alpha-1'"):
        store.run("alpha-2")
    with pytest.raises(UsageError, match="no runs here"):
        Store(tmp_path / "empty").run()


def test_a_full_disk_leaves_the_old_manifest_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    writer = Store(tmp_path).create(manifest())
    before = (writer.path / "manifest.json").read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        writer.update(status="done")

    assert (writer.path / "manifest.json").read_bytes() == before
    assert json.loads(before)["status"] == "running"
    assert [p.name for p in writer.path.iterdir() if p.suffix == ".partial"] == []


def test_a_manifest_that_is_no_text_is_told_with_its_place(tmp_path: Path):
    (tmp_path / "manifest.json").write_bytes(b'{"schema_version": "\xff"}')

    with pytest.raises(SchemaError, match=r"manifest\.json:1:1: not UTF-8 text"):
        read_manifest(tmp_path / "manifest.json")
