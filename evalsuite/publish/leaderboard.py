"""The leaderboard: model x precision x machine, in panels of rows that may be compared, with ranks that may be shared.

Rows stand in one panel only if they answered the same items in the same way (`_key`); nothing is averaged or ranked
across panels. In a panel an arm of a model on a machine has one row: the newest run in which it is complete. Rank is by
the lower end of the interval; rows whose intervals overlap share their ranks ("1–3"), since they cannot be told apart.
An incomplete row, one without parsable answers, and a candidate whose comparison is INVALID get no rank.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from evalsuite.publish.runs import JudgedRun, Reading, machine_name, model_name
from evalsuite.records import Arm, Manifest, Mode, SuiteDecision


@dataclass(frozen=True)
class Row:
    """One arm of one model on one machine."""

    run: JudgedRun
    arm: Arm
    reading: Reading
    """Accuracy pooled over the panel's tasks."""
    decision: SuiteDecision | None
    """Against the run's own baseline; None for a baseline."""
    complete: bool
    runs: int
    """How many runs of the store could have given this row."""
    rank: str = ""

    @property
    def model(self) -> str:
        """The arm's model for people."""
        return model_name(self.arm.model)

    @property
    def machine(self) -> str:
        """The machine for people."""
        return machine_name(self.run.manifest)

    @property
    def ranked(self) -> bool:
        """Whether the row takes part in the ranking."""
        invalid = self.decision is not None and self.decision.verdict == "INVALID"
        return self.complete and self.interval is not None and not invalid

    @property
    def interval(self) -> tuple[float, float] | None:
        """90 % interval of the accuracy, where there is a usable one."""
        return self.reading.summary.ci if self.reading.kind == "value" and self.reading.summary else None


@dataclass(frozen=True)
class Panel:
    """Rows that may be ranked together."""

    id: str
    mode: Mode
    suite: str
    tasks: tuple[str, ...]
    n_items: int
    rows: tuple[Row, ...]

    @property
    def scale(self) -> tuple[float, float]:
        """The ends of the axis on which this panel's accuracies are drawn."""
        ends = [end for row in self.rows if row.interval for end in row.interval]
        return (min(ends) - 0.01, max(ends) + 0.01) if ends else (0.0, 1.0)


def panels(runs: Sequence[JudgedRun]) -> tuple[Panel, ...]:
    """All panels; that of the newest run first. `runs` stand newest first."""
    groups: dict[tuple[str, Mode], list[JudgedRun]] = defaultdict(list)
    for run in runs:
        for mode in run.modes:
            groups[_key(run.manifest, mode), mode].append(run)
    return tuple(_panel(f"p{place}", mode, found) for place, ((_, mode), found) in enumerate(groups.items()))


def _key(manifest: Manifest, mode: Mode) -> str:
    """Equal for runs that answered the same items, prompted, sampled and scored alike."""
    spec = manifest.spec
    tasks = [
        (t.task, t.metric, t.filter, t.num_fewshot, (t.max_gen_toks or {}).get(mode))
        for t in sorted(spec.tasks, key=lambda t: t.task)
        if mode in t.modes
    ]
    items = [manifest.items.get(f"{name}.{mode}", ()) for name, *_ in tasks]
    sampling = spec.sampling[mode].model_dump() if mode in spec.sampling else None
    return hashlib.sha256(json.dumps([tasks, items, sampling, spec.chat], sort_keys=True).encode()).hexdigest()


def _panel(panel_id: str, mode: Mode, runs: list[JudgedRun]) -> Panel:
    newest = runs[0].manifest
    tasks = tuple(task.task for task in newest.spec.tasks if mode in task.modes)
    n_items = sum(len(newest.items.get(f"{task}.{mode}", ())) for task in tasks)
    rows: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for run in runs:
        for arm in run.manifest.spec.arms:
            if not arm.noise_floor:
                row = _row(run, arm, mode)
                rows[row.model, arm.id, arm.recipe.digest(), row.machine].append(row)
    best = [replace(next((r for r in found if r.complete), found[0]), runs=len(found)) for found in rows.values()]
    return Panel(panel_id, mode, newest.spec.name, tasks, n_items, _ranked(best))


def _row(run: JudgedRun, arm: Arm, mode: Mode) -> Row:
    pairs = {(d.pooled.subject.candidate, d.pooled.subject.mode): d for d in run.judgement.decisions}
    cells = run.cells(arm.id, mode)
    complete = bool(cells) and all(record.status == "done" for record in cells)
    return Row(run, arm, run.reading(arm.id, mode), pairs.get((arm.id, mode)), complete, 1)


def _ranked(rows: list[Row]) -> tuple[Row, ...]:
    intervals = [row.interval for row in rows if row.ranked and row.interval]

    def rank(row: Row) -> str:
        if not row.ranked or row.interval is None:
            return ""
        low, high = row.interval
        first = 1 + sum(other[0] > high for other in intervals)
        last = len(intervals) - sum(other[1] < low for other in intervals)
        return str(first) if first == last else f"{first}–{last}"

    placed = [replace(row, rank=rank(row)) for row in rows]
    return tuple(sorted(placed, key=lambda row: (not row.ranked, -(row.interval or (-1.0, 0.0))[0])))
