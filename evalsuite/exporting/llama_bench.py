"""The shape of `llama-bench -o json` and `-o md`: `pp` for prefill, `tg` for decode, one sequence at a time.

`samples_ts` are the rounds. The keys `avg_ts` and `stddev_ts` are by name mean and sample deviation, so they are that
here too; the median, which all other exports give, stands in `median_ts`.
"""

import json
from statistics import fmean, stdev
from typing import Any

from evalsuite.exporting.figures import Exported, Point, hardware, model, points, precision
from evalsuite.records import Bench, Measurement

WHY = "llama-bench has prefill and decode of one sequence only"


def write_json(bench: Bench) -> Exported:
    """All prefill and decode measurements of batch 1, as a list of tests."""
    found, notes = points(bench, _fits, WHY)
    tests = [_test(bench, point) for point in found]
    return Exported(json.dumps(tests, indent=2, ensure_ascii=False, allow_nan=False) + "\n", tuple(notes))


def write_markdown(bench: Bench) -> Exported:
    """The same as a table: mean and sample deviation over the rounds."""
    found, notes = points(bench, _fits, WHY)
    lines = ["| model | size | params | backend | ngl | test | t/s |",
             "| --- | ---: | ---: | --- | --: | ---: | ---: |"]  # fmt: skip
    for point in found:
        name = f"{model(bench, point)} {precision(point)}".replace("|", "/")
        memory = point.row.memory
        size = "-" if memory is None else f"{memory.weights_bytes / 2**30:.2f} GiB"
        lines.append(f"| {name} | {size} | - | {bench.spec.engine} | - | {_name(point.row)} | "
                     f"{fmean(point.rates):.2f} ± {_deviation(point):.2f} |")  # fmt: skip
    rounds = sorted({len(point.windows) for point in found})
    lines.append(f"\nevalsuite bench {bench.bench_id}, rounds: {', '.join(map(str, rounds))}")
    return Exported("\n".join(lines) + "\n", tuple(notes))


def _fits(row: Measurement) -> bool:
    return row.workload.batch == 1 and row.workload.phase != "whole" and _tokens(row) > 0


def _tokens(row: Measurement) -> int:
    return row.workload.input_tokens if row.workload.phase == "prefill" else row.workload.output_tokens


def _name(row: Measurement) -> str:
    """`pp512`, `tg128`, `tg128 @ d4096`."""
    kind = "pp" if row.workload.phase == "prefill" else "tg"
    return f"{kind}{_tokens(row)}" + (f" @ d{row.workload.depth}" if row.workload.depth else "")


def _deviation(point: Point) -> float:
    return stdev(point.rates) if len(point.rates) > 1 else 0.0


def _test(bench: Bench, point: Point) -> dict[str, Any]:
    row, rates = point.row, point.rates
    times = [round(1e9 * _tokens(row) / rate) for rate in rates]
    prefill = row.workload.phase == "prefill"
    processor = bench.machine.get("processor")
    return {
        "build_commit": f"evalsuite-{bench.software.get('commit') or bench.software.get('evalsuite', 'unknown')}",
        "build_number": None, "cpu_info": processor if isinstance(processor, str) else None,
        "gpu_info": hardware(bench) if bench.machine.get("accelerator") else "", "backends": bench.spec.engine,
        "model_filename": model(bench, point), "model_type": precision(point),
        "model_size": None if row.memory is None else row.memory.weights_bytes, "model_n_params": None,
        "n_prompt": _tokens(row) if prefill else 0, "n_gen": 0 if prefill else _tokens(row),
        "n_depth": row.workload.depth or 0, "test_time": bench.created,
        "avg_ns": round(fmean(times)), "stddev_ns": round(stdev(times)) if len(times) > 1 else 0,
        "avg_ts": fmean(rates), "stddev_ts": _deviation(point), "median_ts": point.tokens_per_s,
        "samples_ns": times, "samples_ts": list(rates), "arm": row.arm, "execution": row.execution,
        "rounds": len(rates),
    }  # fmt: skip
