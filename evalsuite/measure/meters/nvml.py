"""NVIDIA boards through NVML (`pip install evalsuite[energy]`): energy counter, instant power, clocks, throttling.

The counter counts millijoules since the driver was loaded and ticks about every 100 ms. Power is the instant field, not
`nvmlDeviceGetPowerUsage`, which since Ampere is a mean over the last second. On Grace-Hopper and Grace-Blackwell (C2C)
both include the module's processor: another scope. What a device does not offer is found by asking it (guests of
virtual machines refuse), never by its name.

A board's counter cannot be divided: no energy of a MIG slice, and none while another process computes on the board.
"""

import importlib
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalsuite.measure.meters import Meter, MeterError, Reading, Setting
from evalsuite.records import DeviceState, MeterAbsent, MeterInfo

ID = "nvml"
MIN_WINDOW_S = 10.5
"""A hundred ticks of 100 ms, and both edges."""
POWER_S = 0.02
"""Power is asked for at most so often; while ticks are hunted, the counter alone is read."""
SHARED_S = 1.0
"""Time between two looks at who else is on the board."""
FOREIGN_BYTES = 1 << 30
"""Memory in use before anything of ours is loaded."""
CODES = {
    "LIBRARY_NOT_FOUND": "nvml_not_found", "DRIVER_NOT_LOADED": "nvml_not_found",
    "LIB_RM_VERSION_MISMATCH": "nvml_driver_mismatch", "NOT_SUPPORTED": "not_supported",
    "FUNCTION_NOT_FOUND": "not_supported", "NO_PERMISSION": "not_supported",
}  # fmt: skip
"""NVML's errors (`NVML_ERROR_...`) as our codes; all others are `meter_failed`."""
POWER_INSTANT, GPU, MODULE = 186, 0, 1
"""`NVML_FI_DEV_POWER_INSTANT`, `NVML_POWER_SCOPE_GPU`, `_MODULE`: older packages lack the names, not the driver."""
POWER_BITS, HEAT_BITS = 0x4 | 0x80, 0x20 | 0x40
"""Reasons for low clocks: power cap and power brake; heat by software and by hardware."""
POLICIES = [74, 75]
"""`NVML_FI_DEV_PERF_POLICY_POWER`, `_THERMAL`: nanoseconds for which a policy held the clocks down."""


@dataclass(slots=True)
class _Board:
    uuid: str
    handle: Any
    power_at: float = 0.0
    throttled: tuple[float, tuple[float | None, float | None]] | None = None
    """When the throttle counters were read last, and what they said."""


