"""What a run needs besides its specification: where to store, whom to tell, when to end."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from evalsuite.records import Cell, Mode
from evalsuite.store import Store, StoredRun


class Reporter(Protocol):
    """Who is told how far a run is."""

    def start(self, total: dict[str, int], done: dict[str, int]) -> None:
        """A run begins: items by mode, and how many of them a resumed run already has."""

    def cell(self, cell: Cell, n_items: int) -> None:
        """A cell begins, with that many items to do."""

    def advance(self, cell: Cell, n_items: int) -> None:
        """Items were finished and are on disk."""

    def spare(self, cell: Cell, n_items: int) -> None:
        """A decided cell needs so many items fewer than planned."""

    def note(self, text: str) -> None:
        """Something worth a line."""


@dataclass(frozen=True)
class Job:
    """What a run needs besides its specification."""

    store: Store
    reporter: Reporter
    stop: Callable[[], bool] = lambda: False
    """Asked between two groups; True ends the run there, resumable."""
    decided: Callable[[StoredRun, Mode], frozenset[str]] = lambda *_: frozenset()
    """Asked after each window of a sequential run: the candidates that need no more items in that mode."""
    command: str | None = None
