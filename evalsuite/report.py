"""What the terminal shows: verdicts, items and lists as rich tables, from the same nouns as the pages."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from evalsuite.records import (
    Decision,
    Finding,
    ForeignFile,
    ForeignSpeed,
    Gate,
    Judgement,
    Manifest,
    SuiteDecision,
    SuitePlan,
)

WIDTH = 130
"""Columns that a table of gates needs; narrower terminals wrap whole lines rather than cut cells."""
FLAGS = {"DEGRADED": "degraded", "NO_SIGNAL": "near chance", "UNDERPOWERED": "too few items", "CEILING": "at ceiling"}
"""Flags as the table says them."""
MARKS = {"SAFE": "✔", "UNSAFE": "✖", "INCONCLUSIVE": "◐", "INVALID": "⚠"}
HEALTH = {"good": "✔", "note": "◐", "problem": "✖"}


def judgement_view(manifest: Manifest, judgement: Judgement) -> RenderableType:
    """Sentence and gates of each decision of a run, then every reason to distrust it, once."""
    head = f"\n{manifest.run_id}  ({manifest.spec.name}, {manifest.spec.model.id})"
    parts: list[RenderableType] = [Text(head, "bold")]
    for decision in judgement.decisions:
        parts += [Text(f"\n{MARKS[decision.verdict]} {decision.sentence}"), _gates(decision)]
        if decision.excess is not None:
            parts.append(Text(f"noise  {decision.excess.sentence}", "dim"))
        parts += [Text(line, "dim") for line in _beside(decision)]
    if not judgement.decisions:
        parts.append(Text(f"{MARKS[judgement.verdict]} {judgement.verdict}: nothing to judge in this run."))
    return Group(*parts, *_findings(judgement))


def _beside(decision: SuiteDecision) -> list[str]:
    """What warns beside the verdict: divergence, and endpoints that are not held."""
    lines = []
    if decision.divergence:
        one = decision.divergence[0]
        noise = "" if one.noise_ratio is None else f" ({one.noise_ratio:,.1f} times the noise)"
        lines.append(f"divergence  mean KL {one.mean_kl:.2e}{noise}, 99.9 % {one.p999_kl:.2g}, same top token "
                     f"{_percent(one.same_top)} %, {one.n_tokens:,} tokens; warns, never certifies")  # fmt: skip
    broken = [point for point in decision.endpoints if point.state == "broken"]
    return lines + [f"{p.name}  {p.change:+.3f} [{p.ci[0]:+.3f}, {p.ci[1]:+.3f}], beyond its limit" for p in broken]


def _findings(judgement: Judgement) -> list[RenderableType]:
    where: dict[Finding, list[str]] = {}
    for finding in judgement.findings:
        where.setdefault(finding, [])
    for decision in judgement.decisions:
        subject = decision.pooled.subject
        for finding in decision.findings:
            where.setdefault(finding, []).append(f"{subject.candidate} {subject.mode}")
    if not where:
        return []
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False, title_justify="left")
    for finding, subjects in where.items():
        concerned = f" ({', '.join(subjects)})" if subjects else ""
        table.add_row(Text(finding.code, "dim"), Text(finding.message + concerned, "dim"))
    return [Text("\nto keep in mind", "dim"), table]


def _gates(decision: SuiteDecision) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("gate", "items", "accuracy", "change [90 %]", "lost/won", "margin", "p safe", "verdict", ""):
        right = name not in ("gate", "verdict", "")
        table.add_column(name, justify="right" if right else "left", header_style="dim", no_wrap=True)
    for one in (decision.pooled, *decision.tasks):
        table.add_row(*_gate(one))
    return table


def _gate(one: Decision) -> tuple[str, ...]:
    tested = one.n > 0 and one.delta is not None
    low, high = (100 * bound for bound in one.ci)
    change = f"{100 * (one.delta or 0):+.1f} [{low:+.1f}, {high:+.1f}]" if tested and high - low < 200 else "-"
    accuracy = f"{_percent(one.accuracy_base)} to {_percent(one.accuracy_cand)}" if tested else "-"
    return (
        one.subject.task or "pooled", f"{one.n}", accuracy, change, f"{one.counts.n10}/{one.counts.n01}",
        f"{100 * one.plan.margin:.1f}", f"{one.p_safe:.3f}", one.verdict, ", ".join(FLAGS[flag] for flag in one.flags),
    )  # fmt: skip


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def foreign_view(files: list[ForeignFile]) -> RenderableType:
    """Speed and energy of other programs, as their files state them."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    heads = ("model", "precision", "hardware", "in/out", "batch", "window", "tok/s", "all tok/s", "J/token", "quality")
    for name in heads:
        right = name in ("in/out", "batch", "tok/s", "all tok/s", "J/token")
        table.add_column(name, justify="right" if right else "left", header_style="dim", overflow="fold")
    notes: dict[str, None] = {}
    for row in (row for file in files for row in file.rows):
        table.add_row(*(Text(cell) for cell in _foreign(row)))
        notes |= dict.fromkeys(row.notes)
    head = Text("\nmeasured by other programs: as their files state it, not compared with our own", "bold")
    return Group(head, table, *(Text(f"note    {note}", "dim") for note in notes))


