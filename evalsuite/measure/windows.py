"""Energy of one window: pure functions from readings to `Energy`, or to the reason why there is none.

Two rules. A counter is read at its ticks (`ticks`): between the first and the last change seen inside the window the
mean power is exact, and it is taken for the whole window; a counter read at the window's edges alone would be off by up
to a tick at both. Sampled power is integrated (`integral`): every sample counts, a repeated value too, and the window
must lie between two samples. Where a device gives both, they check each other.

A window that breaks a rule has no energy, never 0. Sources: Yang, Adamek and Armour (SC24) for what the sensors do,
InferenceX `aggregate_power.py` for the integration, the levels of the EE HPC Working Group for `Quality`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import fsum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evalsuite.measure.meters import Reading
from evalsuite.records import Energy, MeterInfo, Quality

LEAST_TICKS = {"gpu_board": 100, "gpu_module": 100, "npu_chip": 100}
"""Ticks of a valid window by scope; the others tick a thousand times a second and need `FEW_TICKS`."""
FEW_TICKS = 20
COVERED = 0.95
"""Share of the window that must lie between the first and the last tick."""
FROZEN_S = 2.0
"""A counter that does not move for so long under load is frozen."""
GAP_S, GAP_PERIODS = 3.0, 10
"""Samples of power may be apart by this, or by so many of their periods."""
NOMINAL_HZ = 5.0
"""Sampled power below this rate is L1."""
AGREE = 0.05
"""Counter and integral, or two meters of one scope, may differ by this."""
ABOVE_LIMIT, BELOW_IDLE = 1.1, 0.95
"""Plausible mean power; a load cannot take less than nothing, but two means of 30 s and 10 s differ a little."""
OTHERS = 0.05
MACHINE_WIDE = ("cpu_package", "dram", "soc", "node_ac")
"""Scopes whose reading includes what other processes do."""
WALL_CLOCK = "external."
"""Methods that stamp with the wall clock begin so."""

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class NoEnergyError(Exception):
    """A window without energy; `reason` is a code of `records.REASONS`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Ticked:
    """One device's counter over one window."""

    energy_j: float
    power_w: float
    n: int
    """Changes seen inside the window, the first and the last included."""
    period_s: float
    """Median time between two changes."""
    edge_j: float
    """Twice the largest deviation of power at the edges, over one period."""
    covered: float
    """Share of the window between the first and the last change."""


@dataclass(frozen=True, slots=True)
class Integrated:
    """One device's sampled power over one window."""

    energy_j: float
    power_w: float
    n: int
    """Samples inside the window."""
    period_s: float
    """Median time between two samples."""
    gap_s: float
    """Largest time between two samples."""


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What else decides whether a number counts."""

    idle_w: float | None = None
    """The meter's power with nothing to do."""
    limit_w: float | None = None
    others_cpu: float | None = None
    """Share of all processors that other processes used."""
    aliasing: bool = False
    """See `states.aliasing_risk`."""
    clock_step: bool = False
    """The wall clock was set during the window."""
    minimum: bool = True
    """False: any length of window will do (idle power)."""


def ticks(t_ns: IntArray, energy_j: FloatArray, start_ns: int, end_ns: int) -> Ticked:
    """Energy of a counter, from tick to tick.

    Args:
        t_ns: (N,) times of the readings, increasing.
        energy_j: (N,) the counter, joules since any moment.
        start_ns: edge of the window, on the clock of *t_ns*.
        end_ns: the other edge.

    Raises:
        NoEnergyError: `window_not_bracketed`, `counter_reset`, `sampling_gap`, `counter_frozen`, `window_too_short`.
    """
    first, last = _around(t_ns, start_ns, end_ns)
    t, e = t_ns[first : last + 1], energy_j[first : last + 1]
    steps = np.diff(e)
    if (steps < 0).any():
        raise NoEnergyError("counter_reset")
    if (np.diff(t) > FROZEN_S * 1e9).any():
        raise NoEnergyError("sampling_gap")  # it may have moved: nobody looked
    at = np.flatnonzero(steps > 0) + 1
    at = at[(t[at] > start_ns) & (t[at] < end_ns)]
    edges = np.concatenate(([start_ns], t[at], [end_ns]))
    if (np.diff(edges) > FROZEN_S * 1e9).any():
        raise NoEnergyError("counter_frozen")
    if len(at) < 3:
        raise NoEnergyError("window_too_short")
    seconds, joules = t[at] / 1e9, e[at]
    power = float((joules[-1] - joules[0]) / ((t[at[-1]] - t[at[0]]) / 1e9))
    period = float(np.median(np.diff(seconds)))
    at_edges = np.array([joules[1] - joules[0], joules[-1] - joules[-2]]) / (
        np.array([t[at[1]] - t[at[0]], t[at[-1]] - t[at[-2]]]) / 1e9
    )
    window = (end_ns - start_ns) / 1e9
    return Ticked(
        energy_j=power * window, power_w=power, n=len(at), period_s=period,
        edge_j=float(2 * np.abs(at_edges - power).max() * period),
        covered=float((t[at[-1]] - t[at[0]]) / 1e9 / window),
    )  # fmt: skip


