"""How far a run is, on stderr: a live bar on a terminal, a plain line every 30 seconds elsewhere.

The time left comes from the pace of each mode in this run (thinking costs far more than direct), so it is shown once
each mode that is still to do has been seen, and as "about" before.
"""

import time
from collections import defaultdict
from typing import Any

from evalsuite.records import Cell, Window

LINE_EVERY_S = 30.0


class Progress:
    """A `runner.Reporter` over rich; `quiet` silences it."""

    def __init__(self, *, quiet: bool = False) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, quiet=quiet)
        self._live = self._console.is_terminal and not quiet
        self._bar: Any = None
        self._task: Any = None
        self._left: dict[str, int] = {}
        self._seconds: dict[str, float] = defaultdict(float)
        self._items: dict[str, int] = defaultdict(int)
        self._total = self._done = 0
        self._last = self._last_line = time.monotonic()
        self._name = ""

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def start(self, total: dict[str, int], done: dict[str, int]) -> None:
        """Items by mode, and how many of them are already there."""
        self._left = {mode: n - done.get(mode, 0) for mode, n in total.items()}
        self._total, self._done = sum(total.values()), sum(done.values())
        if not self._live:
            return
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bar

        name, pace = TextColumn("{task.description}"), TextColumn("{task.fields[pace]}")
        self._bar = Bar(name, BarColumn(), MofNCompleteColumn(), pace, console=self._console, transient=True)
        self._task = self._bar.add_task("", total=self._total, completed=self._done, pace="")
        self._bar.start()

    def cell(self, cell: Cell, n_items: int) -> None:
        """A cell begins."""
        del n_items
        self._name, self._last = f"{cell.arm} {cell.task} {cell.mode}", time.monotonic()

    def advance(self, cell: Cell, n_items: int) -> None:
        """Items are on disk."""
        now = time.monotonic()
        self._seconds[cell.mode] += now - self._last
        self._items[cell.mode] += n_items
        self._left[cell.mode] = max(0, self._left[cell.mode] - n_items)
        self._done += n_items
        self._last = now
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, description=self._name, pace=self._pace())
        elif now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            self.note(f"{self._done} of {self._total} items, {self._pace()} ({self._name})")

    def spare(self, cell: Cell, n_items: int) -> None:
        """A decided cell needs fewer items."""
        self._left[cell.mode] = max(0, self._left[cell.mode] - n_items)
        self._total -= n_items
        if self._bar is not None:
            self._bar.update(self._task, total=self._total)

    def note(self, text: str) -> None:
        """One line, above the bar."""
        (self._bar.console if self._bar is not None else self._console).print(text, highlight=False, markup=False)

    def _pace(self) -> str:
        seconds, items = sum(self._seconds.values()), sum(self._items.values())
        if not seconds or not items:
            return ""
        overall = seconds / items
        left = sum(
            n * (self._seconds[mode] / self._items[mode] if self._items[mode] else overall)
            for mode, n in self._left.items()
        )
        known = all(self._items[mode] for mode, n in self._left.items() if n)
        return f"{items / seconds:.1f} items/s, {'' if known else 'about '}{_clock(left)} left"


class BenchProgress:
    """A `measure.bench.Reporter`: a line a window, with the time left."""

    def __init__(self, *, quiet: bool = False) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, quiet=quiet)
        self._total = self._done = 0
        self._expected = 0.0
        self._began = time.monotonic()
        self._last_line = 0.0

    def start(self, windows: int, seconds: float) -> None:
        """Windows to come, and about how long they take."""
        self._total, self._expected, self._began = windows, seconds, time.monotonic()
        if windows:
            self.note(f"{windows} windows, about {_clock(seconds)}")

    def window(self, name: str, window: Window) -> None:
        """A window has ended: shown on a terminal, and every 30 seconds elsewhere."""
        self._done += not window.voided
        now = time.monotonic()
        voided = f", measured again ({', '.join(window.reasons)})" if window.voided else ""
        if voided or self._console.is_terminal or now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            share = self._done / max(self._total, 1)
            left = (now - self._began) * (1 - share) / share if share else self._expected
            self.note(f"round {window.round + 1}  {name}{voided}  {self._done} of {self._total}, {_clock(left)} left")

    def note(self, text: str) -> None:
        """One line."""
        self._console.print(text, highlight=False, markup=False)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
