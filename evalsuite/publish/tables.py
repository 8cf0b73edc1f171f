"""The CSV behind each table: judged runs in, text out. Full precision, fractions not points, empty for absent.

A cell that a spreadsheet would take for a formula gets a leading apostrophe, since names of tasks are not ours.
"""

import csv
import io
from collections.abc import Iterable, Sequence

from evalsuite.publish.figures import tested
from evalsuite.publish.runs import JudgedRun
from evalsuite.records import CellRecord, Decision

Value = str | int | float | None


def csv_text(head: Sequence[str], rows: Iterable[Sequence[Value]]) -> str:
    """Rows under a head."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([[_cell(value) for value in row] for row in rows])
    return out.getvalue()


def _cell(value: Value) -> Value:
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return value


def decisions(run: JudgedRun) -> str:
    """One row a gate: pooled (task empty) and each task, for every candidate and mode."""
    head = ("run", "model", "baseline", "candidate", "mode", "task", "role", "margin", "verdict", "n", "accuracy_base",
            "accuracy_cand", "delta", "ci90_low", "ci90_high", "ci_kind", "p_safe", "p_unsafe", "lost", "gained",
            "missing_base", "missing_cand", "reasons", "flags")  # fmt: skip

    def row(d: Decision) -> Sequence[Value]:
        s, c = d.subject, d.counts
        interval = d.ci if tested(d) else (None, None)
        return (run.manifest.run_id, s.model, s.baseline, s.candidate, s.mode, s.task, d.plan.role, d.plan.margin,
                d.verdict, d.n, d.accuracy_base, d.accuracy_cand, d.delta, *interval, d.ci_kind, d.p_safe, d.p_unsafe,
                c.n10, c.n01, c.missing_base, c.missing_cand, " ".join(d.reasons), " ".join(d.flags))  # fmt: skip

    return csv_text(head, (row(gate) for suite in run.judgement.decisions for gate in (suite.pooled, *suite.tasks)))


def arms(run: JudgedRun) -> str:
    """One row an arm, mode and task (pooled: task empty)."""
    head = ("run", "model", "arm", "mode", "task", "n", "n_correct", "n_unparsable", "n_truncated", "accuracy",
            "ci90_low", "ci90_high", "mean_output_tokens")  # fmt: skip
    rows = [
        (run.manifest.run_id, run.model, s.arm, s.mode, s.task, s.n, s.n_correct, s.n_unparsable, s.n_truncated,
         s.accuracy, *(s.ci or (None, None)), s.mean_output_tokens)
        for s in run.judgement.arms
    ]  # fmt: skip
    return csv_text(head, rows)


def cells(run: JudgedRun) -> str:
    """One row a cell."""
    head = ("run", "cell", "arm", "task", "mode", "repeat", "status", "n_done", "n_planned", "execution", "kernel",
            "samples_sha256", "error")  # fmt: skip

    def row(key: str, r: CellRecord) -> Sequence[Value]:
        ran = (r.realised.execution, r.realised.kernel) if r.realised else (None, None)
        return (run.manifest.run_id, key, r.cell.arm, r.cell.task, r.cell.mode, r.cell.repeat, r.status, r.n_done,
                r.n_planned, *ran, r.samples_sha256, r.error)  # fmt: skip

    return csv_text(head, (row(key, record) for key, record in sorted(run.manifest.cells.items())))
