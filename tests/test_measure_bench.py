"""A bench from the command line to its document: what is kept of it when things go wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from evalsuite import store, workflow
from evalsuite.errors import CannotRunError, RefusedError, SchemaError, SuiteError, UsageError
from evalsuite.located import parse
from evalsuite.measure import host, peaks
from evalsuite.measure import points as measuring
from evalsuite.measure.loads import DoesNotFitError
from evalsuite.measure.local import Decode, LocalRig, Prefill
from evalsuite.records import Bench, BenchSpec, ModelRef, Workload
from evalsuite.spec import BenchOverrides, load, resolve_bench

SUITE = """\
schema: 1
name: tiny
model: {model}
arms: [bf16, fp8-ue8m0]
baseline: bf16
tasks: [ref_ordering_mc]
decision: {{margin: 0.02}}
bench: {{presets: [cpu-smoke], rounds: 2, arms: [bf16, fp32, fp8-ue8m0], window_s: 0.02, warm_s: 0.0}}
"""


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "reasons", lambda seen, cores: ())


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peaks need no accuracy here."""
    monkeypatch.setattr(peaks, "SECONDS", 0.02)
    monkeypatch.setitem(peaks.SIZE, "cpu", 128)


@pytest.fixture
def spec(tiny_model: Path) -> BenchSpec:
    return resolve_bench(parse(SUITE.format(model=tiny_model), "tiny.yaml"))[0]


def document() -> Bench:
    spec = BenchSpec(suite="s", model=ModelRef(id="reference"), arms=(), baseline="bf16", null_arm="bf16@aa",
                     engine="local", presets=("cpu-smoke",), rounds=2, window_s=1.0, warm_s=0.0)  # fmt: skip
    return Bench(bench_id="20260101T000000000-bench-s-abc", created="2026-01-01T00:00:00+00:00", status="done",
                 spec=spec, machine={}, software={})  # fmt: skip


def bench(spec: BenchSpec, tmp_path: Path, **options: Any) -> Bench:
    return workflow.bench(spec, workflow.BenchOptions(results=tmp_path, meters=(), **options))


@pytest.mark.usefixtures("quiet")
def test_a_bench_measures_native_arms_and_the_null_arm_and_shows_emulated_ones_without_a_number(
    spec: BenchSpec, tmp_path: Path
):
    made = bench(spec, tmp_path)

    assert made.status == "done"
    assert store.read_bench(tmp_path / made.bench_id) == made
    assert [w.key for w in made.workloads] == ["cpu-smoke.prefill.b1", "cpu-smoke.decode.b1.d32"]
    for point in made.workloads:
        rows = {row.arm: row for row in made.rows(point)}
        assert list(rows) == ["bf16", "bf16@aa", "fp32", "fp8-ue8m0"]
        assert {name: len(row.kept) for name, row in rows.items()} == {
            "bf16": 2, "bf16@aa": 2, "fp32": 2, "fp8-ue8m0": 0}  # fmt: skip
        assert rows["fp8-ue8m0"].execution == "emulated"
        assert rows["fp8-ue8m0"].reasons == ("emulated_speed",)
        assert rows["bf16"].rooflines[0].fraction > 0
        assert rows["fp32"].rooflines[0].limit_ratio is not None
        assert all(w.energy == () and w.energy_reasons for row in rows.values() for w in row.windows)
    assert made.spec.model.weights_sha256
    assert made.environment["threads"] >= 1


@pytest.mark.usefixtures("quiet")
def test_interrupted_it_keeps_every_window_and_says_so(spec: BenchSpec, tmp_path: Path):
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 4

    made = bench(spec, tmp_path, interrupted=stop)

    assert made.status == "interrupted"
    assert 0 < sum(len(row.windows) for row in made.measurements) < 12
    assert store.read_bench(tmp_path / made.bench_id) == made


