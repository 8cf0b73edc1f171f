"""Export of a bench: medians over the rounds that count, round trips, and nothing of emulated arms anywhere."""

import csv
import io
import json
import re
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import pytest
from typer.testing import CliRunner

from evalsuite.cli import app
from evalsuite.errors import SchemaError, UsageError
from evalsuite.exporting import EXPORTS
from evalsuite.exporting.figures import ENERGY_ONLY, SCOPES
from evalsuite.importing.speeds import SPEEDS, Source
from evalsuite.records import (
    REASONS,
    WARNINGS,
    Arm,
    Bench,
    BenchSpec,
    Energy,
    Host,
    Latency,
    Measurement,
    Memory,
    ModelRef,
    Peaks,
    Percentiles,
    Recipe,
    Scope,
    Window,
    Workload,
)
from evalsuite.store import find_bench, read_benches

HOST = Host(steal=0.0, involuntary_switches_per_s=1.0, others_cpu=0.0)
MODEL = ModelRef(id="org/model|8b")
WHOLE = Workload(preset="think", runner="serve", phase="whole", batch=64, input_tokens=512, output_tokens=1000)
PREFILL = Workload(preset="pp512", runner="static", phase="prefill", batch=1, input_tokens=512, output_tokens=0)
DECODE = Workload(preset="tg128", runner="static", phase="decode", batch=1, input_tokens=0, output_tokens=128, depth=96)
SPEEDS_OF = {"bf16": 1.0, "bf16@null": 1.01, "fp8-native": 1.3}
"""Arm -> how much faster than the baseline; these are invented for the tests."""


def energy(joules: float, seconds: float, scope: Scope = "gpu_board", **fields: Any) -> Energy:
    meter = "nvml" if scope == "gpu_board" else "rapl"
    values = {"meter": meter, "scope": scope, "method": f"{meter}.counter", "quality": "L3", "energy_j": joules,
              "power_w": joules / seconds, "by_device_j": {"0": joules}}  # fmt: skip
    return Energy.model_validate(values | fields)


def percentiles(middle: float) -> Percentiles:
    return Percentiles(n=200, mean=1.1 * middle, p50=middle, p90=1.5 * middle, p99=None)


def window(work: Workload, arm: str, round_: int, **fields: Any) -> Window:
    """Round 0 is slow, 1 is as it should be, 2 is quick; round 3 was voided and is absurd."""
    rate = SPEEDS_OF.get(arm, 1.0) * (0.9, 1.0, 1.3, 50.0)[round_] * 1000
    tokens = 20_000
    reads, writes = (tokens, 0) if work.phase == "prefill" else (0 if work.phase == "decode" else 10_000, tokens)
    seconds = tokens / rate
    latency = Latency(ttft_s=percentiles(0.1 + round_ / 100), tpot_s=percentiles(0.02), itl_s=percentiles(0.021),
                      e2el_s=None)  # fmt: skip
    values: dict[str, Any] = {
        "round": min(round_, 2), "position": 0, "attempt": 0, "arm": arm, "start_s": 10.0 * round_,
        "duration_s": seconds, "iterations": 20, "input_tokens": reads, "output_tokens": writes, "requests": 20,
        "energy": (energy(400 * seconds, seconds), energy(90 * seconds, seconds, "cpu_package", quality="L2")),
        "latency": latency if work.phase == "whole" else None, "host": HOST, "voided": round_ == 3,
        "reasons": ("steal_time",) if round_ == 3 else (),
    }  # fmt: skip
    return Window(**(values | fields))


def measurement(work: Workload, arm: str, **fields: Any) -> Measurement:
    values: dict[str, Any] = {
        "row_id": f"{arm}.{work.key}", "arm": arm, "workload": work, "execution": "native", "realised": None,
        "speed_valid": True, "windows": tuple(window(work, arm, i) for i in range(4)),
        "memory": Memory(weights_bytes=2**33, resident_bytes=None, kv_bytes_per_token=None),
    }  # fmt: skip
    return Measurement(**(values | fields))


def emulated(work: Workload) -> Measurement:
    return measurement(work, "fp8-emulated", execution="emulated", speed_valid=False, windows=(),
                       reasons=("emulated_speed",))  # fmt: skip