def _foreign(row: ForeignSpeed) -> tuple[str, ...]:
    speed, work, energy = row.throughput, row.workload, row.energy[0] if row.energy else None
    each = "/device" if speed.per_device else ""
    kinds = {"": speed.output_tok_s, " decode": speed.decode_tok_s, " prefill": speed.prefill_tok_s}
    rates = [f"{value:,.1f}{each}{kind}" for kind, value in kinds.items() if value is not None]
    total = "-" if speed.total_tok_s is None else f"{speed.total_tok_s:,.1f}{each}"
    joules = None if energy is None else energy.j_per_output_token
    return (
        row.model or row.label or "-", row.precision or "-", row.hardware or "-",
        f"{_short(work.input_tokens)}/{_short(work.output_tokens)}", _short(work.batch), row.window.replace("_", " "),
        ", ".join(rates) or "-", total, "-" if joules is None else f"{joules:.4g}",
        "-" if energy is None else energy.quality,
    )  # fmt: skip


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:,.4g}"


def plan_view(plan: SuitePlan) -> RenderableType:
    """What a suite can decide, mode by mode."""
    parts: list[RenderableType] = [Text(f"\n{plan.suite}, {plan.model}: {', '.join(plan.arms)}", "bold")]
    for mode in plan.modes:
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        heads = ("gate", "role", "items", "margin", "certifiable", "needed", "psi", "P(SAFE)", "at half", "")
        for name in heads:
            right = name not in ("gate", "role", "")
            table.add_column(name, justify="right" if right else "left", header_style="dim", no_wrap=True)
        for gate in (mode.pooled, *mode.tasks):
            table.add_row(*_plan_row(gate))
        sources = sorted({gate.psi_source for gate in (mode.pooled, *mode.tasks)})
        known = "not known here: no earlier run of these arms" if mode.seconds is None else _duration(mode.seconds)
        lines = ["needed: items for P(SAFE) of 90 % if nothing changes; at half: P(SAFE) if half the margin is lost",
                 f"all that must be SAFE together: {100 * mode.joint_power:.0f} % if nothing changes",
                 f"time {known}; psi (share of differing items) from: {', '.join(sources)}"]  # fmt: skip
        if mode.sequential_items is not None:
            lines.insert(1, f"sequential: SAFE expected after about {mode.sequential_items:,.0f} items if nothing "
                            "changes (90 %: within twice as many)")  # fmt: skip
        parts += [Text(f"\n{mode.mode} mode", "bold"), table, *(Text(line, "dim") for line in lines)]
    if plan.cost is not None:
        parts.append(Text(f"\ncost {plan.cost:,.2f} for {_duration(plan.seconds or 0)}"))
    return Group(*parts)


def _plan_row(gate: Gate) -> tuple[str, ...]:
    certifiable = "-" if gate.certifiable is None else f"{100 * gate.certifiable:.1f}"
    return (
        gate.task or "pooled", gate.role, f"{gate.n:,}", f"{100 * gate.margin:.1f}", certifiable,
        f"{gate.n_required:,}", f"{100 * gate.psi:.1f} %", f"{100 * gate.power:.0f} %",
        f"{100 * gate.power_at_half:.0f} %", gate.advice or "",
    )  # fmt: skip


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"about {max(1, round(seconds))} s"
    return f"about {minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"about {minutes} min"


def item_view(item: str, rows: Any) -> RenderableType:
    """One item: gold, then what each arm answered in each mode."""
    parts: list[RenderableType] = [Text(f"{item}   gold: {rows.iloc[0]['gold']}", "bold")]
    for row in rows.sort_values(["mode", "arm"]).to_dict("records"):
        mark = "right" if row["correct"] else "wrong" if row["parsed"] else "unparsable"
        answer = row["prediction"] if _known(row["prediction"]) else "nothing found"
        ended = row["finish_reason"] if _known(row["finish_reason"]) else "scored"
        count = f"; {int(row['n_output_tokens'])} tokens, {ended}" if _known(row["n_output_tokens"]) else ""
        parts.append(Text(f"\n{row['arm']}, {row['mode']}: {answer} ({mark}{count})", "bold"))
        if _known(row["output_text"]):
            parts.append(Text(row["output_text"]))
        if row["choice_loglikelihoods"] is not None:
            parts.append(Text("log-likelihoods: " + ", ".join(f"{v:.3f}" for v in row["choice_loglikelihoods"])))
    return Group(*parts)


