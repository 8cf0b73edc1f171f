"""Power by a command: a tool is run again and again, and its text parsed. For vendors without a library of ours, and
for any other device whose tool a suite names:

    meters:
      my_meter: {command: "my-tool --power", pattern: 'Power: ([0-9.]+)', unit: W, scope: gpu_board}

A command takes 50 to 500 ms, so it runs in a thread of its own and keeps nobody waiting; its processor time is counted
(`cpu_s`). One command at a time, two a second at most, is short of the five samples a second of L2: such windows are
L1, fit to be looked at and never ranked. They last a minute at least.
"""

import os
import re
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from evalsuite.errors import UsageError, did_you_mean
from evalsuite.measure.meters import Meter, MeterError, Reading, Setting, parsers
from evalsuite.records import DeviceState, MeterAbsent, MeterInfo, Scope

MIN_WINDOW_S = 60.0
PERIOD_S = 0.5
TIMEOUT_S = 10.0
KEYS = {"command", "pattern", "unit", "scope", "period_s"}


@dataclass(frozen=True, slots=True)
class Command:
    """A tool that prints power."""

    id: str
    command: tuple[str, ...]
    parse: parsers.Parser
    scope: Scope
    method: str
    period_s: float = PERIOD_S
    each: tuple[str, ...] = ()
    """Run once for each of these, with it in place of `{}`; devices are then called `EACH/DEVICE`."""

    def read(self) -> tuple[parsers.Powers, float]:
        """Run the tool: devices and watts, and the processor time it took in seconds; MeterError if it fails."""
        powers: parsers.Powers = []
        cpu_s = 0.0
        for one in self.each or ("",):
            text, took = output(tuple(part.replace("{}", one) if self.each else part for part in self.command))
            cpu_s += took
            powers += [(f"{one}/{device}" if self.each else device, watts) for device, watts in self.parse(text)]
        return powers, cpu_s


KNOWN: dict[str, Command] = {
    one.id: one for one in (
        Command("amd-smi", ("amd-smi", "metric", "--power", "--json"), parsers.amd_smi, "gpu_board",
                "amdsmi.power_integral"),
        Command("cnmon", ("cnmon",), parsers.table, "npu_chip", "cnmon.power_integral"),
        Command("mthreads-gmi", ("mthreads-gmi", "-q", "-j"), parsers.mthreads_gmi, "gpu_board",
                "mtml.power_integral"),
        Command("xpu-smi", ("xpu-smi", "dump", "-d", "-1", "-m", "1", "-n", "1"),
                parsers.by_pattern(r"^\s*[\d:.]+,\s*(?P<device>\d+),\s*(?P<power>\S+)\s*$", "W"), "gpu_board",
                "xpu_smi.power_integral"),
        Command("mx-smi", ("mx-smi",), parsers.table, "gpu_board", "mx_smi.power_integral"),
        Command("ixsmi", ("ixsmi", "--query-gpu=index,gpu.power.draw", "--format=csv,noheader"),
                parsers.by_pattern(r"^\s*(?P<device>\d+)\s*,\s*(?P<power>\S+)", "W"), "gpu_board",
                "ixsmi.power_integral"),
        Command("hy-smi", ("hy-smi", "--showpower", "--json"), parsers.hy_smi, "gpu_board", "hy_smi.power_integral"),
    )
}  # fmt: skip
"""Meter -> its tool. Written from documentation and public recordings, none run on its hardware by us."""


