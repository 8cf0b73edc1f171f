"""Meters: who can say how much energy a window took. This page is the seam between meters and everything else.

A `Meter` opens and reads; what a window's energy is follows from its readings by one of two rules, `ticks` for energy
counters and `integral` for sampled power, in `windows`. The `Sampler` reads all meters in one thread and stamps each
reading with the monotonic clock. A meter that is not there says why (`MeterAbsent`); nothing is ever 0 for want of one,
and a model (`model`) is no meter: it is asked for by name and gives an `EnergyEstimate`.

A new meter is one class in a module of its own and one line in `METERS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from evalsuite.records import DeviceState, MeterAbsent, MeterInfo


@dataclass(frozen=True, slots=True)
class Reading:
    """What one device of a meter said at one moment."""

    device: str
    t_ns: int
    """`time.perf_counter_ns()` when it was read; the hardware's own time where the meter gives one."""
    energy_j: float | None = None
    """Counter: joules since some fixed moment. A wrap is already undone, a reset is not."""
    power_w: float | None = None


class Meter(Protocol):
    """A meter that was opened."""

    info: MeterInfo

    def read(self) -> list[Reading]:
        """One reading a device, now.

        Raises:
            MeterError: the reading failed; its `reason` is a code of `records.REASONS`.
        """

    def state(self) -> DeviceState | None:
        """Clocks, temperature and throttle now (least = median = largest, start = end); None where it knows none."""

    def close(self) -> None:
        """Let go of the library or process."""


class MeterError(Exception):
    """A reading that could not be had."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


Opener = Callable[[], Meter | MeterAbsent]
"""Never raises."""
