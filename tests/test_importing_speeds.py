"""Import of speed and energy results: golden values of every format, hostile files, the store, nothing mixed."""

import ast
import copy
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from typer.testing import CliRunner

from evalsuite.cli import app
from evalsuite.errors import CannotRunError, SchemaError, UsageError
from evalsuite.importing import speeds
from evalsuite.importing.speeds import SPEEDS, Source, read_speeds
from evalsuite.importing.speeds.fields import LONGEST, one_line, shown
from evalsuite.importing.speeds.steady import Requests, steady_state
from evalsuite.records import Bench, ForeignSpeed, Measurement, ProvisionedPower
from evalsuite.store import Store, keep_foreign, read_foreign

FILES = Path(__file__).parent / "speed_files"
PACKAGE = Path(speeds.__file__).parents[2]
FIXTURES = {
    "vllm-serve.json": "vllm-serve", "vllm-serve-append.jsonl": "vllm-serve", "vllm-serve-detailed.json": "vllm-serve",
    "vllm-throughput.json": "vllm-throughput", "vllm-latency.json": "vllm-latency", "llama-bench.json": "llama-bench",
    "llama-bench.jsonl": "llama-bench", "optimum-benchmark.json": "optimum-benchmark",
    "optimum-benchmark-both.json": "optimum-benchmark", "ml-energy-results.json": "ml-energy",
    "ml-energy-task.json": "ml-energy", "inferencex-agg.json": "inferencex", "trtllm-bench.json": "trtllm-bench",
    "codecarbon.csv": "codecarbon",
}  # fmt: skip


def rows(name: str) -> tuple[ForeignSpeed, ...]:
    return read_speeds(FIXTURES[name], FILES / name).rows


def of(kind: str, document: Any) -> list[ForeignSpeed]:
    """The rows of a document that was never on the disk."""
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    return SPEEDS[kind](Source(Path("some.json"), data))


def changed(name: str, **changes: Any) -> dict[str, Any]:
    """A fixture's document with other values; None takes a key away."""
    document = json.loads((FILES / name).read_text()) | changes
    return {key: value for key, value in document.items() if value is not None}


def test_every_format_has_a_fixture_and_every_row_names_tool_file_and_hash():
    assert set(FIXTURES.values()) == set(SPEEDS)
    assert set(FIXTURES) == {path.name for path in FILES.iterdir()} - {"README.md", "make.py", "__pycache__"}
    for name, kind in FIXTURES.items():
        file = read_speeds(kind, FILES / name)
        assert [row.row for row in file.rows] == list(range(len(file.rows)))
        for row in file.rows:
            assert (row.source_tool, row.file_name, row.file_sha256) == (kind, name, file.file_sha256)


def test_fixtures_by_rule_are_what_the_rule_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from tests.speed_files import make

    monkeypatch.setattr(make, "HERE", tmp_path)
    make.main()

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        path.name: (FILES / path.name).read_bytes() for path in tmp_path.iterdir()}  # fmt: skip


def test_vllm_serve_is_of_the_whole_run():
    (row,) = rows("vllm-serve.json")

    assert (row.model, row.window, row.duration_s, row.framework) == ("Qwen/Qwen3-8B", "whole_run", 100.0, "openai")
    assert row.workload.model_dump() == {"input_tokens": 1024.0, "output_tokens": 1024.0, "depth": None, "batch": 64.0,
                                         "requests": 200, "devices": None}  # fmt: skip
    assert (row.throughput.output_tok_s, row.throughput.total_tok_s, row.throughput.requests_s) == (2048, 4096, 2)
    assert row.latency["ttft_s"] == {"mean": 0.12, "p50": 0.11, "std": 0.03, "p99": 0.3}
    assert row.latency["itl_s"]["p99.9"] == 0.09
    assert "e2el_s" not in row.latency
    assert (row.energy, row.precision, row.hardware) == ((), None, None)


def test_appended_results_are_one_row_each():
    first, second = rows("vllm-serve-append.jsonl")

    assert (first.throughput.output_tok_s, second.throughput.output_tok_s) == (2048.0, 3000.0)
    assert (first.label, second.label, second.workload.batch) == (None, "fp8", 128.0)


