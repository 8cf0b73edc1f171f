"""One run as the pages see it: its manifest and its judgement, indexed, with names for people.

`JudgedRun` is what the caller hands in. Nothing is decided here: verdicts, intervals and p-values are the judgement's.
The rule of this room: where a number is absent, a `Reading` says which of the three absences it is: *missing* (not
run), *failed* (a cell failed) or *unparsable* (it ran, and nothing could be read). Zero is a number.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from evalsuite.publish import text
from evalsuite.publish.figures import Look, looks
from evalsuite.records import ArmSummary, CellRecord, Judgement, Manifest, Mode, ModelRef

Kind = Literal["value", "unparsable", "failed", "missing"]


@dataclass(frozen=True)
class Reading:
    """A number of one arm in one mode, or why there is none."""

    kind: Kind
    summary: ArmSummary | None
    reason: str
    """Why there is no usable number; for people. Empty where there is one."""


@dataclass(frozen=True)
class JudgedRun:
    """One run as published: what was asked and measured, and what was concluded."""

    manifest: Manifest
    judgement: Judgement

    @property
    def slug(self) -> str:
        """The run's folder and file name in the site."""
        return text.slug(self.manifest.run_id)

    @property
    def model(self) -> str:
        """The model, with the beginning of its revision."""
        return model_name(self.manifest.spec.model)

    @property
    def imported(self) -> bool:
        """True if the answers come from another program's logs."""
        return self.manifest.provenance == "imported"

    @cached_property
    def looks(self) -> dict[str, Look]:
        """How each arm is drawn."""
        return looks(self.manifest.spec)

    @cached_property
    def modes(self) -> tuple[Mode, ...]:
        """The modes of the run, in the suite's order."""
        return tuple(dict.fromkeys(mode for task in self.manifest.spec.tasks for mode in task.modes))

    @cached_property
    def failed(self) -> tuple[CellRecord, ...]:
        """The cells that failed."""
        return tuple(record for record in self.manifest.cells.values() if record.status == "failed")

    @cached_property
    def progress(self) -> tuple[int, int]:
        """Cells done, cells planned."""
        return sum(r.status == "done" for r in self.manifest.cells.values()), len(self.manifest.cells)

    @cached_property
    def _cells(self) -> dict[tuple[str, str], list[CellRecord]]:
        cells: dict[tuple[str, str], list[CellRecord]] = defaultdict(list)
        for record in self.manifest.cells.values():
            cells[record.cell.arm, record.cell.mode].append(record)
        return cells

    @cached_property
    def _summaries(self) -> dict[tuple[str, str | None, str], ArmSummary]:
        return {(s.arm, s.task, s.mode): s for s in self.judgement.arms}

    def cells(self, arm: str, mode: str, task: str | None = None) -> list[CellRecord]:
        """The cells of an arm in a mode; of one task, or of all."""
        return [r for r in self._cells.get((arm, mode), []) if task in (None, r.cell.task)]

    def reading(self, arm: str, mode: str, task: str | None = None) -> Reading:
        """The accuracy of an arm, of one task or pooled, or why there is none."""
        summary = self._summaries.get((arm, task, mode))
        cells = self.cells(arm, mode, task)
        if summary is not None and summary.n and summary.accuracy is not None:
            if summary.n_unparsable == summary.n:
                return Reading("unparsable", summary, f"nothing parsable in {text.plural(summary.n, 'answer')}")
            return Reading("value", summary, _shortfall(cells))
        failed = [r for r in cells if r.status == "failed"]
        if failed:
            return Reading("failed", None, f"failed: {failed[0].error or 'no reason recorded'}")
        return Reading("missing", None, "not run yet" if cells else "not planned")

    def execution(self, arm: str) -> str | None:
        """As realised (see `Realised.execution`); `mixed` if cells differ; None before any cell ran."""
        kinds = {r.realised.execution for r in self.manifest.cells.values() if r.cell.arm == arm and r.realised}
        return None if not kinds else "mixed" if len(kinds) > 1 else kinds.pop()

    def arm_name(self, arm_id: str) -> str:
        """An arm for people: its recipe's label, with its id where labels repeat."""
        spec = self.manifest.spec
        arm = spec.arm(arm_id)
        label = arm.recipe.label
        if arm.noise_floor:
            return f"{label} again (noise floor)"
        shared = sum(other.recipe.label == label and not other.noise_floor for other in spec.arms) > 1
        return f"{label} ({arm.id})" if shared or arm.model != spec.model else label


def _shortfall(cells: Iterable[CellRecord]) -> str:
    """What a value leaves out, if anything."""
    records = list(cells)
    failed = sum(r.status == "failed" for r in records)
    if failed:
        return f"without {text.plural(failed, 'failed cell')}"
    done, planned = sum(r.n_done for r in records), sum(r.n_planned for r in records)
    return f"{done:,} of {planned:,} items" if done < planned else ""


def model_name(model: ModelRef) -> str:
    """A model for people: its id, with the beginning of its revision."""
    return f"{model.id}@{model.revision[:8]}" if model.revision else model.id


def machine_name(manifest: Manifest) -> str:
    """The machine in a few words: accelerators, else processor and cores; `not recorded` if nothing is known."""
    facts = manifest.machine
    if facts.get("accelerator"):
        name = facts.get("accelerator_name") or facts["accelerator"]
        return f"{facts.get('accelerators') or 1}× {name}"
    cores = f", {facts['cores']} cores" if facts.get("cores") else ""
    return f"{facts['processor']}{cores}" if facts.get("processor") else "not recorded"


def flatten(value: object, key: str = "") -> list[tuple[str, str]]:
    """A nested record as `(dotted key, text)` rows, sorted; None reads `not known`."""
    if isinstance(value, dict):
        return [row for name in sorted(value) for row in flatten(value[name], f"{key}.{name}" if key else str(name))]
    if isinstance(value, list | tuple):
        return [(key, ", ".join(map(str, value)) or "none")]
    if isinstance(value, int) and key.endswith("_bytes"):
        return [(key.removesuffix("_bytes"), f"{value / 2**30:.1f} GiB")]
    return [(key, "not known" if value is None else str(value))]