class NvmlMeter:
    """The boards that compute."""

    cpu_s = 0.0

    def __init__(self, nvml: Any, info: MeterInfo, boards: list[_Board]) -> None:
        self._nvml, self._boards, self.info = nvml, boards, info
        self._looked = 0.0
        self._field = (POWER_INSTANT, MODULE if info.scope == "gpu_module" else GPU)
        limits = [_try(nvml, "nvmlDeviceGetEnforcedPowerLimit", board.handle) for board in boards]
        # The limit is the GPU's own: of a module's power it says nothing.
        known = None not in limits and info.scope == "gpu_board"
        self.limit_w: float | None = sum(limit / 1000 for limit in limits) if known else None

    def read(self) -> list[Reading]:
        """Counter of each board, and every 20 ms its power; MeterError `shared_device` when others compute there."""
        readings = []
        now = time.perf_counter()
        for board in self._boards:
            try:
                joules = self._nvml.nvmlDeviceGetTotalEnergyConsumption(board.handle) / 1000
            except self._nvml.NVMLError as error:
                raise MeterError(_code(self._nvml, error), f"{board.uuid}: {error}") from error
            t_ns = time.perf_counter_ns()
            power = None
            if now - board.power_at >= POWER_S:
                power, board.power_at = self._power(board), now
            readings.append(Reading(board.uuid, t_ns, joules, power))
        if now - self._looked >= SHARED_S:
            self._looked = now
            for board in self._boards:
                others = foreign(self._nvml, board.handle)
                if others:
                    raise MeterError("shared_device", f"{board.uuid}: processes {others} compute there too")
        return readings

    def _power(self, board: _Board) -> float | None:
        nvml = self._nvml
        field = _try(nvml, "nvmlDeviceGetFieldValues", board.handle, [self._field])
        if field is None or field[0].nvmlReturn != nvml.NVML_SUCCESS:
            return None
        return float(field[0].value.uiVal) / 1000

    def state(self) -> DeviceState | None:
        """Clocks and temperature over all boards, and the share of the time since the last call that the worst of them
        was throttled (by its counters, else by what it says of this moment)."""
        nvml = self._nvml
        handles = [board.handle for board in self._boards]
        core, memory = (
            [float(one) for h in handles if (one := _try(nvml, "nvmlDeviceGetClockInfo", h, kind)) is not None]
            for kind in (nvml.NVML_CLOCK_SM, nvml.NVML_CLOCK_MEM)
        )
        said = [_try(nvml, "nvmlDeviceGetTemperature", h, nvml.NVML_TEMPERATURE_GPU) for h in handles]
        warm = [float(one) for one in said if one is not None]
        throttled = [self._throttled(board) for board in self._boards]
        power = [one for one, _ in throttled if one is not None]
        heat = [one for _, one in throttled if one is not None]
        return DeviceState(
            sm_mhz=_spread(core), memory_mhz=_spread(memory),
            temperature_c=(max(warm), max(warm)) if warm else None,
            throttled_power=max(power, default=None), throttled_thermal=max(heat, default=None),
        )  # fmt: skip

    def _throttled(self, board: _Board) -> tuple[float | None, float | None]:
        nvml, now = self._nvml, time.perf_counter()
        fields = _try(nvml, "nvmlDeviceGetFieldValues", board.handle, POLICIES)
        said = [float(f.value.ullVal) if f.nvmlReturn == nvml.NVML_SUCCESS else None for f in fields or ()]
        counters = (said[0], said[1]) if len(said) == len(POLICIES) else (None, None)
        before, board.throttled = board.throttled, (now, counters)
        mask = _try(nvml, "nvmlDeviceGetCurrentClocksEventReasons", board.handle)
        if mask is None:  # its name before 2023
            mask = _try(nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", board.handle)
        at_once = _at_once(mask)
        if before is None or now <= before[0]:
            return at_once
        shares = tuple(
            instant if old is None or new is None else min(1.0, max(0.0, (new - old) / 1e9 / (now - before[0])))
            for old, new, instant in zip(before[1], counters, at_once, strict=True)
        )
        return shares[0], shares[1]

    def close(self) -> None:
        """Let go of NVML."""
        with suppress(self._nvml.NVMLError):
            self._nvml.nvmlShutdown()


def open_meter(setting: Setting, library: str = "pynvml") -> Meter | MeterAbsent:
    """The meter of the boards that compute: `setting.devices`, else those that CUDA_VISIBLE_DEVICES names, else all."""
    try:
        nvml = importlib.import_module(library)
    except ImportError:
        return _absent("nvml_not_found", "the package nvidia-ml-py is not installed: pip install 'evalsuite[energy]'")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        advice = " Reboot, or reload the driver." if _code(nvml, error) == "nvml_driver_mismatch" else ""
        return _absent(_code(nvml, error), f"nvmlInit: {error}.{advice}")
    except OSError as error:
        return _absent("nvml_not_found", f"nvmlInit: {error}")
    try:
        found = _boards(nvml, setting)
        opened = found if isinstance(found, MeterAbsent) else _checked(nvml, found)
    except nvml.NVMLError as error:
        opened = _absent(_code(nvml, error), str(error))
    if isinstance(opened, MeterAbsent):
        with suppress(nvml.NVMLError):
            nvml.nvmlShutdown()
    return opened


def _boards(nvml: Any, setting: Setting) -> list[_Board] | MeterAbsent:
    """The boards to meter, or why they cannot be told."""
    handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    boards = [_Board(str(nvml.nvmlDeviceGetUUID(handle)), handle) for handle in handles]
    if not boards:
        return _absent("no_meter", "NVML lists no boards.")
    if setting.devices is not None:
        wanted: list[str] = list(setting.devices)
    elif (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        wanted = [part.strip() for part in visible.split(",") if part.strip() and part.strip() != "-1"]
        if not wanted:
            return _absent("no_meter", "CUDA_VISIBLE_DEVICES hides all boards.")
    else:
        return boards
    if any(one.startswith("MIG-") for one in wanted):
        return _absent("mig_slice", f"a MIG slice computes ({', '.join(wanted)}), and only whole boards are metered.")
    chosen = []
    for one in wanted:
        if one.isdigit():
            match = boards[int(one) : int(one) + 1]
        else:  # torch leaves the prefix out, CUDA_VISIBLE_DEVICES may be cut short
            key = one.removeprefix("GPU-").lower()
            match = [board for board in boards if board.uuid.removeprefix("GPU-").lower().startswith(key)]
        if len(match) != 1:
            known = ", ".join(board.uuid for board in boards)
            return _absent("device_set_mismatch", f"device '{one}' computes; NVML knows {known}.")
        chosen += match
    return chosen


def _checked(nvml: Any, boards: list[_Board]) -> Meter | MeterAbsent:
    """The meter, if every board is whole, ours, and counts."""
    for board in boards:
        mig = _try(nvml, "nvmlDeviceGetMigMode", board.handle)
        if mig is not None and mig[0]:
            return _absent("mig_slice", f"{board.uuid} is divided by MIG: its energy is not a slice's.")
        others = foreign(nvml, board.handle)
        if others:
            return _absent("shared_device", f"{board.uuid}: processes {others} compute there. Wait for them to end.")
        used = _unexplained_bytes(nvml, board.handle)
        if used > FOREIGN_BYTES:
            return _absent("shared_device", f"{board.uuid}: {used / 2**30:.1f} GiB are in use by others before "
                           "anything is loaded. Look with nvidia-smi.")  # fmt: skip
        try:
            nvml.nvmlDeviceGetTotalEnergyConsumption(board.handle)
        except nvml.NVMLError as error:
            mode = _try(nvml, "nvmlDeviceGetVirtualizationMode", board.handle)
            guest = " (the guest of a virtual machine)" if mode == nvml.NVML_GPU_VIRTUALIZATION_MODE_VGPU else ""
            return _absent(_code(nvml, error), f"{board.uuid}{guest} gives no energy: {error}.")
    c2c = [_try(nvml, "nvmlDeviceGetC2cModeInfoV", board.handle) for board in boards]
    module = any(one is not None and one.isC2cEnabled for one in c2c)
    names = sorted({str(nvml.nvmlDeviceGetName(board.handle)) for board in boards})
    driver = _try(nvml, "nvmlSystemGetDriverVersion")
    info = MeterInfo(
        id=ID, scope="gpu_module" if module else "gpu_board", method="nvml.total_energy_counter", quality="L3",
        devices=tuple(board.uuid for board in boards), min_window_s=MIN_WINDOW_S, verified_on_hardware=False,
        note=f"{', '.join(names)}; driver {driver}",
    )  # fmt: skip
    return NvmlMeter(nvml, info, boards)


def foreign(nvml: Any, handle: Any) -> list[int]:
    """Processes on a board that are neither this one nor its children.

    In a container NVML names processes by the host's numbers. Numbers that do not exist here cannot be told apart; one
    of them is taken for this process if this process is not listed.
    """
    listed = [int(one.pid) for one in _try(nvml, "nvmlDeviceGetComputeRunningProcesses", handle) or ()]
    others = [pid for pid in listed if not _ours(pid)]
    there = [pid for pid in others if Path(f"/proc/{pid}").is_dir()]
    unseen = [pid for pid in others if pid not in there]
    mine = 1 if unseen and len(others) == len(listed) else 0
    return sorted(there + unseen[mine:])


def _ours(pid: int) -> bool:
    """Whether it is this process or a descendant of it."""
    while pid > 1 and pid != os.getpid():
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return False
    return pid == os.getpid()


def _unexplained_bytes(nvml: Any, handle: Any) -> int:
    """Memory in use that no process of ours holds; 0 where that cannot be told."""
    memory = _try(nvml, "nvmlDeviceGetMemoryInfo", handle, nvml.nvmlMemory_v2) or _try(
        nvml, nvml.nvmlDeviceGetMemoryInfo, handle
    )
    listed = _try(nvml, "nvmlDeviceGetComputeRunningProcesses", handle) or ()
    held = [one.usedGpuMemory for one in listed]
    if memory is None or any(one is None for one in held):
        return 0
    return max(0, int(memory.used) - sum(int(one) for one in held))


def _at_once(mask: int | None) -> tuple[float | None, float | None]:
    """Whether it is throttled now, for power and for heat, by NVML's mask of reasons."""
    return (None, None) if mask is None else (float(bool(mask & POWER_BITS)), float(bool(mask & HEAT_BITS)))


def _spread(values: list[float]) -> tuple[float, float, float] | None:
    return (min(values), sorted(values)[len(values) // 2], max(values)) if values else None


def _try(nvml: Any, call: str, *args: Any) -> Any:
    """What a call says, or None where this device or version of the library does not offer it."""
    try:
        return getattr(nvml, call)(*args)
    except (nvml.NVMLError, AttributeError):
        return None


def _code(nvml: Any, error: Any) -> str:
    known = {getattr(nvml, f"NVML_ERROR_{name}"): code for name, code in CODES.items()}
    return known.get(getattr(error, "value", None), "meter_failed")


def _absent(reason: str, detail: str) -> MeterAbsent:
    return MeterAbsent(id=ID, reason=reason, detail=detail)