def _known(value: Any) -> bool:
    """False for None and for NaN, which a data frame makes of it."""
    return value is not None and bool(value == value)  # NaN is the one value that differs from itself


def rows_view(rows: list[dict[str, Any]]) -> RenderableType:
    """A list of like dictionaries as a table."""
    if not rows:
        return Text("none")
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for key in rows[0]:
        table.add_column(key, header_style="dim", overflow="fold")
    for row in rows:
        table.add_row(*(Text("-" if value is None else str(value)) for value in row.values()))
    return table


def doctor_view(checks: list[Any]) -> RenderableType:
    """What the doctor found: a line a part, what to do below it."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    for check in checks:
        style = {"good": "", "note": "yellow", "problem": "bold red"}[check.state]
        table.add_row(HEALTH[check.state], Text(check.name, "dim"), Text(check.says, style, overflow="fold"))
        if check.do is not None:
            table.add_row("", "", Text(f"→ {check.do}", "dim", overflow="fold"))
    problems = sum(check.state == "problem" for check in checks)
    ready = "a run is possible: evalsuite run reference"
    said = f"{problems} to mend before a run is possible" if problems else ready
    return Group(table, Text(f"\n{said}", "bold"))


def _recipes(_: Path) -> list[dict[str, Any]]:
    from evalsuite.precision.recipes import RECIPES

    return [{"recipe": recipe.id, "label": recipe.label} for recipe in RECIPES.values()]


def _tasks(_: Path) -> list[dict[str, Any]]:
    from evalsuite import tasks

    return [{"task": t.task, "metric": t.metric, "filter": t.filter, "modes": ", ".join(t.modes), "role": t.role,
             "margin": t.margin} for t in tasks.catalogue().values()]  # fmt: skip


def _suites(_: Path) -> list[dict[str, Any]]:
    from evalsuite.spec import shipped_suites

    return [{"suite": name, "file": str(path)} for name, path in shipped_suites().items()]


def _engines(_: Path) -> list[dict[str, Any]]:
    from evalsuite.engines import ENGINES, OPTIONS

    return [{"engine": name, "options": ", ".join(OPTIONS[name])} for name in ENGINES]


def _runs(results: Path) -> list[dict[str, Any]]:
    from evalsuite.store import Store

    rows = []
    for stored in Store(results).runs():
        m = stored.manifest
        done = sum(cell.status == "done" for cell in m.cells.values())
        rows.append({"run": m.run_id, "suite": m.spec.name, "model": m.spec.model.id, "cells": f"{done}/{len(m.cells)}",
                     "status": "running" if stored.is_running else m.status, "created": m.created})  # fmt: skip
    return rows


def _meters(_: Path) -> list[dict[str, Any]]:
    from evalsuite.measure import meters

    return meters.rows()


def _presets(results: Path) -> list[dict[str, Any]]:
    del results
    from evalsuite.measure.presets import PRESETS, REPLAY

    rows = [{"preset": name, "input": p.input_tokens, "output": p.output_tokens,
             "batches": " ".join(map(str, p.batches)), "depths": " ".join(map(str, p.depths)), "purpose": p.purpose}
            for name, p in PRESETS.items()]  # fmt: skip
    return [*rows, {"preset": REPLAY, "input": None, "output": None, "batches": "", "depths": "",
                    "purpose": "the lengths of a run's own answers, the same for every arm"}]  # fmt: skip


def _benches(results: Path) -> list[dict[str, Any]]:
    from evalsuite.store import read_benches

    return [{"bench": b.bench_id, "suite": b.spec.suite, "model": b.spec.model.id, "status": b.status,
             "arms": " ".join(arm.id for arm in b.spec.arms), "presets": " ".join(b.spec.presets)}
            for b in read_benches(results)]  # fmt: skip


LISTS: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
    "recipes": _recipes, "tasks": _tasks, "suites": _suites, "engines": _engines, "meters": _meters,
    "presets": _presets, "runs": _runs, "benches": _benches,
}  # fmt: skip


def print_view(view: RenderableType) -> None:
    """Print to stdout, at least `WIDTH` columns wide."""
    console = Console()
    console = Console(width=max(WIDTH, console.width), soft_wrap=False)
    console.print(view, highlight=False)
