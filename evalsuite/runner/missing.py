"""Items of a cell that its engine could not answer: they are missing, and asked again when the run is resumed.

A group that came back with holes is in the journal like any other. The cell's finding MISSING says that holes are the
engine's (a log-likelihood that is no number leaves one too, and asking again would not fill it); `--resume` therefore
opens cells with that finding, and asks for the positions that are not there.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from evalsuite.engines import GONE
from evalsuite.records import Cell, CellRecord, Finding
from evalsuite.store import Row

CODE = "MISSING"


def is_open(record: CellRecord) -> bool:
    """Whether the cell has items that may be asked again."""
    return any(finding.code == CODE for finding in record.findings)


class Missing:
    """The holes of one cell, while it is measured."""

    def __init__(
        self, record: CellRecord, groups: Sequence[Sequence[int]], have: Mapping[int, Sequence[Row]]
    ) -> None:
        self._groups = groups
        self._holes: dict[int, tuple[int, ...]] = {}
        self._kinds: Counter[str] = Counter()
        if is_open(record):
            for number, rows in have.items():
                self._note(number, rows)

    def todo(self, wanted: Iterable[int], have: Mapping[int, Sequence[Row]]) -> list[tuple[int, tuple[int, ...]]]:
        """What is to be asked of the wanted groups: all of a new one, the holes of one that is there."""
        asked = [(n, tuple(self._groups[n]) if n not in have else self._holes.get(n, ())) for n in wanted]
        return [(number, positions) for number, positions in asked if positions]

    def take(self, number: int, rows: Sequence[Row], lost: Mapping[str, int]) -> None:
        """A group came back as `rows`, and `lost` of it, by kind of failure."""
        self._kinds.update(lost)
        self._holes.pop(number, None)
        if lost:
            self._note(number, rows)

    def told(self, record: CellRecord) -> CellRecord:
        """The record, with the finding if there are holes and without it if there are none."""
        kept = tuple(finding for finding in record.findings if finding.code != CODE)
        n = sum(map(len, self._holes.values()))
        if not n:
            return record.model_copy(update={"findings": kept})
        message = f"{record.cell.key}: {n:,} items were not answered{self._why}. Resume the run to ask them again."
        return record.model_copy(update={"findings": (*kept, Finding(code=CODE, severity="warning", message=message))})

    @property
    def is_gone(self) -> bool:
        """Whether the engine is no longer there."""
        return self._kinds[GONE] > 0

    def failure(self, cell: Cell, n_rows: int) -> str | None:
        """Why the cell fails: its engine went away, or nothing of it was answered; None if it does not."""
        if self.is_gone:
            return f"the server of arm '{cell.arm}' went away{self._why}; start it and resume the run"
        if self._holes and not n_rows:
            return f"no item was answered{self._why}; see to its server and resume the run"
        return None

    def _note(self, number: int, rows: Sequence[Row]) -> None:
        there = {int(row["position"]) for row in rows}
        if holes := tuple(position for position in self._groups[number] if position not in there):
            self._holes[number] = holes

    @property
    def _why(self) -> str:
        said = ", ".join(f"{kind} {n:,}" for kind, n in sorted(self._kinds.items()))
        return f" (failed requests: {said})" if said else ""