def test_a_detailed_result_also_gives_its_steady_state():
    whole, steady = rows("vllm-serve-detailed.json")

    assert whole.throughput.output_tok_s == pytest.approx(80 / 4.4)
    assert (steady.window, steady.workload.requests) == ("steady_state", 6)
    assert steady.duration_s == pytest.approx(3.1)
    assert steady.throughput.output_tok_s == pytest.approx(58 / 3.1)
    assert steady.throughput.requests_s == pytest.approx(6 / 3.1)
    assert steady.workload.batch == pytest.approx(2.0)
    assert (steady.reasons, steady.throughput.total_tok_s, steady.latency) == (("window_too_short",), None, {})


def test_pieces_of_several_tokens_count_as_many_and_failed_requests_do_not():
    document = changed("vllm-serve-detailed.json")
    document["output_lens"] = [20] * 8
    document["errors"] = [""] * 8
    twice = of("vllm-serve", document)[1]
    document["errors"][7] = "timeout"
    fewer = of("vllm-serve", document)

    assert twice.throughput.output_tok_s == pytest.approx(2 * 58 / 3.1)
    assert any("several tokens" in note for note in twice.notes)
    assert fewer[1].duration_s == pytest.approx(2.0)  # the fourth of seven finishes earlier


def test_a_load_that_never_fills_its_places_has_no_steady_state():
    idle = Requests([0.0, 10.0, 20.0, 30.0, 40.0, 50.0], [[t + 1, t + 2] for t in range(0, 60, 10)], [1.0] * 6)
    low = steady_state(idle, 2)

    assert low is not None
    assert low.reasons == ("window_too_short", "not_steady")
    assert steady_state(idle, 5) is None
    assert len(of("vllm-serve", changed("vllm-serve-detailed.json", max_concurrency=None))) == 1
    assert len(of("vllm-serve", changed("vllm-serve-detailed.json", start_times=None))) == 1


def test_vllm_throughput_counts_all_tokens_and_latency_is_of_a_batch():
    (offline,), (latency,) = rows("vllm-throughput.json"), rows("vllm-latency.json")

    assert (offline.throughput.total_tok_s, offline.throughput.output_tok_s, offline.throughput.requests_s) == (
        5120.0, None, 20.0)  # fmt: skip
    assert latency.latency["e2el_s"] == {"mean": 1.25, "std": 0.05, "p10": 1.21, "p25": 1.225, "p50": 1.25,
                                         "p75": 1.275, "p90": 1.29, "p99": 1.299}  # fmt: skip
    assert latency.repeats == 3


@pytest.mark.parametrize(("name", "prefill", "decode"), [
    ("llama-bench.json", 7100.002165, 118.881588), ("llama-bench.jsonl", 7263.609157, 119.844681),
])  # fmt: skip
def test_llama_bench_has_prefill_and_decode(name: str, prefill: float, decode: float):
    pp, tg = rows(name)

    assert (pp.label, pp.throughput.prefill_tok_s, pp.throughput.decode_tok_s) == ("pp512", prefill, None)
    assert (tg.label, tg.throughput.decode_tok_s, tg.throughput.output_tok_s) == ("tg128", decode, None)
    assert (pp.source_commit, pp.source_version, pp.framework) == ("8cf427ff", "5163", "llama.cpp CUDA")
    assert (pp.hardware, pp.precision, pp.repeats) == ("NVIDIA GeForce RTX 4080", "qwen2 7B Q4_K - Medium", 5)


def test_llama_bench_ignores_unknown_keys_and_names_depth_and_mixed_tests():
    base = json.loads((FILES / "llama-bench.json").read_text())
    deep = of("llama-bench", [{**base[1], "n_depth": 4096, "n_cpu_moe": 3, "a_new_key": {"x": []}}])[0]
    mixed = of("llama-bench", [{**base[0], "n_gen": 128}])[0]

    assert (deep.label, deep.workload.depth) == ("tg128 @ d4096", 4096)
    assert (mixed.label, mixed.throughput.total_tok_s, mixed.throughput.prefill_tok_s) == ("pp512+tg128", 7100.002165,
                                                                                          None)  # fmt: skip


