"""Reasons to distrust a result, as pure functions of the manifest and the paired answers (the list is `FINDINGS`).

Each says what was seen, with numbers, and what to do. They accompany a verdict; only missing items and a broken noise
floor change it, and those rules stand in `verdict` and `release`. What only the measuring side can see (a prompt cut to
the context) comes from the cell records unchanged.
"""

from collections.abc import Iterable

import numpy as np

from evalsuite.judge.layout import Grid
from evalsuite.judge.pairing import Pairing
from evalsuite.judge.words import percent
from evalsuite.records import CellRecord, Finding, Manifest

TIES_ABOVE = 0.01
"""Share of ties in a task above which the finding is raised."""
COMMON = 0.01
"""Share of truncated or unparsable answers from which the finding is a warning."""
DERIVED = frozenset({"TRUNCATED", "UNPARSABLE", "TIES", "MISSING", "CELL_FAILED", "LIMITED", "EMULATED", "DECLARED",
                     "DUPLICATE_ITEMS"})  # fmt: skip
"""Codes that are derived here; the cells' own findings of these codes would say the same twice."""


def run_findings(manifest: Manifest) -> list[Finding]:
    """Findings about the run as a whole."""
    found = []
    if manifest.spec.limited:
        message = (
            f"The run used --limit {manifest.spec.limit}: it answers the question of its own, smaller plan. "
            "Run the suite without it for the suite's verdict."
        )
        found.append(Finding(code="LIMITED", severity="warning", message=message))
    for key, record in manifest.cells.items():
        if record.status == "failed":
            message = f"Cell {key} failed ({record.error or 'no message'}); its items are missing. Resume the run."
            found.append(Finding(code="CELL_FAILED", severity="error", message=message))
    return found


def pair_findings(manifest: Manifest, grid: Grid, arms: tuple[str, str], pairing: Pairing) -> list[Finding]:
    """Findings about one candidate against the baseline in one mode. `arms`: baseline, candidate."""
    records = [r for r in manifest.cells.values() if r.cell.mode == grid.mode and r.cell.arm in arms]
    found = [f for record in records for f in record.findings if f.code not in DERIVED]
    found += _emulated(records, arms[1])
    found += _declared(records)
    found += _flag_findings(grid, arms)
    found += _ties(grid, arms)
    found += _duplicates(grid, arms)
    counts = pairing.pooled
    if counts.missing_base or counts.missing_cand:
        message = (
            f"Planned items without an answer: {counts.missing_base:,} in {arms[0]}, {counts.missing_cand:,} in "
            f"{arms[1]}. The tests take them at their worst. Resume the run, or look into its failed cells."
        )
        found.append(Finding(code="MISSING", severity="warning", message=message))
    return list(dict.fromkeys(found))


def _emulated(records: Iterable[CellRecord], candidate: str) -> list[Finding]:
    kinds = {r.realised.execution for r in records if r.cell.arm == candidate and r.realised}
    found = []
    if "emulated" in kinds:
        message = f"{candidate} was emulated: its accuracy is true; speed and energy were not measured."
        found.append(Finding(code="EMULATED", severity="info", message=message))
    if "native-unproven" in kinds:
        message = (
            f"{candidate} called native kernels, but the profiler saw FP8 kernels for less than 95 % of the time of "
            "its matrix multiplications. Look at `kernels` in the manifest; its speed and energy are not FP8's."
        )
        found.append(Finding(code="KERNEL_UNPROVEN", severity="warning", message=message))
    return found


def _declared(records: Iterable[CellRecord]) -> list[Finding]:
    found = {r.cell.arm: r.realised for r in records if r.realised and r.realised.execution == "declared"}
    if not found:
        return []
    said = ", ".join(f"{arm} ({ran.kernel})" for arm, ran in found.items())
    message = (
        f"Answered by servers: {said}. Which numbers they compute in is what the suite says of them; nobody looked. "
        "Read a server's own log for the kernels that it chose before its recipe is believed."
    )
    return [Finding(code="DECLARED", severity="warning", message=message)]


def _flag_findings(grid: Grid, arms: tuple[str, str]) -> list[Finding]:
    """Truncated and unparsable answers of both arms."""
    found = []
    for code, flag, bad, advice in (
        ("TRUNCATED", "truncated", True, "were cut by the generation budget. Raise max_gen_toks if they are many."),
        ("UNPARSABLE", "parsed", False, "gave the filter nothing and count as wrong. Read some with `show`."),
    ):
        seen = []
        for arm in arms:
            column = grid.columns.get(arm, grid.columns[""])
            answered = ~np.isnan(column.mean)
            seen.append((arm, int((answered & (column.first[flag] == bad)).sum()), int(answered.sum())))
        if any(k for _, k, _ in seen):
            shares = ", ".join(f"{arm} {k:,} of {n:,} ({percent(k / n)})" for arm, k, n in seen if n)
            severity = "warning" if any(n and k / n > COMMON for _, k, n in seen) else "info"
            found.append(Finding(code=code, severity=severity, message=f"Answers that {advice} Seen: {shares}."))
    return found


def _ties(grid: Grid, arms: tuple[str, str]) -> list[Finding]:
    found = []
    for arm in arms:
        column = grid.columns.get(arm, grid.columns[""])
        answered = ~np.isnan(column.mean)
        for index, task in enumerate(grid.tasks):
            here = answered & (grid.task == index)
            ties, n = int((here & column.first["tie"]).sum()), int(here.sum())
            if n and ties / n > TIES_ABOVE:
                message = (
                    f"{task}, {arm}: {ties:,} of {n:,} items ({percent(ties / n)}) tie in the best log-likelihood; the "
                    "first choice wins. Score with an FP32 log-softmax."
                )
                found.append(Finding(code="TIES", severity="warning", message=message))
    return found


def _duplicates(grid: Grid, arms: tuple[str, str]) -> list[Finding]:
    parts = [f"{k:,} in the plan of {task}" for task, k in grid.duplicates.items()]
    dropped = [(arm, grid.columns[arm].duplicates) for arm in arms if arm in grid.columns]
    parts += [f"{k:,} rows of {arm}" for arm, k in dropped if k]
    if not parts:
        return []
    message = f"Items of equal content were dropped after the first: {', '.join(parts)}."
    return [Finding(code="DUPLICATE_ITEMS", severity="warning", message=message)]