def integral(t_ns: IntArray, power_w: FloatArray, start_ns: int, end_ns: int) -> Integrated:
    """Energy of sampled power: trapezoids, interpolated at both edges; samples of one moment are averaged.

    Args:
        t_ns: (N,) times of the samples, not decreasing.
        power_w: (N,) finite.
        start_ns: edge of the window, on the clock of *t_ns*.
        end_ns: the other edge.

    Raises:
        NoEnergyError: `window_not_bracketed`, `sampling_gap`.
    """
    t, place = np.unique(t_ns, return_inverse=True)
    p = np.bincount(place, weights=power_w) / np.bincount(place)
    first, last = _around(t, start_ns, end_ns)
    # Relative to the start: nanoseconds since boot do not fit into a float's 53 bits after 104 days.
    s, p = (t[first : last + 1] - start_ns) / 1e9, p[first : last + 1]
    window = (end_ns - start_ns) / 1e9
    spacing = np.diff(s)
    period = float(np.median(spacing))
    if spacing.max() > max(GAP_S, GAP_PERIODS * period):
        raise NoEnergyError("sampling_gap")
    inside = (s > 0) & (s < window)
    x = np.concatenate(([0.0], s[inside], [window]))
    y = np.concatenate((np.interp([0.0], s, p), p[inside], np.interp([window], s, p)))
    joules = fsum(np.diff(x) * (y[:-1] + y[1:]) / 2)
    return Integrated(energy_j=joules, power_w=joules / window, n=int(((s >= 0) & (s <= window)).sum()),
                      period_s=period, gap_s=float(spacing.max()))  # fmt: skip


def _around(t: IntArray, start_ns: int, end_ns: int) -> tuple[int, int]:
    """The last reading at or before the start, and the first at or after the end."""
    if end_ns <= start_ns:
        raise NoEnergyError("window_too_short")
    first = int(np.searchsorted(t, start_ns, side="right")) - 1
    last = int(np.searchsorted(t, end_ns, side="left"))
    if first < 0 or last >= len(t):
        raise NoEnergyError("window_not_bracketed")
    return first, last


def energy(
    info: MeterInfo, readings: Sequence[Reading], edges: tuple[int, int], about: Circumstances | None = None
) -> Energy:
    """A meter's energy over a window, all devices together: the counter's where there is one, else the integral's.

    Args:
        info: the meter.
        readings: of all its devices, some before and after the window too, each device's in order.
        edges: the window, ns on the readings' clock.
        about: what else decides.

    Raises:
        NoEnergyError: there is none, for this reason.
    """
    about = about or Circumstances()
    seconds = (edges[1] - edges[0]) / 1e9
    if about.clock_step and info.method.startswith(WALL_CLOCK):
        raise NoEnergyError("clock_step")
    if (about.others_cpu or 0) > OTHERS and info.scope in MACHINE_WIDE:
        raise NoEnergyError("shared_host")
    if about.minimum and seconds < info.min_window_s:
        raise NoEnergyError("window_too_short")
    counted, sampled = _by_device(info, readings, edges)
    found = _from_counter(info, counted, sampled, about) if counted else _from_power(info, sampled)
    total = fsum(found["by_device_j"].values())
    power = total / seconds
    over = about.limit_w is not None and power > ABOVE_LIMIT * about.limit_w
    under = about.idle_w is not None and power < BELOW_IDLE * about.idle_w
    if over or under or not power > 0:
        raise NoEnergyError("implausible_power")
    reasons = list(found.pop("reasons"))
    if info.scope == "gpu_module":
        reasons.append("module_scope")
    if about.aliasing:
        reasons.append("aliasing_risk")
    return Energy(meter=info.id, scope=info.scope, method=info.method, energy_j=total, power_w=power,
                  reasons=tuple(reasons), **found)  # fmt: skip


