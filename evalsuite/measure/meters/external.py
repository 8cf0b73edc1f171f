"""A meter at the wall: the only one that sees the whole node. Another program logs it, and this one reads the log.

    meters:
      wall: {path: power.csv, model: "WT310E", accuracy: "0.1 %", calibrated: true}

The log is CSV with a line of names, or JSON a line, growing while the bench runs: `t_unix` (seconds, UTC), `power_w`
and, for several plugs, `channel`. Its times are the wall clock's; they are brought to the monotonic clock by a pair of
both that is taken at each reading, and a window in which the wall clock was set has no energy (`clock_step`).

A calibrated meter with its accuracy stated is L4; any other is what its rate makes it. This is not MLPerf Power.
"""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

from evalsuite.errors import UsageError, did_you_mean
from evalsuite.measure.meters import Meter, MeterError, Reading, Setting
from evalsuite.measure.meters.parsers import number
from evalsuite.records import DeviceState, MeterAbsent, MeterInfo, Scope

MIN_WINDOW_S = 10.0
KEYS = {"path", "scope", "model", "accuracy", "calibrated", "channels", "offset_s"}
Row = tuple[float, float | None, str]
"""Unix time, watts (None where the log says nothing), channel."""


class ExternalMeter:
    """Reads what a log has grown by."""

    limit_w: float | None = None
    cpu_s = 0.0

    def __init__(self, info: MeterInfo, path: Path, offset_s: float = 0.0) -> None:
        self.info, self._path, self._offset_s = info, path, offset_s
        self._place, self._rest = 0, ""
        self._head: list[str] | None = None

    def read(self) -> list[Reading]:
        """Rows written since the last call. MeterError if the log is gone, was cut, or cannot be read."""
        rows = self._rows()
        monotonic, wall = time.perf_counter_ns(), time.time_ns()
        return [
            Reading(channel, monotonic + round((t - self._offset_s) * 1e9) - wall, power_w=watts)
            for t, watts, channel in rows if watts is not None
        ]  # fmt: skip

    def _rows(self) -> list[Row]:
        try:
            if self._path.stat().st_size < self._place:
                raise MeterError("meter_failed", f"{self._path} was cut: log to a new file instead")
            with self._path.open(encoding="utf-8") as file:
                file.seek(self._place)
                text = file.read()
                self._place = file.tell()
        except OSError as error:
            raise MeterError("meter_failed", str(error)) from error
        *lines, self._rest = (self._rest + text).split("\n")
        rows = []
        for line in filter(None, (line.strip() for line in lines)):
            if self._head is None and not line.startswith("{"):
                self._head = [name.strip() for name in line.split(",")]
                continue
            rows.append(row(line, self._head))
        return rows

    def state(self) -> DeviceState | None:
        """It knows none."""
        return None

    def close(self) -> None:
        """Nothing to let go of."""


def row(line: str, head: list[str] | None) -> Row:
    """One line of a log; *head* names the columns of a CSV, None for JSON. MeterError for a line that is neither."""
    try:
        if line.startswith("{"):
            said = json.loads(line)
        else:
            said = dict(zip(head or (), (part.strip() for part in line.split(",")), strict=True))
        when = number(said["t_unix"])
        watts = number(said["power_w"])
    except (ValueError, KeyError, TypeError) as error:
        raise MeterError("meter_failed", f"'{line[:80]}' has no t_unix and power_w: {error}") from error
    if when is None:
        raise MeterError("meter_failed", f"'{line[:80]}': t_unix is no number")
    return when, watts, str(said.get("channel") or "0")


def configured(name: str, options: Mapping[str, Any]) -> Callable[[Setting], Meter | MeterAbsent]:
    """The opener of a suite's own log; UsageError for wrong options."""
    if unknown := set(options) - KEYS:
        raise UsageError(f"meters.{name}: unknown option '{min(unknown)}'.{did_you_mean(min(unknown), KEYS)}")
    scope = options.get("scope", "node_ac")
    if scope not in get_args(Scope):
        raise UsageError(f"meters.{name}: unknown scope '{scope}'.{did_you_mean(str(scope), get_args(Scope))}")
    if options.get("calibrated") and not (options.get("accuracy") and options.get("model")):
        raise UsageError(f"meters.{name}: a calibrated meter states its `model` and `accuracy`.")
    return lambda _: open_log(name, options, scope)


def open_log(name: str, options: Mapping[str, Any], scope: Scope) -> Meter | MeterAbsent:
    """Open a log; its channels are those that it has so far, or that are stated."""
    path = Path(str(options["path"])).expanduser()
    if not path.is_file():
        return MeterAbsent(id=name, reason="no_meter", detail=f"no file {path}: start the logger first.")
    offset = float(options.get("offset_s", 0.0))

    def info(channels: tuple[str, ...]) -> MeterInfo:
        return MeterInfo(
            id=name, scope=scope, method="external.ac_meter", quality="L4" if options.get("calibrated") else "L2",
            devices=channels, min_window_s=MIN_WINDOW_S, verified_on_hardware=False,
            note=", ".join(str(options[key]) for key in ("model", "accuracy") if key in options) or None,
        )  # fmt: skip

    try:
        seen = tuple(dict.fromkeys(one.device for one in ExternalMeter(info(()), path).read()))
    except MeterError as error:
        return MeterAbsent(id=name, reason=error.reason, detail=error.detail)
    channels = tuple(str(one) for one in options.get("channels", ())) or seen
    if not channels:
        return MeterAbsent(id=name, reason="no_meter", detail=f"{path} has no rows yet; start the logger first, or "
                           "state `channels`.")  # fmt: skip
    return ExternalMeter(info(channels), path, offset)