def bench(*rows: Measurement, **fields: Any) -> Bench:
    arms = tuple(Arm(id=name, model=MODEL, recipe=Recipe(id=name, label=f"label of {name}"))
                 for name in ("bf16", "fp8-native", "fp8-emulated"))  # fmt: skip
    spec = BenchSpec(suite="tests", model=MODEL, arms=arms, baseline="bf16", null_arm="bf16@null", engine="local",
                     presets=("think",), rounds=3, window_s=10.0, warm_s=1.0)  # fmt: skip
    made = rows or tuple(row for work in (WHOLE, PREFILL, DECODE)
                         for row in (*(measurement(work, arm) for arm in SPEEDS_OF), emulated(work)))  # fmt: skip
    values: dict[str, Any] = {
        "bench_id": "20260301T000000-tests", "created": "2026-03-01T00:00:00+00:00", "status": "done", "spec": spec,
        "machine": {"processor": "AMD EPYC", "accelerator": "cuda"}, "software": {"evalsuite": "0.2.0"},
        "peaks": (Peaks(device="NVIDIA H200", flops={}, bytes_per_s=None, source="data sheet"),),
        "measurements": made,
    }  # fmt: skip
    return Bench(**(values | fields))


def imported(kind: str, text: str) -> list[Any]:
    return SPEEDS[kind](Source(Path("exported.json"), text.encode()))


@pytest.mark.parametrize("kind", EXPORTS)
def test_nothing_of_an_emulated_arm_stands_in_any_exported_file(kind: str):
    made = EXPORTS[kind](bench())

    assert "emulated" not in made.text
    assert any("3 measurements of emulated arms left out (fp8-emulated): no speed, no energy" in note
               for note in made.notes)  # fmt: skip
    with pytest.raises(UsageError, match="nothing to export"):
        EXPORTS[kind](bench(*(emulated(work) for work in (WHOLE, PREFILL, DECODE))))


@pytest.mark.parametrize("kind", EXPORTS)
@pytest.mark.parametrize("execution", ["emulated", "reference"])
def test_an_arm_that_says_emulated_is_left_out_even_with_windows(kind: str, execution: str):
    rows = [measurement(work, "fp8-native", execution=execution) for work in (WHOLE, PREFILL, DECODE)]
    others = [measurement(work, "bf16") for work in (WHOLE, PREFILL, DECODE)]

    assert "fp8-native" not in EXPORTS[kind](bench(*rows, *others)).text


@pytest.mark.parametrize("kind", EXPORTS)
def test_voided_rounds_count_for_nothing(kind: str):
    """Round 3 was voided, fifty times too fast."""
    kept = bench(*(row.model_copy(update={"windows": row.kept}) for row in bench().measurements))
    with_voided, without = EXPORTS[kind](bench()).text, EXPORTS[kind](kept).text
    if kind == "csv":
        with_voided = with_voided.replace(",3,1,", ",3,0,")

    assert with_voided == without


def test_vllm_serve_comes_back_as_it_went_out():
    lines = EXPORTS["vllm-serve"](bench()).text
    rows = {row.label: row for row in imported("vllm-serve", lines)}

    assert set(rows) == {"bf16", "fp8-native"}
    assert rows["bf16"].throughput.output_tok_s == pytest.approx(1000.0)
    assert rows["fp8-native"].throughput.output_tok_s == pytest.approx(1300.0)
    assert rows["bf16"].throughput.total_tok_s == pytest.approx(1500.0)
    assert (rows["bf16"].model, rows["bf16"].workload.batch, rows["bf16"].workload.requests) == (MODEL.id, 64, 60)
    assert (rows["bf16"].workload.input_tokens, rows["bf16"].workload.output_tokens) == (500, 1000)
    assert rows["bf16"].latency["ttft_s"] == {"mean": pytest.approx(0.121), "p50": pytest.approx(0.11),
                                              "p90": pytest.approx(0.165)}  # fmt: skip
    assert json.loads(lines.splitlines()[0])["evalsuite"]["rounds"] == 3


def test_llama_bench_comes_back_as_it_went_out():
    text = EXPORTS["llama-bench"](bench()).text
    rows, tests = imported("llama-bench", text), json.loads(text)
    rates = [900.0, 1000.0, 1300.0]

    assert [row.label for row in rows] == ["pp512", "pp512", "tg128 @ d96", "tg128 @ d96"]
    assert rows[0].throughput.prefill_tok_s == pytest.approx(fmean(rates))
    assert rows[3].throughput.decode_tok_s == pytest.approx(1.3 * fmean(rates))
    assert tests[0]["median_ts"] == pytest.approx(median(rates))
    assert tests[0]["stddev_ts"] == pytest.approx(stdev(rates))
    assert tests[0]["samples_ts"] == pytest.approx(rates)
    assert tests[0]["avg_ns"] == pytest.approx(fmean(512e9 / rate for rate in rates))
    assert (rows[0].repeats, rows[0].hardware, rows[0].precision) == (3, "NVIDIA H200", "label of bf16")


