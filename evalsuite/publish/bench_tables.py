"""The CSV behind each table and chart of a bench, and of imported results. Rules as in `tables`.

An emulated arm has a row that says so and no number. Windows of an arm whose number was taken away keep their raw
counts and seconds; no tokens a second are made of them.
"""

from collections.abc import Sequence

from evalsuite.publish.benches import JudgedBench, limit_of
from evalsuite.publish.tables import Value, csv_text
from evalsuite.records import ForeignFile, Interval, Joint


def _interval(found: Interval | None) -> Sequence[Value]:
    return (None, None, None) if found is None else (found.value, *(found.ci95 or (None, None)))


def points(bench: JudgedBench) -> str:
    """One row an arm and point."""
    head = ("bench", "point", "arm", "execution", "tokens_per_s", "ci95_low", "ci95_high", "limit_tokens_per_s",
            "fraction_of_limit", "peaks", "rounds", "voided", "weights_bytes", "resident_bytes", "kv_bytes_per_token",
            "peak_bytes", "reasons")  # fmt: skip
    rows = []
    for p in bench.judgement.points:
        row = bench.row(p.arm, p.workload)
        memory = row.memory if row else None
        sizes = (memory.weights_bytes, memory.resident_bytes, memory.kv_bytes_per_token) if memory else (None,) * 3
        rows.append((bench.bench.bench_id, p.workload.key, p.arm, p.execution, *_interval(p.tokens_per_s), limit_of(p),
                     p.fraction, p.peaks, p.n, p.voided, *sizes, p.peak_bytes, " ".join(p.reasons)))  # fmt: skip
    return csv_text(head, rows)


def ratios(bench: JudgedBench) -> str:
    """One row a ratio, of speed and of energy."""
    head = ("bench", "quantity", "point", "comparison", "baseline", "baseline_point", "arm", "meter", "scope",
            "quality", "ratio", "ci95_low", "ci95_high", "resolved", "null_halfwidth", "limit_ratio", "rounds",
            "voided", "drift", "reasons")  # fmt: skip
    rows = []
    for r in bench.judgement.ratios:
        other = r.baseline_workload or r.workload
        value = _interval(None if r.value is None else Interval(value=r.value, ci95=r.ci95))
        shown = r.value is not None
        rows.append((bench.bench.bench_id, r.quantity, r.workload.key, r.workload.comparison, r.baseline, other.key,
                     r.arm, r.meter, r.scope, r.quality, *value, r.resolved if shown else None,
                     r.aa_halfwidth if shown else None, r.limit_ratio if shown else None, r.n, r.voided,
                     r.drift if shown else None, " ".join(r.reasons)))  # fmt: skip
    return csv_text(head, rows)


def rounds(bench: JudgedBench) -> str:
    """One row a window, voided ones too."""
    head = ("bench", "point", "arm", "round", "turn", "attempt", "voided", "start_s", "duration_s", "input_tokens",
            "output_tokens", "tokens_per_s", "communication", "reasons")  # fmt: skip
    rows = []
    for row in bench.bench.measurements:
        shown = {id(w) for w in bench.windows(row.arm, row.workload)}
        for w in row.windows:
            speed = w.tokens_per_s(row.workload.phase) if id(w) in shown else None
            rows.append((bench.bench.bench_id, row.workload.key, row.arm, w.round, w.position, w.attempt, w.voided,
                         w.start_s, w.duration_s, w.input_tokens, w.output_tokens, speed, w.communication,
                         " ".join(w.reasons)))  # fmt: skip
    return csv_text(head, rows)


