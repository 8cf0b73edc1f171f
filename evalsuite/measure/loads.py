"""Loads: what is timed. This page is the seam between engines and the A/B protocol (`rounds`).

A `Rig` holds the arms of a bench, loaded side by side on one device; a `Load` is one arm at one point (a `Workload`),
ready to run for as long as it is told. A load counts its own tokens, by the engine's token ids, and synchronises the
device at the edges of a window and nowhere else.
"""

from dataclasses import dataclass
from typing import Protocol

from evalsuite.records import Arm, Execution, Latency, Memory, Realised, WholeRun, Workload


@dataclass(frozen=True, slots=True)
class Work:
    """What was done in one window."""

    start_ns: int
    """`time.perf_counter_ns()` at the window's edges."""
    end_ns: int
    iterations: int
    """Prefill passes, decode steps, or requests."""
    input_tokens: int
    output_tokens: int
    requests: int
    latency: Latency | None = None
    peak_bytes: int | None = None
    """Most memory in use above what was in use before; None where the device does not say."""
    reasons: tuple[str, ...] = ()
    """Codes of `records.REASONS`."""
    communication: float = 0.0
    """Several devices: share of the time in collectives, mean over them."""
    whole_run: WholeRun | None = None
    """Serving: the window is the steady state, and this the run around it."""
    retries: int = 0
    notes: tuple[str, ...] = ()
    """What was seen, for people."""

    @property
    def seconds(self) -> float:
        """Length of the window."""
        return (self.end_ns - self.start_ns) / 1e9


class Load(Protocol):
    """One arm at one point."""

    def warm(self, seconds: float) -> None:
        """Run the exact shapes for about this long, untimed."""

    def run(self, seconds: float) -> Work:
        """Run whole iterations until at least this long has passed."""

    def close(self) -> None:
        """Let go of caches; the arm stays loaded."""


@dataclass(frozen=True, slots=True)
class Opened:
    """An arm that was loaded, or why it has no speed."""

    execution: Execution
    realised: Realised | None
    memory: Memory | None
    startup_s: float | None
    """Loading and compiling; None where somebody else did it."""
    reasons: tuple[str, ...] = ()
    arm: Arm | None = None
    """The arm with what only its weights could tell; None: as it was asked for."""

    @property
    def speed_valid(self) -> bool:
        """Whether its speed says anything about its format."""
        return self.execution in ("native", "native_mixed", "declared")


class DoesNotFitError(Exception):
    """A batch is too large for the memory."""


class Rig(Protocol):
    """Arms of one bench on one engine."""

    def open(self, arm: Arm) -> Opened:
        """Load an arm beside the others. An emulated arm is not loaded: it has no speed.

        Raises:
            CannotRunError: the engine cannot run it.
        """

    def load(self, arm: Arm, workload: Workload) -> Load:
        """The arm at a point; calling it again for the same arm and point is cheap.

        Raises:
            DoesNotFitError: the batch is too large.
        """

    def close(self) -> None:
        """Let go of everything."""
