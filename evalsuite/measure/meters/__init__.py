"""Meters: who can say how much energy a window took. This page is the seam between meters and everything else.

A `Meter` opens and reads; what a window's energy is follows from its readings by one of two rules, `ticks` for energy
counters and `integral` for sampled power, in `windows`. The `Sampler` reads all meters in one thread and stamps each
reading with the monotonic clock. A meter that is not there says why (`MeterAbsent`); nothing is ever 0 for want of one,
and a model (`model`) is no meter: it is asked for by name and gives an `EnergyEstimate`. Nor are the meters of `fake`:
tests and rehearsals make them and hand them to the sampler; no name opens one.

A new meter is one class in a module of its own and one line in `METERS`. A device whose tool prints its power needs no
code: `CommandPower` takes a command, a pattern, a unit and a scope from the suite (`commands`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from evalsuite.errors import UsageError, did_you_mean
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
    limit_w: float | None
    """The most that its devices may draw together; None where unknown."""
    cpu_s: float
    """Processor time that its own helpers (commands) have taken so far; what `read` takes, the sampler counts."""

    def read(self) -> list[Reading]:
        """One reading a device, now. A meter with a pace of its own gives what came since the last call: any number.

        Raises:
            MeterError: the reading failed; its `reason` is a code of `records.REASONS`.
        """

    def state(self) -> DeviceState | None:
        """Clocks and temperature now (least = median = largest, start = end), and which share of the time since the
        last call it was throttled; None where it knows none."""

    def close(self) -> None:
        """Let go of the library or process."""


class MeterError(Exception):
    """A reading that could not be had."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, slots=True)
class Setting:
    """What meters are told when they are opened."""

    devices: tuple[str, ...] | None = None
    """UUIDs of the accelerators that compute (`precision.devices.cuda.uuids()`); None: all that are visible."""
    configured: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The suite's `meters:`, name -> options. `external` is a log of a meter at the wall, others are commands."""


Opener = Callable[[Setting], Meter | MeterAbsent]
"""Never raises."""


def _nvml(setting: Setting) -> Meter | MeterAbsent:
    from evalsuite.measure.meters import nvml

    return nvml.open_meter(setting)


def _amdsmi(setting: Setting) -> Meter | MeterAbsent:
    from evalsuite.measure.meters import amd

    return amd.open_meter(setting)


def _vendor(name: str) -> Opener:
    def opened(setting: Setting) -> Meter | MeterAbsent:  # noqa: ARG001 - these know one set of devices: all
        from evalsuite.measure.meters import vendors

        return vendors.OPENERS[name]()

    return opened


def _command(name: str) -> Opener:
    def opened(setting: Setting) -> Meter | MeterAbsent:  # noqa: ARG001 - as above
        from evalsuite.measure.meters import commands

        return commands.open_command(commands.KNOWN[name])

    return opened


def _rapl(zones: str) -> Opener:
    def opened(setting: Setting) -> Meter | MeterAbsent:  # noqa: ARG001 - the processor is whole
        from evalsuite.measure.meters import rapl

        return rapl.open_meter(zones)

    return opened


ACCELERATORS: dict[str, Opener] = {
    "nvml": _nvml,  # NVIDIA: energy counter
    "amdsmi": _amdsmi,  # AMD: energy counter
    "amd-smi": _command("amd-smi"),
    "dcmi": _vendor("dcmi"),  # Huawei Ascend
    "npu-smi": _vendor("npu-smi"),
    "cndev": _vendor("cndev"),  # Cambricon
    "cnmon": _command("cnmon"),
    "mtml": _vendor("mtml"),  # Moore Threads
    "mthreads-gmi": _command("mthreads-gmi"),
    "xpu-smi": _command("xpu-smi"),  # Intel
    "mx-smi": _command("mx-smi"),  # MetaX
    "ixsmi": _command("ixsmi"),  # Iluvatar
    "hy-smi": _command("hy-smi"),  # Hygon
}
"""In the order in which they are tried; unless meters are named, the first that answers is taken."""
METERS: dict[str, Opener] = ACCELERATORS | {
    "rapl": _rapl("package"),  # the processor
    "rapl-dram": _rapl("dram"),  # its memory, never added to it
}
"""Meter -> opener. Beside these, what a suite configures."""


def open_all(wanted: Sequence[str] | None, setting: Setting | None = None) -> tuple[list[Meter], list[MeterAbsent]]:
    """Open meters.

    Args:
        wanted: names, also of configured ones; empty for none. None: the first accelerator's meter that answers, the
            processor's, and all that are configured.
        setting: devices, and the suite's own meters.

    Returns:
        The meters that answer, and for each that was tried and does not, why.

    Raises:
        UsageError: a name that no meter has, or a configured meter that is wrong.
    """
    setting = setting or Setting()
    known = METERS | _configured(setting)
    for name in wanted or ():
        if name not in known:
            raise UsageError(f"Unknown meter '{name}'.{did_you_mean(name, known)}")
    meters: list[Meter] = []
    absents: list[MeterAbsent] = []
    for name in known if wanted is None else dict.fromkeys(wanted):
        if wanted is None and name in ACCELERATORS and any(meter.info.id in ACCELERATORS for meter in meters):
            continue
        found = known[name](setting)
        if isinstance(found, MeterAbsent):
            absents.append(found)
        else:
            meters.append(found)
    return meters, absents


def _configured(setting: Setting) -> dict[str, Opener]:
    """Openers of the suite's own meters; their options are checked here, before anything is opened."""
    if not setting.configured:
        return {}
    from evalsuite.measure.meters import commands, external

    found: dict[str, Opener] = {}
    for name, options in setting.configured.items():
        if name in METERS:
            raise UsageError(f"meters: '{name}' is a meter that evalsuite has; give yours another name.")
        found[name] = external.configured(name, options) if "path" in options else commands.configured(name, options)
    return found


def rows(setting: Setting | None = None) -> list[dict[str, Any]]:
    """Every meter, tried: what `evalsuite list meters` shows. Each is closed again."""
    setting = setting or Setting()
    found: list[dict[str, Any]] = []
    for name, opener in (METERS | _configured(setting)).items():
        meter = opener(setting)
        if isinstance(meter, MeterAbsent):
            found.append({"meter": name, "state": "absent", "scope": None, "method": None, "quality": None,
                          "devices": None, "verified": None, "reason": meter.reason,
                          "detail": meter.detail})  # fmt: skip
            continue
        info = meter.info
        meter.close()
        found.append({"meter": name, "state": "answers", "scope": info.scope, "method": info.method,
                      "quality": info.quality, "devices": ", ".join(info.devices),
                      "verified": info.verified_on_hardware, "reason": None, "detail": info.note})  # fmt: skip
    return found