def test_llama_bench_markdown_has_its_columns_and_no_broken_cell():
    lines = EXPORTS["llama-bench-md"](bench()).text.splitlines()

    assert lines[0] == "| model | size | params | backend | ngl | test | t/s |"
    assert {line.count("|") for line in lines[:6]} == {8}
    assert lines[2] == "| org/model/8b label of bf16 | 8.00 GiB | - | local | - | pp512 | 1066.67 ± 208.17 |"
    assert "rounds: 3" in lines[-1]


def test_ml_energy_comes_back_as_it_went_out():
    text = EXPORTS["ml-energy"](bench()).text
    base, cand = imported("ml-energy", text)

    assert (base.throughput.output_tok_s, base.hardware, base.precision) == (pytest.approx(1000.0), "NVIDIA H200",
                                                                             "label of bf16")  # fmt: skip
    assert base.energy[0].j_per_output_token == pytest.approx(0.4)
    assert cand.energy[0].j_per_output_token == pytest.approx(0.4 / 1.3)
    assert base.energy[0].j_per_request == pytest.approx(400.0)
    assert base.energy[0].power_w == pytest.approx(400.0)
    assert base.latency["itl_s"] == {"p50": pytest.approx(0.021), "p90": pytest.approx(0.0315)}
    first = json.loads(text)["configurations"][0]
    published = json.loads((Path(__file__).parent / "speed_files" / "ml-energy-task.json").read_text())
    assert set(first) == {*published["configurations"][0], "evalsuite"}
    assert first["evalsuite"]["quality"] == "L3"


def test_csv_has_one_row_a_measurement_with_its_rounds():
    rows = list(csv.DictReader(io.StringIO(EXPORTS["csv"](bench()).text)))

    assert len(rows) == 9
    assert [row["role"] for row in rows[:3]] == ["baseline", "null", "candidate"]
    first = rows[0]
    assert (first["rounds"], first["rounds_voided"], float(first["tokens_per_s"])) == ("3", "1", pytest.approx(1000.0))
    assert (float(first["tokens_per_s_min"]), float(first["tokens_per_s_max"])) == (pytest.approx(900),
                                                                                    pytest.approx(1300))  # fmt: skip
    assert (first["meter"], first["scope"], first["quality"], first["other_meters"]) == (
        "nvml", "gpu_board", "L3", "rapl:0.09")  # fmt: skip
    assert float(first["j_per_token"]) == pytest.approx(0.4)
    assert (rows[3]["ttft_p50_s"], rows[3]["depth"]) == ("", "")


def test_prometheus_is_well_formed_and_has_no_series_twice():
    text = EXPORTS["prometheus"](bench()).text
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    pattern = re.compile(r'([a-z_]+)\{((?:[a-z_]+="(?:[^"\\\n]|\\.)*",?)+)\} ([0-9.e+-]+)')
    matched = [pattern.fullmatch(line) for line in samples]

    assert all(matched)
    series = [(found[1], found[2]) for found in matched if found]
    assert len(set(series)) == len(series)
    assert text.count("# TYPE evalsuite_tokens_per_second gauge") == 1
    assert sum(line.startswith("evalsuite_rounds{") and line.endswith(" 3") for line in samples) == 9
    assert text.endswith("\n")


@pytest.mark.parametrize("kind", EXPORTS)
def test_without_a_meter_no_energy_is_written(kind: str):
    silent = {"energy": (), "energy_reasons": ("nvml: no_meter",)}
    rows = [measurement(work, "bf16", windows=tuple(window(work, "bf16", i, **silent) for i in range(3)))
            for work in (WHOLE, PREFILL, DECODE)]  # fmt: skip
    text = EXPORTS[kind](bench(*rows)).text
    if kind == "csv":
        assert {row["j_per_token"] + row["power_w"] + row["meter"] for row in csv.DictReader(io.StringIO(text))} == {""}
    elif kind == "ml-energy":
        assert {one["energy_per_token_joules"] for one in json.loads(text)["configurations"]} == {None}
        assert {one["avg_power_watts"] for one in json.loads(text)["configurations"]} == {None}
    else:
        assert not re.search("joule|watt|energy", text)


def spoilt(**fields: Any) -> Measurement:
    """A whole-request measurement of the baseline, its rounds 0 to 2 with other fields."""
    return measurement(WHOLE, "bf16", windows=tuple(window(WHOLE, "bf16", i, **fields) for i in range(3)))


