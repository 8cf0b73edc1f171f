"""CSV, one row a measurement, and a Prometheus textfile, one gauge a figure. Both keep the null arm, and say so."""

import csv
import io
from statistics import median
from typing import Any

from evalsuite.exporting.figures import Exported, Point, hardware, model, points, precision
from evalsuite.records import Bench

COLUMNS = (
    "bench_id", "created", "status", "model", "hardware", "engine", "arm", "role", "precision", "execution", "workload",
    "preset", "runner", "phase", "batch", "input_tokens", "output_tokens", "depth", "devices", "comparison", "rounds",
    "rounds_voided", "tokens_per_s", "tokens_per_s_min", "tokens_per_s_max", "ttft_p50_s", "tpot_p50_s", "itl_p50_s",
    "e2el_p50_s", "j_per_token", "power_w", "rounds_with_energy", "meter", "scope", "quality", "other_meters",
    "weights_bytes", "peak_bytes", "reasons",
)  # fmt: skip
"""Figures are medians over `rounds`; tokens: prompt tokens for `prefill`, generated ones otherwise. Empty: unknown."""
GAUGES = {
    "evalsuite_tokens_per_second": "Median over rounds: prompt tokens for prefill, generated tokens otherwise.",
    "evalsuite_rounds": "Rounds that the median is over.",
    "evalsuite_joules_per_token": "Median over rounds, gross, as measured by the meter.",
    "evalsuite_power_watts": "Median over rounds of the mean power.",
}


def write_csv(bench: Bench) -> Exported:
    """All measurements but those of emulated arms."""
    found, notes = points(bench, lambda _: True, "", null=True)
    sink = io.StringIO()
    writer = csv.DictWriter(sink, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_line(bench, point) for point in found)
    return Exported(sink.getvalue(), tuple(notes))


def _role(bench: Bench, point: Point) -> str:
    roles = {bench.spec.baseline: "baseline", bench.spec.null_arm: "null"}
    return roles.get(point.row.arm, "candidate")


def _line(bench: Bench, point: Point) -> dict[str, Any]:
    row, work = point.row, point.row.workload
    first = point.joules[0] if point.joules else None
    times = {f"{family}_p50_s": point.latency(family, "p50") for family in ("ttft", "tpot", "itl", "e2el")}
    energy = {} if first is None else {
        "j_per_token": median(first.per_token), "power_w": median(first.power_w), "meter": first.meter,
        "rounds_with_energy": len(first.per_token), "scope": first.scope, "quality": first.quality,
        "other_meters": " ".join(f"{one.meter}:{median(one.per_token):.6g}" for one in point.joules[1:]),
    }  # fmt: skip
    return {
        "bench_id": bench.bench_id, "created": bench.created, "status": bench.status, "model": model(bench, point),
        "hardware": hardware(bench), "engine": bench.spec.engine, "arm": row.arm, "role": _role(bench, point),
        "precision": precision(point), "execution": row.execution, "workload": work.key,
        **work.model_dump(include={"preset", "runner", "phase", "batch", "input_tokens", "output_tokens", "depth",
                                   "devices", "comparison"}),
        "rounds": len(point.windows), "rounds_voided": sum(window.voided for window in row.windows),
        "tokens_per_s": point.tokens_per_s, "tokens_per_s_min": min(point.rates), "tokens_per_s_max": max(point.rates),
        "weights_bytes": None if row.memory is None else row.memory.weights_bytes,
        "peak_bytes": None if row.memory is None else row.memory.peak_bytes, "reasons": " ".join(row.reasons),
        **times, **energy,
    }  # fmt: skip


def write_prometheus(bench: Bench) -> Exported:
    """For node_exporter's textfile collector."""
    found, notes = points(bench, lambda _: True, "", null=True)
    samples: dict[str, list[str]] = {name: [] for name in GAUGES}
    for point in found:
        work = point.row.workload
        labels = {"bench": bench.bench_id, "model": model(bench, point), "arm": point.row.arm,
                  "role": _role(bench, point), "workload": work.key, "phase": work.phase, "batch": str(work.batch),
                  "execution": point.row.execution or "none"}  # fmt: skip
        _add(samples, "evalsuite_tokens_per_second", labels, point.tokens_per_s)
        _add(samples, "evalsuite_rounds", labels, len(point.windows))
        for one in point.joules:
            metered = {**labels, "meter": one.meter, "scope": one.scope, "method": one.method, "quality": one.quality}
            _add(samples, "evalsuite_joules_per_token", metered, median(one.per_token))
            _add(samples, "evalsuite_power_watts", metered, median(one.power_w))
    lines = [line for name, values in samples.items() if values
             for line in (f"# HELP {name} {GAUGES[name]}", f"# TYPE {name} gauge", *values)]  # fmt: skip
    return Exported("\n".join(lines) + "\n", tuple(notes))


def _add(samples: dict[str, list[str]], name: str, labels: dict[str, str], value: float) -> None:
    told = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    samples[name].append(f"{name}{{{told}}} {value!r}")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
