"""The sampler: one thread that reads all opened meters, and says what a window took.

    with Sampler(meters) as sampler:
        sampler.begin(seconds=10)
        work = load.run(10)
        found = sampler.end(work.start_ns, work.end_ns)

Power, clocks and temperatures are read ten times a second. Energy counters are read twice as often, so that no tick of
a 100 ms counter is missed, and every 3 ms near the edges of a window, where the exact moment of a tick matters. The end
of a window is known only roughly (`seconds`); without even that, counters are read every 10 ms throughout.

Everything is stamped with `time.perf_counter_ns`. One pair of monotonic and wall clock is taken at either edge; meters
at the wall that stamp with the wall clock have no energy where it was set in between. What a meter cannot give is a
code (`meter: code`); no meter can stop a bench.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from evalsuite.measure import states, windows
from evalsuite.measure.meters import Meter, MeterError, Reading
from evalsuite.records import DeviceState, Energy

POWER_S, COUNTER_S, EDGE_S, UNKNOWN_END_S = 0.1, 0.05, 0.003, 0.01
"""Time between two readings: of power, of counters, of counters near an edge, of counters before an unknown end."""
NEAR_S = 0.15
"""What is near an edge."""
PATIENCE_S = 3.0
"""How long `end` waits for a slow meter's first reading behind the window."""
BEFORE_NS, LATE_NS = 20 * 10**9, 5 * 10**9
"""How long before a window its readings begin, and how much out of order a meter's readings may come."""
STEP_S, SLEW = 0.02, 5e-4
"""Wall and monotonic clock may part by this, and by this share of the window (NTP turns a clock by 500 ppm)."""


@dataclass(frozen=True, slots=True)
class Mark:
    """An edge of a window on both clocks."""

    perf_ns: int
    wall_ns: int

    @classmethod
    def now(cls) -> "Mark":
        """Both clocks, read as close together as can be."""
        return cls(time.perf_counter_ns(), time.time_ns())


@dataclass(frozen=True, slots=True)
class Found:
    """What the meters say of one window."""

    energy: tuple[Energy, ...] = ()
    reasons: tuple[str, ...] = ()
    """Why a meter gave nothing, `meter: code`; `all: no_meter` where there is none."""
    device: DeviceState | None = None
    state_reasons: tuple[str, ...] = ()
    """`thermal_throttle`, `power_capped`: codes of the window, not of a meter."""
    sampler_cpu_s: float = 0.0
    """Processor time of the sampler's thread and of the meters' commands during the window."""
    marks: tuple[Mark, Mark] | None = None


@dataclass(slots=True)
class _Track:
    """What one meter has said so far."""

    meter: Meter
    readings: list[Reading] = field(default_factory=list)
    errors: list[tuple[int, str]] = field(default_factory=list)
    states: list[tuple[int, DeviceState]] = field(default_factory=list)
    counts: bool = True
    """Whether it has an energy counter; found at its first reading."""

    def since(self, t_ns: int) -> list[Reading]:
        """Readings from *t_ns* on, in their order; what lies long before is not searched."""
        found = []
        for reading in reversed(self.readings):
            if reading.t_ns < t_ns - LATE_NS:
                break
            if reading.t_ns >= t_ns:
                found.append(reading)
        return found[::-1]

    def reached(self, t_ns: int) -> bool:
        """Whether each device was read at or after *t_ns*, or the meter failed since."""
        if self.errors and self.errors[-1][0] >= t_ns:
            return True
        return set(self.meter.info.devices) <= {reading.device for reading in self.since(t_ns)}