def _by_device(
    info: MeterInfo, readings: Sequence[Reading], edges: tuple[int, int]
) -> tuple[dict[str, Ticked], dict[str, Integrated | str]]:
    """Each device's counter, if the meter has counters, and its integrated power, or why that cannot be had."""
    counted: dict[str, Ticked] = {}
    sampled: dict[str, Integrated | str] = {}
    has_counter = any(reading.energy_j is not None for reading in readings)
    for device in info.devices:
        own = [reading for reading in readings if reading.device == device]
        if has_counter:
            counted[device] = ticks(*_series(own, "energy_j"), *edges)
        t, p = _series(own, "power_w")
        if not len(t):
            # Nothing but [N/A] and NaN is no measurement; a meter that has only counters is not asked here.
            sampled[device] = "window_not_bracketed" if not own else "not_supported"
            continue
        try:
            sampled[device] = integral(t, p, *edges)
        except NoEnergyError as error:
            sampled[device] = error.reason
    return counted, sampled


def _series(readings: Sequence[Reading], what: str) -> tuple[IntArray, FloatArray]:
    """Times and values; a value that is missing or not finite is no reading."""
    pairs = [(reading.t_ns, getattr(reading, what)) for reading in readings]
    kept = [(t, value) for t, value in pairs if value is not None and np.isfinite(value)]
    return np.array([t for t, _ in kept], np.int64), np.array([value for _, value in kept], np.float64)


def _from_counter(
    info: MeterInfo, counted: dict[str, Ticked], sampled: dict[str, Integrated | str], about: Circumstances
) -> dict[str, Any]:
    n = min(one.n for one in counted.values())
    covered = min(one.covered for one in counted.values())
    least = LEAST_TICKS.get(info.scope, FEW_TICKS)
    if about.minimum and (n < least or covered < COVERED):
        raise NoEnergyError("window_too_short")
    total = fsum(one.energy_j for one in counted.values())
    both = [one for one in sampled.values() if isinstance(one, Integrated)]
    differs = abs(total - fsum(one.energy_j for one in both)) / total if len(both) == len(counted) and total else None
    quality: Quality = "L3" if differs is not None and differs <= AGREE else "L2"
    return {
        "by_device_j": {device: one.energy_j for device, one in counted.items()}, "quality": quality, "ticks": n,
        "update_period_s": max(one.period_s for one in counted.values()),
        "edge_j": fsum(one.edge_j for one in counted.values()), "crosscheck_rel": differs,
        "reasons": ("accumulator_mismatch",) if differs is not None and differs > AGREE else (),
    }  # fmt: skip


def _from_power(info: MeterInfo, sampled: dict[str, Integrated | str]) -> dict[str, Any]:
    whole = {device: one for device, one in sampled.items() if isinstance(one, Integrated)}
    if len(whole) < len(info.devices):
        raise NoEnergyError(next(one for one in sampled.values() if isinstance(one, str)))
    rate = 1 / max(one.period_s for one in whole.values())
    dense = rate >= NOMINAL_HZ * 0.9 and max(one.gap_s for one in whole.values()) <= GAP_S
    quality: Quality = "L4" if info.quality == "L4" else "L2" if dense and info.quality != "L1" else "L1"
    return {
        "by_device_j": {device: one.energy_j for device, one in whole.items()}, "quality": quality,
        "ticks": min(one.n for one in whole.values()),
        "update_period_s": max(one.period_s for one in whole.values()), "reasons": (),
    }  # fmt: skip


def disagreeing(energies: Sequence[Energy]) -> set[str]:
    """Meters of one scope that differ by more than 5 %: one of them is wrong, and nobody knows which."""
    found: set[str] = set()
    for one, other in combinations(energies, 2):
        apart = abs(one.energy_j - other.energy_j) > AGREE * min(one.energy_j, other.energy_j)
        if one.scope == other.scope and apart:
            found |= {one.meter, other.meter}
    return found