def test_optimum_energy_is_taken_apart_and_mixed_figures_are_left_out():
    prefill, decode, generate = rows("optimum-benchmark.json")
    known = rows("optimum-benchmark-both.json")[2]

    assert [row.label for row in (prefill, decode, generate)] == ["prefill", "decode", "generate"]
    assert prefill.throughput.prefill_tok_s is None  # samples a second are no tokens a second
    assert decode.throughput.decode_tok_s == 95.0
    assert generate.throughput.output_tok_s is None  # computed from decode, where `per_token` is there
    assert known.throughput.output_tok_s == 95.0
    assert generate.energy[0].energy_j == pytest.approx(360.0)
    assert [(e.provenance, e.scope, e.energy_j) for e in generate.energy_estimate] == [
        ("imported_unknown", "cpu_package", pytest.approx(72.0)), ("modelled", "dram", pytest.approx(3.6))]  # fmt: skip
    assert (decode.energy, decode.reasons) == ((), ("no_meter",))
    assert (known.model, known.precision, known.hardware, known.workload.batch) == (
        "gpt2", "float16", "NVIDIA A100-SXM4-80GB", 4)  # fmt: skip


def test_ml_energy_run_keeps_steady_energy_and_whole_throughput_apart():
    steady, whole = rows("ml-energy-results.json")

    assert (steady.window, steady.duration_s, steady.throughput.output_tok_s) == ("steady_state", 500.0, None)
    assert (steady.energy[0].quality, steady.energy[0].j_per_output_token, steady.energy[0].energy_j) == (
        "L3-", 0.268, 335000.0)  # fmt: skip
    assert (whole.window, whole.throughput.output_tok_s, whole.energy[0].energy_j) == ("whole_run", 2262.9, 430000.0)
    assert whole.latency["itl_s"] == {"p50": 0.026, "p99": 0.031}


@pytest.mark.parametrize("seconds", [29.0, None])
def test_ml_energy_of_less_than_half_a_minute_is_worth_less(seconds: float | None):
    steady, _ = of("ml-energy", changed("ml-energy-results.json", steady_state_duration=seconds))

    assert (steady.energy[0].quality, steady.reasons) == ("L1", ("window_too_short",))


def test_ml_energy_without_a_meter_is_no_energy_and_not_zero():
    empty = {"time": 1.0, "gpu_energy": {}}
    steady, whole = of("ml-energy", changed("ml-energy-results.json", steady_state_energy=0.0,
                                            steady_state_energy_per_token=0.0,
                                            entire_benchmark_measurement=empty))  # fmt: skip

    assert (steady.energy, whole.energy) == ((), ())
    assert "no_meter" in steady.reasons
    assert "no_meter" in whole.reasons


def test_ml_energy_leaderboard_rows_are_steady_state_of_quality_l3_minus():
    dense, fp8, bf16 = rows("ml-energy-task.json")

    assert (dense.model, dense.hardware, dense.precision, dense.label) == ("Qwen/Qwen3-14B", "H100", "bfloat16", "gpqa")
    assert (fp8.window, fp8.workload.devices, fp8.workload.batch) == ("steady_state", 8, 7.999106504646176)
    energy = fp8.energy[0]
    assert (energy.provenance, energy.scope, energy.quality, energy.devices) == ("measured", "gpu_board", "L3-", 8)
    assert (energy.j_per_output_token, energy.power_w) == (11.589075296954064, 3626.973377804078)
    # What measurement practice says of this pair: 1.61 times the energy, 0.79 times the speed.
    assert energy.j_per_output_token / bf16.energy[0].j_per_output_token == pytest.approx(1.61, abs=0.005)
    assert fp8.throughput.output_tok_s / bf16.throughput.output_tok_s == pytest.approx(0.79, abs=0.005)
    # Their three figures agree: tokens a second times joules a token is the power.
    assert fp8.throughput.output_tok_s * energy.j_per_output_token == pytest.approx(energy.power_w, rel=0.001)


def test_inferencex_is_for_one_device_and_its_energy_must_have_passed_its_own_checks():
    (row,) = rows("inferencex-agg.json")
    (failed,) = of("inferencex", changed("inferencex-agg.json", power_valid=0))
    (older,) = of("inferencex", changed("inferencex-agg.json", power_valid=None))

    assert row.throughput.model_dump(exclude_none=True) == {"per_device": True, "output_tok_s": 2000.0,
                                                            "total_tok_s": 4000.0}  # fmt: skip
    assert (row.precision, row.hardware, row.workload.batch, row.workload.devices) == ("fp8", "h200", 64, 2)
    assert (row.energy[0].quality, row.energy[0].j_per_output_token, row.energy[0].power_w) == ("L1", 0.3, 1200.0)
    assert row.latency["ttft_s"] == {"mean": 0.25, "p50": 0.2, "std": 0.05, "p99": 0.6}
    for without in (failed, older):
        assert (without.energy, without.reasons) == ((), ("no_meter",))
        assert any("energy left out" in note for note in without.notes)


