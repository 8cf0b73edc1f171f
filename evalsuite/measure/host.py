"""What the machine did to a window: stolen time, interruptions, other programs, memory; Linux, None elsewhere.

A window with more than 1 % of stolen time or more than 200 involuntary switches a second is voided (`rounds`). Memory
of the CPU is the process's: the kernel's high-water mark is reset at the start of a window (`clear_refs`).
"""

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from evalsuite.records import Host

PROC = Path("/proc")
MAX_STEAL = 0.01
MAX_SWITCHES_PER_S = 200.0
MAX_OTHERS = 0.05
"""Share of all processors that other programs may use."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Counters at one moment; None where the system does not have them."""

    t_ns: int
    jiffies: tuple[int, int, int] | None
    """All, idle, stolen: of all processors, since boot."""
    switches: int | None
    own_s: float
    """Processor seconds of this process and of its descendants, which belong to the load (an engine's workers)."""


def snapshot() -> Snapshot:
    """The counters now."""
    own = sum(os.times()[:4]) + _seconds_of_descendants()
    return Snapshot(time.perf_counter_ns(), _jiffies(), _switches(), own)


def between(start: Snapshot, end: Snapshot) -> Host:
    """What happened between two snapshots."""
    seconds = max((end.t_ns - start.t_ns) / 1e9, 1e-9)
    used = end.own_s - start.own_s
    steal = others = None
    if start.jiffies and end.jiffies:
        every, idle, stolen = (b - a for a, b in zip(start.jiffies, end.jiffies, strict=True))
        if every > 0:
            steal = stolen / every
            busy_s = (every - idle - stolen) / os.sysconf("SC_CLK_TCK")
            others = max(0.0, busy_s - used) / (seconds * (os.cpu_count() or 1))
    rate = None
    if start.switches is not None and end.switches is not None:
        rate = (end.switches - start.switches) / seconds
    return Host(steal=steal, involuntary_switches_per_s=rate, others_cpu=others, client_cpu=used / seconds)


def reasons(host: Host, cores_used: int) -> tuple[str, ...]:
    """Codes for what makes a window worthless: the measured process is not the only one on its processors.

    `cores_used`: threads of the load. Other programs count where they cannot be on processors of their own.
    """
    found = []
    if host.steal is not None and host.steal > MAX_STEAL:
        found.append("steal_time")
    if host.involuntary_switches_per_s is not None and host.involuntary_switches_per_s > MAX_SWITCHES_PER_S:
        found.append("preempted")
    cores = os.cpu_count() or 1
    spare = max(0.0, 1 - cores_used / cores)
    if host.others_cpu is not None and host.others_cpu > MAX_OTHERS + spare:
        found.append("shared_host")
    return tuple(found)


def resident_bytes() -> int | None:
    """Resident memory of this process now."""
    return _status("VmRSS")


def reset_peak() -> bool:
    """Begin the process's high-water mark anew; False where the system does not allow it."""
    try:
        (PROC / "self" / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_bytes() -> int | None:
    """The high-water mark of this process."""
    return _status("VmHWM")


def _status(name: str) -> int | None:
    return _field(PROC / "self" / "status", name)


def _field(path: Path, name: str) -> int | None:
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", path.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def _jiffies() -> tuple[int, int, int] | None:
    try:
        parts = [int(x) for x in (PROC / "stat").read_text(encoding="utf-8").splitlines()[0].split()[1:9]]
    except (OSError, ValueError, IndexError):
        return None
    return (sum(parts), parts[3] + parts[4], parts[7]) if len(parts) == 8 else None


def _switches() -> int | None:
    """Involuntary switches of all threads of this process."""
    total = 0
    try:
        for task in (PROC / "self" / "task").iterdir():
            found = re.search(r"^nonvoluntary_ctxt_switches:\s+(\d+)", (task / "status").read_text(), re.MULTILINE)
            total += int(found[1]) if found else 0
    except OSError:
        return None
    return total


def _seconds_of_descendants() -> float:
    """Processor seconds of all living children, their children and so on, with what their own ended children took."""
    parents: dict[int, int] = {}
    seconds: dict[int, float] = {}
    for path in PROC.glob("[0-9]*/stat"):
        try:
            parts = path.read_text(encoding="utf-8", errors="replace").rsplit(")", 1)[1].split()
        except (OSError, IndexError):
            continue
        pid = int(path.parent.name)
        parents[pid] = int(parts[1])
        seconds[pid] = sum(int(part) for part in parts[11:15]) / os.sysconf("SC_CLK_TCK")
    family, grown = {os.getpid()}, True
    while grown:
        found = {pid for pid, parent in parents.items() if parent in family} - family
        family |= found
        grown = bool(found)
    return sum(seconds.get(pid, 0.0) for pid in family - {os.getpid()})
