"""AMD boards through `amdsmi` (comes with ROCm): energy counter with the hardware's own time, and socket power.

Devices are in HIP's order, which is what torch counts by; amdsmi has another. A die of an MI250 that reports nothing is
a frozen counter here, and one that runs backward a reset: known faults of this library give no number, not a wrong one.
"""

import importlib
import sys
import time
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from typing import Any

from evalsuite.measure.meters import Meter, MeterError, Reading, Setting
from evalsuite.records import DeviceState, MeterAbsent, MeterInfo

ID = "amdsmi"
MIN_WINDOW_S = 10.5
PACE_S = 0.06
"""Between the two readings that tell whether the hardware's time runs in nanoseconds."""
POWER_KEYS = ("current_socket_power", "average_socket_power", "socket_power")


@dataclass(slots=True)
class _Board:
    uuid: str
    handle: Any
    offset_ns: int | None
    """Monotonic clock minus the hardware's; None where the hardware's time is of no use."""


class AmdMeter:
    """The boards that compute."""

    limit_w: float | None = None
    cpu_s = 0.0

    def __init__(self, amdsmi: Any, info: MeterInfo, boards: list[_Board]) -> None:
        self._amdsmi, self.info, self._boards = amdsmi, info, boards

    def read(self) -> list[Reading]:
        """Counter and power of each board."""
        readings = []
        for board in self._boards:
            try:
                joules, stamp = counter(self._amdsmi.amdsmi_get_energy_count(board.handle))
            except self._amdsmi.AmdSmiException as error:
                raise MeterError("not_supported", f"{board.uuid}: {error}") from error
            now = time.perf_counter_ns()
            at = now if board.offset_ns is None else min(now, stamp + board.offset_ns)
            readings.append(Reading(board.uuid, at, energy_j=joules))
            try:
                watts = power(self._amdsmi.amdsmi_get_power_info(board.handle))
            except self._amdsmi.AmdSmiException:
                watts = None
            if watts is not None:
                readings.append(Reading(board.uuid, time.perf_counter_ns(), power_w=watts))
        return readings

    def state(self) -> DeviceState | None:
        """Not read: its clocks differ by die and by version of the library."""
        return None

    def close(self) -> None:
        """Let go of the library."""
        with suppress(self._amdsmi.AmdSmiException):
            self._amdsmi.amdsmi_shut_down()


def counter(said: dict[str, Any]) -> tuple[float, int]:
    """Joules and the hardware's time of `amdsmi_get_energy_count`; older versions call the accumulator `power`."""
    count = said["energy_accumulator"] if "energy_accumulator" in said else said["power"]
    return float(count) * float(said["counter_resolution"]) * 1e-6, int(said.get("timestamp") or 0)


def power(said: dict[str, Any]) -> float | None:
    """Watts of `amdsmi_get_power_info`: the first of its powers that is a number above 0 (0 and "N/A": not offered)."""
    for key in POWER_KEYS:
        value = said.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            return float(value)
    return None


def open_meter(setting: Setting, library: str = "amdsmi") -> Meter | MeterAbsent:
    """The meter of the boards that compute (`setting.devices`, else all)."""
    try:
        # Without the driver's library the package prints so on stdout, where a verb's JSON belongs.
        with redirect_stdout(sys.stderr):
            amdsmi = importlib.import_module(library)
        amdsmi.amdsmi_init()
    except (ImportError, OSError, KeyError, AttributeError) as error:
        return _absent("no_meter", f"the package amdsmi cannot be used ({error or type(error).__name__}); it comes "
                       "with ROCm: pip install /opt/rocm/share/amd_smi")  # fmt: skip
    except Exception as error:  # noqa: BLE001 - the library's own errors are known only once it is imported
        return _absent("no_meter", f"amdsmi_init: {error}")
    try:
        boards = _boards(amdsmi, setting)
    except amdsmi.AmdSmiException as error:
        boards = _absent("not_supported", f"{error} (guests of virtual machines have no counter)")
    if isinstance(boards, MeterAbsent):
        with suppress(amdsmi.AmdSmiException):
            amdsmi.amdsmi_shut_down()
        return boards
    info = MeterInfo(
        id=ID, scope="gpu_board", method="amdsmi.energy_count", quality="L3", min_window_s=MIN_WINDOW_S,
        devices=tuple(board.uuid for board in boards), verified_on_hardware=False,
    )  # fmt: skip
    return AmdMeter(amdsmi, info, boards)


def _boards(amdsmi: Any, setting: Setting) -> list[_Board] | MeterAbsent:
    handles = list(amdsmi.amdsmi_get_processor_handles())
    handles.sort(key=lambda handle: _hip_id(amdsmi, handle))
    if not handles:
        return _absent("no_meter", "amdsmi lists no boards.")
    named = {str(amdsmi.amdsmi_get_gpu_device_uuid(handle)): handle for handle in handles}
    if setting.devices is not None:
        missing = [one for one in setting.devices if one not in named]
        if missing:
            return _absent("device_set_mismatch", f"{missing[0]} computes; amdsmi knows {', '.join(named)}.")
        named = {one: named[one] for one in setting.devices}
    return [_Board(uuid, handle, _offset(amdsmi, handle)) for uuid, handle in named.items()]


def _hip_id(amdsmi: Any, handle: Any) -> int:
    """Place in HIP's order; boards whose place is not told keep theirs, at the end."""
    try:
        found = amdsmi.amdsmi_get_gpu_enumeration_info(handle)["hip_id"]
    except (amdsmi.AmdSmiException, AttributeError, KeyError):
        return 1 << 30
    return found if isinstance(found, int) else 1 << 30


def _offset(amdsmi: Any, handle: Any) -> int | None:
    """Monotonic minus hardware clock, if the hardware's runs at one nanosecond a nanosecond."""
    _, one = counter(amdsmi.amdsmi_get_energy_count(handle))
    began = time.perf_counter_ns()
    time.sleep(PACE_S)
    _, other = counter(amdsmi.amdsmi_get_energy_count(handle))
    ended = time.perf_counter_ns()
    if not 0.5 < (other - one) / (ended - began) < 1.5:
        return None
    return min(began - one, ended - other)


def _absent(reason: str, detail: str) -> MeterAbsent:
    return MeterAbsent(id=ID, reason=reason, detail=detail)