class CommandPower:
    """Runs a command in a thread and gives what it has said since the last call."""

    limit_w: float | None = None

    def __init__(self, command: Command, info: MeterInfo) -> None:
        self.info, self._command = info, command
        self.cpu_s = 0.0
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._said: list[Reading] = []
        self._error: MeterError | None = None
        self._thread = threading.Thread(target=self._run, name=f"evalsuite-{info.id}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.perf_counter_ns()
            try:
                powers, cpu_s = self._command.read()
                # The tool looked somewhere between its start and its end.
                at = (began + time.perf_counter_ns()) // 2
                readings = [Reading(device, at, power_w=watts) for device, watts in powers]
                with self._lock:
                    self._said += readings
                    self.cpu_s += cpu_s
            except MeterError as error:
                with self._lock:
                    self._error = error
            self._stop.wait(max(0.0, self._command.period_s - (time.perf_counter_ns() - began) / 1e9))

    def read(self) -> list[Reading]:
        """What was said since the last call; MeterError if the command failed since then."""
        with self._lock:
            said, self._said = self._said, []
            error, self._error = self._error, None
        if error is not None:
            raise error
        return said

    def state(self) -> DeviceState | None:
        """It knows none."""
        return None

    def close(self) -> None:
        """Stop running the command."""
        self._stop.set()
        self._thread.join(timeout=TIMEOUT_S)


def output(command: tuple[str, ...]) -> tuple[str, float]:
    """What a command prints, and the processor time it took in seconds.

    Raises:
        MeterError: `no_meter` if there is no such program, else `meter_failed`.
    """
    environment = os.environ | {"LC_ALL": "C"}
    before = os.times()
    try:
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False, env=environment)  # noqa: S603 - the meter's own tool, or the user's
    except FileNotFoundError as error:
        raise MeterError("no_meter", f"no program '{command[0]}'") from error
    except (OSError, subprocess.SubprocessError) as error:
        raise MeterError("meter_failed", f"{shlex.join(command)}: {error}") from error
    after = os.times()
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    # Vendors print in encodings of their own (Ascend's in GB 2312); numbers are ASCII in all of them.
    text = done.stdout.decode("utf-8", errors="replace")
    if done.returncode:
        said = (done.stderr.decode("utf-8", errors="replace").strip() or text.strip()).splitlines()
        raise MeterError("meter_failed", f"{shlex.join(command)}: exit {done.returncode}: {said[0] if said else ''}")
    return text, cpu_s


def open_command(command: Command) -> Meter | MeterAbsent:
    """Run the command once; the devices it names are the meter's."""
    if shutil.which(command.command[0]) is None:
        return MeterAbsent(id=command.id, reason="no_meter", detail=f"no program '{command.command[0]}' in PATH.")
    try:
        powers, _ = command.read()
    except MeterError as error:
        return MeterAbsent(id=command.id, reason=error.reason, detail=error.detail)
    info = MeterInfo(
        id=command.id, scope=command.scope, method=command.method, quality="L1",
        devices=tuple(device for device, _ in powers), min_window_s=MIN_WINDOW_S, verified_on_hardware=False,
    )  # fmt: skip
    return CommandPower(command, info)


def configured(name: str, options: Mapping[str, Any]) -> Callable[[Setting], Meter | MeterAbsent]:
    """The opener of a suite's own command; UsageError for wrong options."""
    if missing := (KEYS - {"period_s"}) - set(options):
        raise UsageError(f"meters.{name}: missing {', '.join(sorted(missing))}; it takes {', '.join(sorted(KEYS))}.")
    if unknown := set(options) - KEYS:
        raise UsageError(f"meters.{name}: unknown option '{min(unknown)}'.{did_you_mean(min(unknown), KEYS)}")
    if options["unit"] not in parsers.UNITS:
        raise UsageError(f"meters.{name}: unknown unit '{options['unit']}'."
                         f"{did_you_mean(str(options['unit']), parsers.UNITS)}")  # fmt: skip
    if options["scope"] not in get_args(Scope):
        raise UsageError(f"meters.{name}: unknown scope '{options['scope']}'."
                         f"{did_you_mean(str(options['scope']), get_args(Scope))}")  # fmt: skip
    try:
        groups = re.compile(options["pattern"]).groups
    except re.error as error:
        raise UsageError(f"meters.{name}: pattern: {error}.") from error
    if not groups:
        raise UsageError(f"meters.{name}: the pattern has no group; put the number in parentheses.")
    said = options["command"]
    command = tuple(shlex.split(said)) if isinstance(said, str) else tuple(str(part) for part in said)
    if not command:
        raise UsageError(f"meters.{name}: the command is empty.")
    made = Command(name, command, parsers.by_pattern(options["pattern"], options["unit"]), options["scope"],
                   "command.power_integral")  # fmt: skip
    period = float(options.get("period_s", PERIOD_S))
    return lambda _: open_command(replace(made, period_s=period))
