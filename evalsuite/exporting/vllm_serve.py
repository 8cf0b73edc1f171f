"""The shape of `vllm bench serve --append-result`: one JSON object a line, one a measurement of whole requests.

Rates and latencies are medians over the rounds; `duration`, `completed` and the token totals are sums over them.
"""

import json
from typing import Any

from evalsuite.exporting.figures import Exported, Point, model, points
from evalsuite.records import Bench

FAMILIES = ("ttft", "tpot", "itl", "e2el")
STATISTICS = {"mean": "mean", "p50": "median", "p90": "p90", "p99": "p99"}


def write_vllm_serve(bench: Bench) -> Exported:
    """All measurements whose windows are whole requests, from prompt to last token."""
    found, notes = points(bench, lambda row: row.workload.phase == "whole",
                          "vllm-serve has whole requests only; prefill and decode fit llama-bench")  # fmt: skip
    lines = [json.dumps(_result(bench, point), ensure_ascii=False, allow_nan=False) for point in found]
    return Exported("".join(line + "\n" for line in lines), tuple(notes))


def _result(bench: Bench, point: Point) -> dict[str, Any]:
    requests = int(point.total(lambda window: window.requests))
    return {
        "date": bench.created, "endpoint_type": f"evalsuite-{point.row.workload.runner}",
        "backend": f"evalsuite-{bench.spec.engine}", "label": point.row.arm, "model_id": model(bench, point),
        "tokenizer_id": model(bench, point), "num_prompts": requests, "request_rate": "inf", "burstiness": 1.0,
        "max_concurrency": point.row.workload.batch, "duration": point.total(lambda window: window.duration_s),
        "completed": requests, "total_input_tokens": int(point.total(lambda window: window.input_tokens)),
        "total_output_tokens": int(point.total(lambda window: window.output_tokens)),
        "request_throughput": point.middle(lambda window: window.requests / window.duration_s),
        "request_goodput": point.middle(lambda window: window.latency.goodput_per_s if window.latency else None),
        "output_throughput": point.tokens_per_s,
        "total_token_throughput": point.middle(
            lambda window: (window.input_tokens + window.output_tokens) / window.duration_s),
        **_latencies(point),
        "evalsuite": {"bench_id": bench.bench_id, "workload": point.row.workload.key, "rounds": len(point.windows),
                      "statistic": "median over rounds", "execution": point.row.execution},
    }  # fmt: skip


def _latencies(point: Point) -> dict[str, float]:
    """`p99_ttft_ms` and the like, as far as enough requests support them."""
    found = {}
    for family in FAMILIES:
        for ours, theirs in STATISTICS.items():
            if (value := point.latency(family, ours)) is not None:
                found[f"{theirs}_{family}_ms"] = 1000 * value
    return found