def test_provisioned_power_is_never_energy():
    (row,) = of("inferencex", changed("inferencex-agg.json", power_valid=0, output_tok_s_per_mw=921659.0))

    assert row.provisioned_power == ProvisionedPower(tokens_per_s_per_mw={"output_tok_s_per_mw": 921659.0})
    assert (row.energy, row.energy_estimate) == ((), ())
    with pytest.raises(ValidationError):
        ForeignSpeed.model_validate(row.model_dump() | {"energy": [row.provisioned_power.model_dump()]})


def test_trtllm_bench():
    (row,) = rows("trtllm-bench.json")
    (silent,) = of("trtllm-bench", changed("trtllm-bench.json", energy=None, streaming_metrics=None))

    assert (row.model, row.hardware, row.precision) == ("meta-llama/Llama-3.1-8B", "NVIDIA H200", "FP8 kv FP8")
    assert (row.framework, row.source_version, row.duration_s) == ("tensorrt-llm Pytorch", "1.2.0", 240.0)
    assert (row.throughput.output_tok_s, row.throughput.total_tok_s, row.throughput.requests_s) == (25600, 27200, 12.5)
    assert row.latency["tpot_s"] == {"mean": 0.0105, "p50": 0.01, "p90": 0.012, "p95": 0.013, "p99": 0.015}
    assert (row.energy[0].energy_j, row.energy[0].quality) == (160000.0, "L1")
    assert (silent.energy, set(silent.latency)) == ((), {"e2el_s"})


def test_codecarbon_tells_measured_from_modelled_and_counts_a_run_once():
    gpu, cpu = rows("codecarbon.csv")

    assert (gpu.duration_s, gpu.energy[0].energy_j, gpu.energy[0].quality) == (60.0, pytest.approx(18000.0), "L3-")
    assert [(e.provenance, e.scope, e.energy_j) for e in gpu.energy_estimate] == [
        ("imported_unknown", "cpu_package", pytest.approx(3600.0)),
        ("modelled", "dram", pytest.approx(1440.0))]  # fmt: skip
    assert (cpu.energy, cpu.reasons, cpu.hardware) == ((), ("no_meter",), "AMD EPYC")
    assert gpu.throughput.model_dump(exclude_none=True) == {"per_device": False}


# --- Files that are broken, or meant to break something ---

BROKEN = {
    "no JSON": b"ttft: 3", "nothing": b" \n", "no text": b"\xff\xfe\x00", "a list of numbers": b"[1, 2]",
    "a number": b"17", "an empty list": b"[]", "an empty object": b"{}", "half a file": b'{"output_throughput": 12',
    "deep": b"[" * 50_000 + b"]" * 50_000, "deep objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
}  # fmt: skip


@pytest.mark.parametrize("kind", SPEEDS)
@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_is_an_error_that_names_it(kind: str, what: str):
    with pytest.raises(UsageError, match=r"^some\.json"):
        of(kind, BROKEN[what])


@pytest.mark.parametrize("value", [
    "NaN", "Infinity", "-Infinity", "1e400", "-1.0", '"12"', "true", "[1]", "{}", "9" * 400, "9" * 5000, "1e30",
])  # fmt: skip
def test_a_value_that_is_no_rate_is_an_error_that_says_what_is_allowed(value: str):
    text = (FILES / "vllm-serve.json").read_text().replace("2048.0", value)
    with pytest.raises(UsageError, match=r"^some\.json: (output_throughput: expected a number from 0 to 1e\+18, found |"
                                         r"a number that cannot be read)"):  # fmt: skip
        of("vllm-serve", text.encode())