@pytest.mark.usefixtures("quiet")
def test_a_batch_that_does_not_fit_leaves_its_rows_and_the_next_smaller_one_is_tried(
    spec: BenchSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    spec = spec.model_copy(update={"presets": ("cpu-std",), "rounds": 2})
    real = LocalRig.load

    def limited(rig: LocalRig, arm: Any, workload: Workload) -> Any:
        if workload.batch > 2:
            raise DoesNotFitError("no room for 4 rows")
        return real(rig, arm, workload)

    monkeypatch.setattr(LocalRig, "load", limited)
    made = bench(spec, tmp_path)
    too_large = [row for row in made.measurements if row.workload.batch == 4]

    assert {row.workload.batch for row in made.measurements} == {1, 2, 4}
    assert all("does_not_fit" in row.reasons and row.detail == "no room for 4 rows" and not row.windows
               for row in too_large)  # fmt: skip
    assert all(len(row.kept) == 2 for row in made.measurements if row.workload.batch == 2 and row.speed_valid)


@pytest.mark.usefixtures("quiet")
def test_memory_that_runs_out_in_the_middle_voids_the_point_and_the_next_smaller_batch_is_tried(
    spec: BenchSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    spec, real, seen = spec.model_copy(update={"presets": ("cpu-std",)}), Prefill.run, []

    def short(load: Prefill, seconds: float) -> Any:
        if load._workload.batch == 4:
            seen.append(load)
            if len(seen) == 3:
                raise DoesNotFitError("gone")
        return real(load, seconds)

    monkeypatch.setattr(Prefill, "run", short)
    made = bench(spec, tmp_path)
    (point,) = [p for p in made.workloads if p.batch == 4 and p.phase == "prefill"]

    assert sum(len(row.windows) for row in made.rows(point)) == 2
    assert all(not row.kept and "does_not_fit" in row.reasons for row in made.rows(point))
    assert {row.workload.batch for row in made.measurements} == {1, 2, 4}
    assert made.status == "done"


@pytest.mark.usefixtures("quiet")
def test_an_error_in_the_middle_leaves_the_document_as_interrupted(spec: BenchSpec, tmp_path: Path, monkeypatch):
    real, seen = Decode.run, []

    def breaking(load: Decode, seconds: float) -> Any:
        seen.append(load)
        if len(seen) == 2:
            raise CannotRunError("A worker process ended.")
        return real(load, seconds)

    monkeypatch.setattr(Decode, "run", breaking)
    with pytest.raises(CannotRunError, match="worker"):
        bench(spec, tmp_path)

    (kept,) = store.read_benches(tmp_path)
    assert kept.status == "interrupted"
    assert sum(len(row.windows) for row in kept.measurements) == 7


def test_points_beyond_the_models_context_are_rows_with_that_reason(spec: BenchSpec, tmp_path: Path):
    made = bench(spec.model_copy(update={"presets": ("tg128",), "rounds": 2}), tmp_path, interrupted=lambda: False)
    beyond = [row for row in made.measurements if row.workload.depth in (4096, 16384)]

    assert len(beyond) == 6
    assert all("beyond_context" in row.reasons and "> 4096 tokens" in row.detail for row in beyond)


def test_replay_takes_the_lengths_of_the_suites_newest_run_and_is_refused_without_one(
    spec: BenchSpec, tmp_path: Path, tiny_model: Path
):
    spec = spec.model_copy(update={"presets": ("replay",)})
    with pytest.raises(CannotRunError, match="evalsuite run tiny"):
        bench(spec, tmp_path)

    text = SUITE.format(model=tiny_model).replace("ref_ordering_mc", "ref_chain_sum")
    (tmp_path / "tiny.yaml").write_text(text + "limit: 5\n")
    from evalsuite.spec import resolve

    done = workflow.run(resolve(load(str(tmp_path / "tiny.yaml")))[0], workflow.Options(results=tmp_path))
    made = bench(spec, tmp_path)
    (point,) = made.workloads
    samples = done.samples()
    own = samples[(samples.arm == "bf16") & (samples["mode"] == "thinking") & (samples.n_output_tokens > 0)]

    assert made.spec.replay_run == done.manifest.run_id
    assert workflow.load_run(done.path).measurements() == list(made.measurements)
    assert (point.preset, point.phase, point.batch) == ("replay", "whole", len(own))
    row = made.rows(point)[0]
    assert all(w.output_tokens == w.iterations * own.n_output_tokens.sum() for w in row.windows)


def test_a_model_that_an_arm_cannot_run_leaves_a_row_with_the_reason(spec: BenchSpec, tmp_path: Path, monkeypatch):
    real = LocalRig.open

    def refusing(rig: LocalRig, arm: Any) -> Any:
        if arm.id == "fp32":
            raise CannotRunError("Not this one.")
        return real(rig, arm)

    monkeypatch.setattr(LocalRig, "open", refusing)
    made = bench(spec, tmp_path)
    (row, *_) = [row for row in made.measurements if row.arm == "fp32"]

    assert row.reasons == ("cannot_run",)
    assert row.detail == "Not this one."
    assert made.status == "done"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("bench: {presets: [cpu-smok]}", "cpu-smoke"),
        ("bench: {arms: [bf16, fp8-e4m4]}", r"tiny.yaml:\d+:\d+.*unknown recipe 'fp8-e4m4'"),
        ("bench: {rounds: 1}", r"rounds"),
        ("bench: {engine: vlm}", "unknown engine 'vlm'"),
        ("bench: {engine: {name: local, options: {group_tokens: 3}}}", "no option 'group_tokens'"),
        ("bench: {arms: [fp32]}", "baseline"),
    ],
)
def test_what_a_suite_may_say_of_a_bench(tiny_model: Path, change: str, message: str):
    head = SUITE.format(model=tiny_model).split("bench:")[0]

    with pytest.raises((SuiteError, UsageError), match=message):
        resolve_bench(parse(head + change + "\n", "tiny.yaml"))


