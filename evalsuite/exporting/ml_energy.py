"""Like a task file of ML.ENERGY's leaderboard: one configuration a measurement of whole requests.

Its energy is that of accelerators, so only accelerator meters are written, and none of quality `L1`, which is never
ranked. Energy a request is energy a token times the mean output length, as there. What their files have and a bench
does not know (parameters, parallelism, mean batch) is null; what theirs have no key for stands under `evalsuite`.
"""

import json
from statistics import median
from typing import Any

from evalsuite.exporting.figures import ACCELERATOR, Exported, Point, hardware, model, points, precision
from evalsuite.records import Bench


def write_ml_energy(bench: Bench) -> Exported:
    """All measurements whose windows are whole requests."""
    found, notes = points(bench, lambda row: row.workload.phase == "whole",
                          "ml-energy has whole requests only; prefill and decode fit llama-bench")  # fmt: skip
    made = [_configuration(bench, point) for point in found]
    without = sum(one["energy_per_token_joules"] is None for one in made)
    if without:
        notes.append(f"{without} configurations without energy: no accelerator meter of quality L2 or better")
    task = {"architecture": "llm", "configurations": made, "task": bench.spec.suite,
            "task_display_name": f"evalsuite {bench.spec.suite}"}  # fmt: skip
    return Exported(json.dumps(task, indent=2, ensure_ascii=False, allow_nan=False) + "\n", tuple(notes))


def _configuration(bench: Bench, point: Point) -> dict[str, Any]:
    work = point.row.workload
    requests = point.total(lambda window: window.requests)
    length = point.total(lambda window: window.output_tokens) / requests if requests else float(work.output_tokens)
    best = next((one for one in point.joules if one.scope in ACCELERATOR and one.quality != "L1"), None)
    joules = None if best is None else median(best.per_token)
    itl = {name: point.latency("itl", key) for name, key in (("median", "p50"), ("p90", "p90"), ("p99", "p99"))}
    return {
        "activated_params_billions": None, "architecture": None, "avg_batch_size": None, "avg_output_len": length,
        "avg_power_watts": None if best is None else median(best.power_w), "data_parallel": None,
        "energy_per_request_joules": None if joules is None else joules * length,
        "energy_per_token_joules": joules, "expert_parallel": None, "gpu_model": hardware(bench),
        "max_num_batched_tokens": None, "max_num_seqs": work.batch,
        **{f"{name}_itl_ms": None if value is None else 1000 * value for name, value in itl.items()},
        "model_id": model(bench, point), "nickname": point.row.arm, "num_gpus": work.devices,
        "output_throughput_tokens_per_sec": point.tokens_per_s, "p95_itl_ms": None, "tensor_parallel": None,
        "total_params_billions": None, "weight_precision": precision(point),
        "evalsuite": {
            "bench_id": bench.bench_id, "workload": work.key, "rounds": len(point.windows),
            "rounds_with_energy": 0 if best is None else len(best.per_token), "execution": point.row.execution,
            "scope": None if best is None else best.scope, "quality": None if best is None else best.quality,
            "method": None if best is None else best.method,
        },
    }  # fmt: skip