def test_errors_name_file_key_and_place():
    cases = {
        "vllm-serve": (changed("vllm-serve-detailed.json", ttfts=[0.1]), "lists of requests differ in length"),
        "llama-bench": ([{"avg_ts": 3.0}], "missing n_prompt or n_gen"),
        "optimum-benchmark": (changed("optimum-benchmark.json", generate={"energy": {"unit": "Wh"}}),
                              "generate.energy.unit: expected 'kWh', found 'Wh'"),
        "ml-energy": ({"configurations": [{"model_id": "x", "energy_per_image_joules": 3.0}]},
                      r"configurations\[0\]: not a configuration of a text task"),
        "inferencex": (changed("inferencex-agg.json", tp=1.5), "tp: expected a whole number, found 1.5"),
        "trtllm-bench": (changed("trtllm-bench.json", engine=[]), "engine: expected an object, found a list of 0"),
    }  # fmt: skip
    for kind, (document, words) in cases.items():
        with pytest.raises(UsageError, match=words) as raised:
            of(kind, document)
        assert str(raised.value).startswith("some.json: ")
    with pytest.raises(UsageError, match="line 2.gpu_energy: expected a number, found 'lots'"):
        of("codecarbon", b"run_id,duration,cpu_energy,gpu_energy,ram_energy\na,1,2,lots,3\n")
    with pytest.raises(UsageError, match="some.json:2: not as many values"):
        of("codecarbon", b"run_id,duration,cpu_energy,gpu_energy,ram_energy\na,1,2\n")


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1e400", "1e30"])
def test_a_number_of_a_table_is_held_to_the_same_rule(value: str):
    with pytest.raises(UsageError, match="line 2.gpu_energy: expected a number from 0 to"):
        of("codecarbon", f"run_id,duration,cpu_energy,gpu_energy,ram_energy\na,1,2,{value},3\n".encode())
    with pytest.raises(UsageError, match="not CSV"):
        of("codecarbon", b"run_id,duration,cpu_energy,gpu_energy,ram_energy\n" + b"a" * 200_000)


def test_unreadable_files_cannot_be_run(tmp_path: Path):
    for path in (tmp_path, tmp_path / "absent.json"):
        with pytest.raises(CannotRunError, match="cannot be read"):
            read_speeds("vllm-serve", path)


def test_hostile_text_becomes_one_short_line():
    assert one_line("a\n\x1b[31mb\ud800\u202e" + "c" * 10_000) == ("a [31mb? " + "c" * 10_000)[:LONGEST]
    assert shown(10**5000) == "a number too large"
    row = of("vllm-serve", changed("vllm-serve.json", model_id="\ud800[red]x[/red]\n" * 400))[0]
    assert len(row.model or "") == LONGEST
    assert row.model_dump_json()


hostile = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.just([]), st.just({}),
    st.sampled_from([1e308, -1.0, 10**400, 5e-324, "inf", [None], [[1]], {"unit": "s"}, [{"x": 1}], [1e18, 5e-324]]),
)  # fmt: skip


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    keys = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inside in keys for place in _places(inside, (*path, key)))]


def _put(document: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return copy.deepcopy(value)
    for key in place[:-1]:
        document = document[key]
    document[place[-1]] = copy.deepcopy(value)  # else a list that was drawn twice may come to hold itself
    return None


def _sound(name: str, document: Any) -> None:
    """Rows of finite numbers that survive a trip through JSON, or an error that names the file."""
    try:
        found = of(FIXTURES[name], document)
    except (UsageError, CannotRunError) as error:
        found, told = [], str(error)
    else:
        told = "some.json"
    assert told.startswith("some.json")
    for row in found:
        assert all(math.isfinite(number) for number in _numbers(row.model_dump())), row
        assert ForeignSpeed.model_validate_json(row.model_dump_json()) == row


@pytest.mark.parametrize("name", sorted(name for name in FIXTURES if name.endswith(".json")))
def test_no_number_at_any_place_of_a_file_becomes_infinite(name: str):
    text = (FILES / name).read_text()
    for place in _places(json.loads(text)):
        for value in (1e308, 1e18, 5e-324, 0, 10**300, None):
            document = json.loads(text)
            document = value if not place else (_put(document, place, value), document)[1]
            _sound(name, document)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_whatever_stands_in_a_file_gives_rows_of_finite_numbers_or_an_error(data: st.DataObject):
    name = data.draw(st.sampled_from(sorted(name for name in FIXTURES if name.endswith(".json"))))
    document = json.loads((FILES / name).read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from(_places(document)))
        document = _put(document, place, data.draw(hostile)) if not place else (
            _put(document, place, data.draw(hostile)), document)[1]  # fmt: skip
    _sound(name, document)


def _numbers(value: Any) -> list[float]:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [float(value)] if isinstance(value, int | float) else [n for each in inside for n in _numbers(each)]


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(sorted(SPEEDS)), text=st.one_of(st.binary(max_size=200), st.text(max_size=200)))
def test_no_bytes_at_all_end_in_a_traceback(kind: str, text: bytes | str):
    with pytest.raises((UsageError, CannotRunError)):
        of(kind, text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))


# --- The store, the command line, and what must not be mixed ---


