"""`trtllm-bench throughput|latency --report_json`: engine, machine, world, requests, performance; with streaming also
times to the first and between tokens; newer versions also energy.

How the energy was read the file does not say (board counters or sampled power), so its quality is `L1`.
"""

from evalsuite.errors import UsageError
from evalsuite.importing.speeds.fields import Fields, Source, single
from evalsuite.records import ForeignEnergy, ForeignSpeed, ForeignThroughput, ForeignWorkload
from evalsuite.records.foreign import LatencyKind

TOOL = "trtllm-bench"
STATISTICS = {"mean": "average", "p50": "p50", "p90": "p90", "p95": "p95", "p99": "p99"}


def read_trtllm(source: Source) -> list[ForeignSpeed]:
    """The one row of a report."""
    report = single(source)
    if report.data.get("performance") is None:
        raise UsageError(f"{source.path}: not a report of trtllm-bench: missing performance.")
    engine, world, asked = report.inner("engine"), report.inner("world_info"), report.inner("request_info")
    speed, streaming = report.inner("performance"), report.inner("streaming_metrics")
    speed.require(("system_output_throughput_tok_s", "request_throughput_req_s"), "a report of trtllm-bench")
    devices, energy_j = world.count("world_size"), report.inner("energy").figure("total_energy_j")
    latency: dict[LatencyKind, dict[str, float]] = {
        "e2el_s": _statistics(speed.inner("request_latency_percentiles_ms")),
        "ttft_s": _statistics(streaming.inner("ttft_percentiles")),
        "tpot_s": _statistics(streaming.inner("tpot_percentiles")),
    }  # fmt: skip
    precision = [engine.text("quantization") or engine.text("dtype"), engine.text("kv_cache_dtype")]
    return [ForeignSpeed(
        **report.row(0, TOOL), source_version=engine.text("version"), model=engine.text("model"),
        hardware=report.inner("machine").text("name"), framework=f"tensorrt-llm {engine.text('backend') or ''}".strip(),
        precision=" kv ".join(part for part in precision if part) or None,
        workload=ForeignWorkload(
            input_tokens=asked.figure("avg_input_length"), output_tokens=asked.figure("avg_output_length"),
            batch=asked.figure("avg_num_concurrent_requests"), requests=asked.count("num_requests"), devices=devices,
        ),
        window="whole_run", duration_s=speed.figure("total_latency_ms", 1e-3),
        throughput=ForeignThroughput(
            output_tok_s=speed.figure("system_output_throughput_tok_s"),
            total_tok_s=speed.figure("system_total_throughput_tok_s"),
            requests_s=speed.figure("request_throughput_req_s"),
        ),
        latency={name: found for name, found in latency.items() if found},
        energy=() if energy_j is None else (
            ForeignEnergy(scope="gpu_board", method=TOOL, quality="L1", devices=devices, energy_j=energy_j),
        ),
        notes=("batch is the mean number of requests in flight", *report.notes),
        reasons=() if energy_j is not None else ("no_meter",),
    )]  # fmt: skip


def _statistics(table: Fields) -> dict[str, float]:
    """Percentiles in milliseconds as seconds."""
    return {name: value / 1000 for name, key in STATISTICS.items() if (value := table.number(key)) is not None}
