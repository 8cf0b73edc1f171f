"""Meters without hardware, for tests and rehearsals: an energy counter with the faults of real ones, and a sensor.

They are made by hand and given to the sampler; no name opens one, so that nothing they say can be taken for a
measurement (`method` begins with `fake.`). The counter ticks as a board's does: every 100 ms it adds the energy of its
last quarter as if the other three had been the same.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from evalsuite.measure.meters import MeterError, Reading
from evalsuite.records import DeviceState, MeterInfo, Quality, Scope

Clock = Callable[[], int]
"""Nanoseconds, as `time.perf_counter_ns`."""
Load = Callable[[float], float]
"""Seconds since the meter was made -> watts."""
GRAIN = 20
"""Points at which a load is looked at within the part of a tick that the sensor sees."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How a fake counter ticks, and what is wrong with it."""

    tick_s: float = 0.1
    duty: float = 0.25
    """Share of a tick that the sensor sees, at its end."""
    gain: float = 1.0
    frozen_from_s: float | None = None
    reset_at_s: float | None = None
    power: Literal["none", "true", "nan"] = "none"
    """What it says of power beside the counter."""
    power_gain: float = 1.0


class FakeCounter:
    """An energy counter over a known load."""

    limit_w: float | None = None
    cpu_s = 0.0

    def __init__(
        self, load: Load, behaviour: Behaviour | None = None, info: MeterInfo | None = None,
        clock: Clock = time.perf_counter_ns,
    ) -> None:  # fmt: skip
        self._load, self._how, self._clock = load, behaviour or Behaviour(), clock
        self.info = info or fake_info()
        self._start_ns = clock()
        self._ticks, self._energy = 0, 1000.0
        self._reset = False

    def read(self) -> list[Reading]:
        """The counter now, the same for each device."""
        now = self._clock()
        seconds = (now - self._start_ns) / 1e9
        self._advance(seconds)
        power = {"none": None, "nan": float("nan"), "true": self._load(seconds) * self._how.power_gain}[self._how.power]
        return [Reading(device, now, self._energy, power) for device in self.info.devices]

    def _advance(self, seconds: float) -> None:
        how = self._how
        if how.frozen_from_s is not None:
            seconds = min(seconds, how.frozen_from_s)
        while (self._ticks + 1) * how.tick_s <= seconds:
            end = (self._ticks + 1) * how.tick_s
            seen = [end - how.duty * how.tick_s * (i + 0.5) / GRAIN for i in range(GRAIN)]
            self._energy += how.gain * how.tick_s * sum(self._load(at) for at in seen) / GRAIN
            self._ticks += 1
            if how.reset_at_s is not None and end >= how.reset_at_s and not self._reset:
                self._energy, self._reset = 0.0, True

    def state(self) -> DeviceState | None:
        """It knows none."""
        return None

    def close(self) -> None:
        """Nothing to let go of."""


class FakePower:
    """A sensor of power over a known load; may fail from some moment on."""

    limit_w: float | None = None
    cpu_s = 0.0

    def __init__(
        self, load: Load, info: MeterInfo | None = None, fails: tuple[float, str] | None = None,
        clock: Clock = time.perf_counter_ns,
    ) -> None:  # fmt: skip
        self._load, self._fails, self._clock = load, fails, clock
        self.info = info or fake_info(id="fake-power", method="fake.power_integral", quality="L2")
        self._start_ns = clock()
        self.closed = False
        self.state_now: DeviceState | None = None

    def read(self) -> list[Reading]:
        """Power now, the same for each device; MeterError with the chosen code from the chosen second on."""
        now = self._clock()
        seconds = (now - self._start_ns) / 1e9
        if self._fails is not None and seconds >= self._fails[0]:
            raise MeterError(self._fails[1], "as told")
        return [Reading(device, now, None, self._load(seconds)) for device in self.info.devices]

    def state(self) -> DeviceState | None:
        """What a rehearsal set."""
        return self.state_now

    def close(self) -> None:
        """Remember that it was let go of."""
        self.closed = True


def fake_info(
    id: str = "fake",  # noqa: A002 - the field's name
    method: str = "fake.energy_counter", scope: Scope = "gpu_board", quality: Quality = "L3",
    devices: tuple[str, ...] = ("fake-0",), min_window_s: float = 10.0,
) -> MeterInfo:  # fmt: skip
    """Info of a fake meter."""
    return MeterInfo(id=id, scope=scope, method=method, quality=quality, devices=devices, min_window_s=min_window_s,
                     verified_on_hardware=False, note="fake: nothing is measured")  # fmt: skip