def test_the_same_file_is_kept_once_and_others_beside_it(tmp_path: Path):
    file = read_speeds("llama-bench", FILES / "llama-bench.json")
    path, new = keep_foreign(tmp_path, file)
    again, renewed = keep_foreign(tmp_path, file.model_copy(update={"imported": "later"}))
    alike = file.model_copy(update={"file_sha256": file.file_sha256[:8] + "0" * 56, "imported": "2020"})
    other, other_new = keep_foreign(tmp_path, alike)

    assert (path.name, new, renewed, again) == (f"{file.file_sha256[:8]}-llama-bench.json", True, False, path)
    assert (other.name, other_new) == (f"{file.file_sha256[:8]}00000000-llama-bench.json", True)
    assert keep_foreign(tmp_path, alike) == (other, False)
    assert Store(tmp_path).foreign() == [alike, file] == read_foreign(tmp_path)
    assert Store(tmp_path).runs() == []


def test_imports_of_a_newer_schema_or_broken_ones_are_refused(tmp_path: Path):
    path, _ = keep_foreign(tmp_path, read_speeds("llama-bench", FILES / "llama-bench.json"))
    document = json.loads(path.read_text())
    for wrong, words in (({"schema_version": 99}, "Upgrade"), ({"rows": "none"}, "rows"), ({"more": 1}, "more")):
        path.write_text(json.dumps(document | wrong))
        with pytest.raises(SchemaError, match=words):
            read_foreign(tmp_path)


@pytest.mark.parametrize("name", FIXTURES)
def test_the_command_line_keeps_every_fixture_once_and_says_so(name: str, tmp_path: Path):
    arguments = ["import", FIXTURES[name], str(FILES / name), "--results", str(tmp_path)]
    first = CliRunner().invoke(app, arguments)
    second = CliRunner().invoke(app, [*arguments, "--json"])
    (kept,) = json.loads(second.stdout)["imported"]

    assert (first.exit_code, second.exit_code) == (0, 0), first.output
    assert "was imported before" in second.stderr
    assert "was imported before" not in first.stderr
    assert (kept["new"], Path(kept["path"]).is_file(), len(kept["import"]["rows"])) == (False, True, len(rows(name)))
    assert "measured by other programs" in first.stdout


def test_the_command_line_keeps_all_files_or_none(tmp_path: Path):
    shutil.copy(FILES / "llama-bench.json", tmp_path / "good.json")
    (tmp_path / "bad.json").write_text("{}")
    arguments = ["import", "llama-bench", str(tmp_path / "good.json"), str(tmp_path / "bad.json")]
    done = CliRunner().invoke(app, [*arguments, "--results", str(tmp_path / "r")])

    assert isinstance(done.exception, UsageError)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(("arguments", "words"), [
    (["llama_bench", "x"], "Did you mean 'llama-bench'"), (["lm-evil", "x"], "Did you mean 'lm-eval'"),
    (["llama-bench", "x", "--gate", "--noise", "y"], "--noise, --gate: only for lm-eval"),
])  # fmt: skip
def test_wrong_formats_and_options_are_bad_usage(arguments: list[str], words: str):
    done = CliRunner().invoke(app, ["import", *arguments])

    assert isinstance(done.exception, UsageError)
    assert words in str(done.exception)


def test_a_foreign_row_cannot_stand_among_our_measurements():
    (row,) = rows("vllm-serve.json")
    fields = {"bench_id": "b", "created": "", "status": "done", "machine": {}, "software": {}}
    with pytest.raises(ValidationError) as raised:
        Bench.model_validate({**fields, "measurements": (row,)})

    assert any(error["loc"][:2] == ("measurements", 0) for error in raised.value.errors())
    assert not isinstance(row, Measurement)
    assert not set(ForeignSpeed.model_fields) & {"windows", "realised", "execution", "speed_valid", "arm"}


def test_code_that_judges_or_measures_does_not_know_foreign_rows():
    """Ratios are made in `judge` of `Measurement`s; nothing there, nor where is measured, can name a foreign row."""
    names = {"ForeignSpeed", "ForeignFile", "ForeignEnergy", "ForeignThroughput", "read_foreign"}
    for room in ("judge", "measure", "engines", "runner", "harness", "exporting"):
        for path in (PACKAGE / room).rglob("*.py"):
            nodes = list(ast.walk(ast.parse(path.read_text())))
            used = {node.id for node in nodes if isinstance(node, ast.Name)}
            used |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
            assert not used & names, path