class Sampler:
    """Reads meters in a thread from `__enter__` to `__exit__`; costs nothing without meters. Closes them at the end."""

    def __init__(self, meters: Sequence[Meter]) -> None:
        self._tracks = [_Track(meter) for meter in meters]
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stop = False
        self._near: tuple[float, float] = (0.0, 0.0)
        self._open, self._unknown_end = False, True
        self._demand_ns = 0
        self._mark = Mark.now()
        self._cpu_s = self._cpu_at_begin = 0.0
        self.idle_w: dict[str, float] = {}
        """What `idle` found last; mean power below it is implausible."""

    def __enter__(self) -> Self:
        if self._tracks:
            self._thread = threading.Thread(target=self._run, name="evalsuite-sampler", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._wake:
            self._stop = True
            self._wake.notify_all()
        if self._thread is not None:
            self._thread.join(timeout=PATIENCE_S)
        for track in self._tracks:
            track.meter.close()

    def begin(self, seconds: float | None = None) -> Mark:
        """A window is about to start; returns when every meter has been read.

        Args:
            seconds: how long it will last at least; counters are read fast towards that end.
        """
        now = time.perf_counter_ns()
        self._settle(now)
        with self._wake:
            self._mark = Mark.now()
            start = self._mark.perf_ns / 1e9
            self._near = (start + NEAR_S, start if seconds is None else start + max(0.0, seconds - NEAR_S))
            self._open, self._cpu_at_begin = True, self._cpu()
            self._unknown_end = seconds is None
            self._wake.notify_all()
        return self._mark

    def end(
        self, start_ns: int, end_ns: int, others_cpu: float | None = None, aliasing_risk: bool = False
    ) -> Found:
        """What the window took.

        Args:
            start_ns: the window's exact edge, `time.perf_counter_ns()`, not before `begin`.
            end_ns: the other edge, not in the future.
            others_cpu: share of all processors that other processes used (`shared_host` above 5 %).
            aliasing_risk: see `states.aliasing_risk`.
        """
        mark = Mark.now()
        if not self._tracks:
            return Found(reasons=("all: no_meter",))
        self._settle(end_ns)
        with self._wake:
            self._open = False
            cpu = self._cpu() - self._cpu_at_begin
        about = windows.Circumstances(others_cpu=others_cpu, aliasing=aliasing_risk,
                                      clock_step=_stepped(self._mark, mark))  # fmt: skip
        energies, reasons = self._energies((start_ns, end_ns), about)
        apart = windows.disagreeing(energies)
        reasons += [f"{meter}: meters_disagree" for meter in sorted(apart)]
        with self._wake:
            moments = [one for track in self._tracks for t, one in track.states if start_ns <= t <= end_ns]
        device = states.over_window(moments)
        return Found(
            energy=tuple(one for one in energies if one.meter not in apart), reasons=tuple(reasons), device=device,
            state_reasons=states.reasons(device), sampler_cpu_s=cpu, marks=(self._mark, mark),
        )  # fmt: skip

    def idle(self, seconds: float) -> dict[str, float]:
        """Watts of each meter while nothing runs for so long; a meter that cannot say is left out."""
        mark = self.begin(seconds)
        if not self._tracks:
            return {}
        time.sleep(seconds)
        end = time.perf_counter_ns()
        self._settle(end)
        with self._wake:
            self._open = False
        self.idle_w = {}
        energies, _ = self._energies((mark.perf_ns, end), windows.Circumstances(minimum=False))
        self.idle_w = {one.meter: one.power_w for one in energies}
        return dict(self.idle_w)

    def rows(self, start_ns: int = 0, end_ns: int | None = None) -> list[dict[str, Any]]:
        """The raw trace, for a file beside the result: one row a reading, in order of time."""
        last = time.perf_counter_ns() if end_ns is None else end_ns
        with self._wake:
            found = [
                {"meter": track.meter.info.id, "device": one.device, "t_ns": one.t_ns, "energy_j": one.energy_j,
                 "power_w": one.power_w}
                for track in self._tracks for one in track.readings if start_ns <= one.t_ns <= last
            ]  # fmt: skip
        return sorted(found, key=lambda row: (row["t_ns"], row["meter"], row["device"]))

    def _energies(self, edges: tuple[int, int], about: windows.Circumstances) -> tuple[list[Energy], list[str]]:
        energies: list[Energy] = []
        reasons: list[str] = []
        for track in self._tracks:
            info = track.meter.info
            with self._wake:
                readings = track.since(edges[0] - BEFORE_NS)
                failed = [reason for t, reason in track.errors if edges[0] <= t <= edges[1]]
            own = windows.Circumstances(
                idle_w=self.idle_w.get(info.id), limit_w=track.meter.limit_w, others_cpu=about.others_cpu,
                aliasing=about.aliasing, clock_step=about.clock_step, minimum=about.minimum,
            )  # fmt: skip
            if failed:
                reasons.append(f"{info.id}: {failed[0]}")
                continue
            try:
                energies.append(windows.energy(info, readings, edges, own))
            except windows.NoEnergyError as error:
                reasons.append(f"{info.id}: {error.reason}")
        return energies, reasons

    def _settle(self, t_ns: int) -> None:
        """Wait until every meter was read at or after *t_ns*, or for `PATIENCE_S`."""
        if self._thread is None:
            return
        until = time.monotonic() + PATIENCE_S
        with self._wake:
            self._demand_ns = t_ns
            self._wake.notify_all()
            while not all(track.reached(t_ns) for track in self._tracks) and time.monotonic() < until:
                self._wake.wait(0.02)

    def _run(self) -> None:
        began = time.thread_time()
        next_power = next_counter = 0.0
        while not self._stop:
            now = time.perf_counter()
            whole = now >= next_power or self._demand_ns > 0
            for track in self._tracks:
                if whole or track.counts:
                    self._read(track, whole)
            next_power = now + POWER_S if whole else next_power
            next_counter = now + self._pace(now)
            with self._wake:
                self._cpu_s = time.thread_time() - began
                if self._demand_ns <= now * 1e9:
                    self._demand_ns = 0
                self._wake.notify_all()
                self._wake.wait(max(0.0, min(next_power, next_counter) - time.perf_counter()))

    def _pace(self, now: float) -> float:
        """Seconds to the next reading of the counters."""
        if not any(track.counts for track in self._tracks):
            return POWER_S
        if not self._open:
            return COUNTER_S
        after_start, before_end = self._near
        if self._unknown_end and now > after_start:
            return UNKNOWN_END_S
        if now <= after_start or now >= before_end:
            return EDGE_S
        return min(COUNTER_S, max(EDGE_S, before_end - now))

    def _read(self, track: _Track, whole: bool) -> None:
        readings: list[Reading] = []
        state: DeviceState | None = None
        reason: str | None = None
        try:
            readings = track.meter.read()
            state = track.meter.state() if whole else None
        except MeterError as error:
            reason = error.reason
        except Exception:  # noqa: BLE001 - a vendor's library may raise anything, and no meter may stop a bench
            reason = "meter_failed"
        now = time.perf_counter_ns()
        with self._wake:
            if reason is not None:
                track.errors.append((now, reason))
            if readings:
                track.counts = any(one.energy_j is not None for one in readings)
                track.readings.extend(readings)
            if state is not None:
                track.states.append((now, state))

    def _cpu(self) -> float:
        return self._cpu_s + sum(track.meter.cpu_s for track in self._tracks)


def _stepped(one: Mark, other: Mark) -> bool:
    """Whether the wall clock was set between two marks."""
    elapsed = other.perf_ns - one.perf_ns
    return abs(other.wall_ns - one.wall_ns - elapsed) > STEP_S * 1e9 + SLEW * elapsed
