"""The processor's energy counters (RAPL) as Linux shows them under `powercap`; Intel, and AMD from Linux 5.8 on.

Zones are told apart by their name. `package-N` is the processor, `dram` below it its memory (a meter of its own: the
two are never added up). `core` and `uncore` are parts of the package, and `psys` holds the whole platform, the package
in it: adding zones up without looking at names counts twice. A zone may be there through two drivers, MSR and MMIO;
one is taken. Counters wrap after minutes; a difference is taken modulo their range.

The counters are the whole machine's, and only root may read them since the PLATYPUS attack.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from evalsuite.measure.meters import Meter, MeterError, Reading
from evalsuite.records import DeviceState, MeterAbsent, MeterInfo, Scope

ROOTS = (Path("/sys/class/powercap"), Path("/zeus_sys/class/powercap"))
"""Where Linux shows it, and where containers are often given it."""
CPUINFO = Path("/proc/cpuinfo")
DRIVERS = ("intel-rapl:*", "intel-rapl-mmio:*")
IDS = {"package": "rapl", "dram": "rapl-dram"}
SCOPES: dict[str, Scope] = {"package": "cpu_package", "dram": "dram"}
MIN_WINDOW_S = 3.0
"""It ticks every millisecond: three seconds are thousands of ticks."""
ADVICE = "as root: chmod a+r /sys/class/powercap/*/energy_uj (until the next boot)"


@dataclass(slots=True)
class _Zone:
    name: str
    energy: Path
    range_uj: int
    last_uj: int = 0
    total_uj: int = 0

    def read_uj(self) -> int:
        """The counter with its wraps undone."""
        now = int(self.energy.read_text(encoding="ascii"))
        self.total_uj += (now - self.last_uj) % self.range_uj
        self.last_uj = now
        return self.total_uj


class RaplMeter:
    """All zones of one kind."""

    limit_w: float | None = None
    cpu_s = 0.0

    def __init__(self, info: MeterInfo, zones: list[_Zone]) -> None:
        self.info, self._zones = info, zones

    def read(self) -> list[Reading]:
        """One counter a zone."""
        readings = []
        for zone in self._zones:
            try:
                joules = zone.read_uj() / 1e6
            except PermissionError as error:
                raise MeterError("rapl_permission", f"{error}; {ADVICE}") from error
            except (OSError, ValueError) as error:
                raise MeterError("meter_failed", str(error)) from error
            readings.append(Reading(zone.name, time.perf_counter_ns(), energy_j=joules))
        return readings

    def state(self) -> DeviceState | None:
        """It knows none."""
        return None

    def close(self) -> None:
        """Nothing to let go of."""


def open_meter(kind: str, root: Path | None = None, cpuinfo: Path = CPUINFO) -> Meter | MeterAbsent:
    """The meter of all packages, or of all memories.

    Args:
        kind: `package` or `dram`.
        root: the folder that Linux calls `/sys/class/powercap`; None looks where it may be.
        cpuinfo: tells virtual machines and SGX.
    """
    name = IDS[kind]
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.is_file() else ""
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), [])
    folder = root or next((path for path in ROOTS if path.is_dir()), ROOTS[0])
    found = _zones(folder)
    if not found:
        if "hypervisor" in flags:
            return MeterAbsent(id=name, reason="rapl_absent_vm", detail=f"{folder} has no zones: this is a virtual "
                               "machine, and hosts do not pass them on. Measure at the wall.")  # fmt: skip
        return MeterAbsent(id=name, reason="no_meter", detail=f"{folder} has no zones; on bare metal: modprobe "
                           "intel_rapl_common intel_rapl_msr (AMD too).")  # fmt: skip
    zones = [(path, zone) for path, zone in found if zone == kind or zone.startswith(f"{kind}-")]
    if not zones:
        return MeterAbsent(id=name, reason="no_meter", detail=f"no zone '{kind}' among {', '.join(z for _, z in found)}"
                           + ("; AMD has none." if kind == "dram" else "."))  # fmt: skip
    try:
        opened = [_open(path, zone) for path, zone in zones]
    except PermissionError as error:
        return MeterAbsent(id=name, reason="rapl_permission", detail=f"{error}; {ADVICE}.")
    except (OSError, ValueError) as error:
        return MeterAbsent(id=name, reason="meter_failed", detail=str(error))
    note = "SGX is on: Intel filters the readings, which may be off by a lot." if "sgx" in flags else None
    info = MeterInfo(
        # Nothing checks this counter, as a board's power checks its energy: L2.
        id=name, scope=SCOPES[kind], method="rapl.energy_uj", quality="L2", min_window_s=MIN_WINDOW_S,
        devices=tuple(zone.name for zone in opened), verified_on_hardware=False, note=note,
    )  # fmt: skip
    return RaplMeter(info, opened)


def _zones(root: Path) -> list[tuple[Path, str]]:
    """Folder and name of every zone of the first driver that has any; links to one zone count once."""
    for pattern in DRIVERS:
        paths = {path.resolve() for path in (*root.glob(pattern), *root.glob(f"{pattern}/{pattern}"))}
        named = [(path, path / "name") for path in sorted(paths)]
        found = [(path, name.read_text(encoding="utf-8").strip()) for path, name in named if name.is_file()]
        if found:
            return found
    return []


def _open(path: Path, zone: str) -> _Zone:
    # The memory of the second package is a second `dram`: the folder's number tells them apart.
    name = zone if zone.startswith("package") else f"{zone}-{path.name.split(':', 1)[1].replace(':', '-')}"
    opened = _Zone(name, path / "energy_uj", int((path / "max_energy_range_uj").read_text(encoding="ascii")))
    opened.last_uj = int(opened.energy.read_text(encoding="ascii"))
    return opened