def test_flags_replace_what_the_suite_says(tiny_model: Path):
    located = parse(SUITE.format(model=tiny_model), "tiny.yaml")
    flags = BenchOverrides(arms=("fp8-e4m3",), presets=("cpu-std",), rounds=9, window_s=1.5, price_per_hour=2.0)
    (made,) = resolve_bench(located, flags)

    assert [arm.id for arm in made.arms] == ["bf16", "fp8-e4m3"]
    assert (made.presets, made.rounds, made.window_s, made.price_per_hour) == (("cpu-std",), 9, 1.5, 2.0)
    assert (made.baseline, made.null_arm) == ("bf16", "bf16@aa")


def test_windows_are_longer_where_an_accelerator_or_a_server_is_measured(tiny_model: Path):
    located = parse(SUITE.format(model=tiny_model).split("bench:")[0], "tiny.yaml")

    assert resolve_bench(located)[0].window_s == 3.0
    assert resolve_bench(located, quick=False)[0].window_s == 12.0


@pytest.mark.parametrize(
    ("text", "error"),
    [("{", SchemaError), ("[]", SchemaError), ('{"schema_version": 99}', SchemaError),
     ('{"schema_version": 1, "kind": "other"}', SchemaError)],
)  # fmt: skip
def test_a_document_that_is_no_bench_is_refused_with_the_reason(tmp_path: Path, text: str, error: type[Exception]):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "bench.json").write_text(text)

    with pytest.raises(error, match="bench.json"):
        store.read_bench(tmp_path / "x")


def test_a_bench_is_found_by_the_beginning_of_its_id(tmp_path: Path):
    with pytest.raises(UsageError, match="evalsuite bench"):
        store.find_bench(tmp_path)
    store.save_bench(tmp_path, document())

    assert store.find_bench(tmp_path, "20260101").bench_id == document().bench_id
    with pytest.raises(UsageError, match="20250101"):
        store.find_bench(tmp_path, "20250101")


def test_results_that_cannot_be_written_are_refused_before_anything_is_loaded(spec: BenchSpec, tmp_path: Path):
    (tmp_path / "file").write_text("")

    with pytest.raises(CannotRunError, match="cannot be written"):
        bench(spec, tmp_path / "file" / "results")


def test_a_kill_leaves_a_document_that_can_be_read(tmp_path: Path, tiny_model: Path):
    suite = tmp_path / "tiny.yaml"
    suite.write_text(SUITE.format(model=tiny_model).replace("window_s: 0.02", "window_s: 0.3"))
    command = [sys.executable, "-m", "evalsuite", "bench", str(suite), "--results", str(tmp_path / "r"),
               "--rounds", "50", "--meters", ","]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 90
    seen: list[Bench] = []
    while time.monotonic() < until and not any(row.windows for one in seen for row in one.measurements):
        time.sleep(0.2)
        seen = list(store.read_benches(tmp_path / "r"))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()

    (kept,) = store.read_benches(tmp_path / "r")
    assert kept.status == "running"
    assert any(row.windows for row in kept.measurements)


def test_sampled_lengths_are_drawn_by_the_seed_and_answers_of_no_token_are_left_out():
    lengths = tuple((10 + i, i) for i in range(300))
    drawn = measuring.sampled(lengths, 128, 1)

    assert len(set(drawn)) == 128
    assert (10, 0) not in drawn
    assert drawn == measuring.sampled(lengths, 128, 1)
    assert drawn != measuring.sampled(lengths, 128, 2)
    assert measuring.replay_point(()) is None


def test_a_bench_prints_its_document_as_json(tmp_path: Path, tiny_model: Path):
    suite = tmp_path / "tiny.yaml"
    suite.write_text(SUITE.format(model=tiny_model))
    command = [sys.executable, "-m", "evalsuite", "bench", str(suite), "--results", str(tmp_path / "r"), "--json",
               "--meters", ","]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert made["schema_version"] == 1
    assert made["benches"][0]["bench"]["status"] == "done"
    assert made["benches"][0]["judgement"]["points"]
    assert RefusedError.exit_code == 5