def energy(bench: JudgedBench) -> str:
    """One row an arm, point and meter; an arm without joules has one with the reasons. Measured energy only."""
    head = ("bench", "point", "arm", "meter", "scope", "method", "quality", "j_per_token", "ci95_low", "ci95_high",
            "reasons")  # fmt: skip
    rows: list[Sequence[Value]] = []
    for p in bench.judgement.points:
        for meter, joules in p.j_per_token.items():
            metered = bench.metered(p.arm, p.workload, meter) or (None, None, None)
            rows.append((bench.bench.bench_id, p.workload.key, p.arm, meter, *metered, *_interval(joules), ""))
        if not p.j_per_token:
            codes = dict.fromkeys((*p.energy_reasons, *p.reasons))
            rows.append((bench.bench.bench_id, p.workload.key, p.arm, *(None,) * 7, " ".join(codes)))
    return csv_text(head, rows)


def costs(bench: JudgedBench) -> str:
    """One row an arm, mode and task (all tasks: empty)."""
    parts = ("tokens", "accuracy", "s_per_token", "j_per_token", "tokens_per_correct", "s_per_correct", "j_per_correct")
    intervals = ("tokens_per_correct", "token_inflation", "s_per_correct", "j_per_correct", "j_per_answer",
                 "cost_per_correct")  # fmt: skip
    head = ("bench", "run", "arm", "mode", "task", "answers", "correct", "tokens_per_answer", "waste", "truncated",
            *(f"{name}{end}" for name in intervals for end in ("", "_ci95_low", "_ci95_high")), "token_inflation_noise",
            "break_even_inflation", *(f"log_{name}" for name in parts), "point", "meter", "scope", "quality",
            "reasons")  # fmt: skip

    def row(j: Joint) -> Sequence[Value]:
        logs = j.decomposition or {}
        ends = [value for name in intervals for value in _interval(getattr(j, name))]
        return (bench.bench.bench_id, bench.judgement.run_id, j.arm, j.mode, j.task, j.n, j.n_correct,
                j.tokens_per_answer, j.waste, j.truncated, *ends, j.token_inflation_noise, j.break_even_inflation,
                *(logs.get(name) for name in parts), j.workload, j.meter, j.scope, j.quality,
                " ".join(j.reasons))  # fmt: skip

    return csv_text(head, (row(joint) for joint in bench.judgement.joints))


def scaling(bench: JudgedBench) -> str:
    """One row an arm, workload and number of devices."""
    head = ("bench", "point", "arm", "devices", "tokens_per_s", "ci95_low", "ci95_high", "efficiency",
            "efficiency_ci95_low", "efficiency_ci95_high", "gain", "gain_ci95_low", "gain_ci95_high", "communication",
            "pays", "stops_at")  # fmt: skip
    rows = [
        (bench.bench.bench_id, one.workload.key, one.arm, s.devices, *_interval(s.tokens_per_s),
         *_interval(s.efficiency), *_interval(s.gain), s.communication, s.pays, one.stops_at)
        for one in bench.judgement.scaling for s in one.steps
    ]  # fmt: skip
    return csv_text(head, rows)


TABLES = (points, ratios, rounds, energy, costs, scaling)
"""Every table of a bench; its name is that of the file."""


def imported(files: Sequence[ForeignFile]) -> str:
    """One row an imported result."""
    head = ("file", "file_sha256", "row", "source_tool", "source_version", "label", "model", "hardware", "precision",
            "window", "devices", "per_device", "output_tok_s", "total_tok_s", "prefill_tok_s", "decode_tok_s",
            "requests_s", "measured_j_per_output_token", "scope", "quality", "reasons", "notes")  # fmt: skip
    rows = []
    for row in (row for file in files for row in file.rows):
        t, joules = row.throughput, row.energy[0] if len(row.energy) == 1 else None
        metered = (joules.j_per_output_token, joules.scope, joules.quality) if joules else (None, None, None)
        rows.append((row.file_name, row.file_sha256, row.row, row.source_tool, row.source_version, row.label, row.model,
                     row.hardware, row.precision, row.window, row.workload.devices, t.per_device, t.output_tok_s,
                     t.total_tok_s, t.prefill_tok_s, t.decode_tok_s, t.requests_s, *metered, " ".join(row.reasons),
                     " ".join(row.notes)))  # fmt: skip
    return csv_text(head, rows)