@pytest.mark.parametrize("row", [
    measurement(WHOLE, "bf16", synthetic_weights=True), spoilt(reasons=("implausible_power",)),
    measurement(WHOLE, "bf16", reasons=("device_set_mismatch",)), spoilt(energy=(energy(10, 1, quality="L1"),)),
    spoilt(energy=(energy(10, 1, "cpu_package"),)), spoilt(energy=(energy(10, 1, reasons=("counter_reset",)),)),
], ids=["synthetic", "implausible", "mismatch", "L1", "processor", "reset"])  # fmt: skip
def test_energy_that_does_not_count_is_left_out_of_a_leaderboard_and_speed_stays(row: Measurement):
    made = EXPORTS["ml-energy"](bench(row))
    (one,) = json.loads(made.text)["configurations"]

    assert (one["energy_per_token_joules"], one["energy_per_request_joules"], one["avg_power_watts"]) == (None,) * 3
    assert one["output_throughput_tokens_per_sec"] == pytest.approx(1000.0)
    assert any("without energy" in note for note in made.notes)


def test_warnings_take_nothing_away_and_lost_rounds_are_counted():
    warned = spoilt(reasons=("power_capped",))
    lost = measurement(WHOLE, "bf16", windows=(*warned.windows[:2], window(WHOLE, "bf16", 2, reasons=("clock_step",))))
    whole, less = (next(csv.DictReader(io.StringIO(EXPORTS["csv"](bench(row)).text))) for row in (warned, lost))

    assert (whole["rounds"], float(whole["tokens_per_s"])) == ("3", pytest.approx(1000.0))
    assert (less["rounds"], float(less["tokens_per_s"])) == ("2", pytest.approx(950.0))


@pytest.mark.parametrize("reason", sorted(set(REASONS) - WARNINGS - ENERGY_ONLY))
def test_a_measurement_with_a_code_that_takes_its_number_away_is_left_out(reason: str):
    with pytest.raises(UsageError, match="1 measurements without a valid round"):
        EXPORTS["csv"](bench(measurement(WHOLE, "bf16", reasons=(reason,))))


def test_every_scope_has_a_place_and_every_energy_code_exists():
    assert set(SCOPES) == set(Scope.__args__)
    assert set(REASONS) >= ENERGY_ONLY
    assert not ENERGY_ONLY & WARNINGS


def test_a_format_without_room_says_what_fits_elsewhere():
    with pytest.raises(UsageError, match="prefill and decode fit llama-bench"):
        EXPORTS["vllm-serve"](bench(measurement(DECODE, "bf16")))
    with pytest.raises(UsageError, match="of one sequence only"):
        EXPORTS["llama-bench"](bench(measurement(WHOLE, "bf16")))
    running = EXPORTS["csv"](bench(status="running"))
    assert running.notes[0] == "the bench is running: rounds may be missing"


def test_the_command_line_writes_to_stdout_a_file_or_json(tmp_path: Path):
    folder = tmp_path / "results" / bench().bench_id
    folder.mkdir(parents=True)
    (folder / "bench.json").write_text(bench().model_dump_json())
    arguments = ["export", "csv", "2026", "--results", str(tmp_path / "results")]
    plain = CliRunner().invoke(app, arguments)
    filed = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "sub" / "bench.csv")])
    data = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    by_path = CliRunner().invoke(app, ["export", "csv", str(folder / "bench.json")])

    assert (plain.exit_code, filed.exit_code) == (0, 0), plain.output
    assert plain.stdout == EXPORTS["csv"](bench()).text == (tmp_path / "sub" / "bench.csv").read_text() == data["text"]
    assert by_path.stdout == plain.stdout
    assert "3 measurements of emulated arms left out" in plain.stderr
    assert data["schema_version"] == 1


def test_unknown_benches_and_formats_are_bad_usage(tmp_path: Path):
    wrong = CliRunner().invoke(app, ["export", "promtheus", "x", "--results", str(tmp_path)])
    absent = CliRunner().invoke(app, ["export", "csv", "x", "--results", str(tmp_path)])
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "bench.json").write_text(bench(bench_id="b").model_dump_json())
    (tmp_path / "broken.json").write_text('{"schema_version": 1}')

    assert "Did you mean 'prometheus'" in str(wrong.exception)
    assert "no benches here" in str(absent.exception)
    assert find_bench(tmp_path, "last") == find_bench(tmp_path, "b") == read_benches(tmp_path)[0] == bench(bench_id="b")
    with pytest.raises(UsageError, match="Unknown bench 'q'"):
        find_bench(tmp_path, "q")
    with pytest.raises(SchemaError, match="broken.json"):
        find_bench(tmp_path, str(tmp_path / "broken.json"))
