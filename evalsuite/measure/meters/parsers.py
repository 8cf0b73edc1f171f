"""What vendors' tools print, read: pure functions from text to (device, watts). Wrong text is a `MeterError`.

A number that is not there ("N/A", a dash) leaves its device out; it is never 0. The layouts were read in public
recordings and in the tools' published source; `tests/meters/README.md` says which.
"""

import json
import math
import re
from collections.abc import Callable
from typing import Any

from evalsuite.measure.meters import MeterError

Powers = list[tuple[str, float]]
"""Device and watts, in the order of the text."""
Parser = Callable[[str], Powers]
UNITS = {"W": 1.0, "mW": 1e-3, "0.1W": 0.1, "kW": 1e3}
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


def number(said: Any) -> float | None:
    """A finite number in what a tool says (`"96.66W"`, `75`, `{"value": 3, "unit": "W"}`); None for anything else."""
    if isinstance(said, dict):
        return number(said.get("value"))
    if isinstance(said, bool) or said is None:
        return None
    if isinstance(said, int | float):
        return float(said) if math.isfinite(said) else None
    found = NUMBER.match(str(said).strip())
    return float(found[0]) if found else None


def by_pattern(pattern: str, unit: str) -> Parser:
    """A parser from a regular expression whose group `power` (or first group) is the number, and `device` the device.

    Without a group `device` the matches are numbered from 0.
    """
    compiled, factor = re.compile(pattern, re.MULTILINE), UNITS[unit]

    def parse(text: str) -> Powers:
        found: Powers = []
        for i, match in enumerate(compiled.finditer(text)):
            groups = match.groupdict()
            watts = number(groups["power"] if "power" in groups else match[1])
            if watts is not None:
                found.append((groups.get("device") or str(i), watts * factor))
        return _some(found, text)

    return parse


def npu_smi(text: str) -> Powers:
    """`npu-smi info -t power -i CARD`: chips by number; the board's own controller only where no chip says anything.

    The label changes by version (`NPU Real-time Power(W)`, `Power Dissipation(W)`). `Rated Power Dissipation(W)`, which
    an Ascend 310 prints, is a constant of the data sheet and no measurement.
    """
    label = re.compile(r"^\s*([^:\n]*power[^:\n]*\(W\))\s*:\s*(\S+)", re.IGNORECASE)
    chip = re.compile(r"^\s*Chip ID\s*:\s*(\d+)", re.IGNORECASE)
    chips: Powers = []
    boards: Powers = []
    for block in re.split(r"\n\s*\n", text):
        lines = block.splitlines()
        watts = [number(m[2]) for line in lines if (m := label.match(line)) and "rated" not in m[1].lower()]
        named = [m[1] for line in lines if (m := chip.match(line))]
        for one in watts:
            if one is None:
                continue
            is_board = re.search(r"Chip Name\s*:\s*mcu", block, re.IGNORECASE) is not None
            (boards if is_board and not named else chips).append((named[0] if named else str(len(chips)), one))
    return _some(chips or [("mcu", watts) for _, watts in boards], text)


def npu_smi_cards(text: str) -> list[str]:
    """`npu-smi info -l`: the numbers of the cards."""
    return re.findall(r"^\s*NPU ID\s*:\s*(\d+)", text, re.MULTILINE)


def table(text: str) -> Powers:
    """`cnmon` and `mx-smi`: a table with two lines a card, its number in the first, `106 W/ 250 W` in the second."""
    found: Powers = []
    card = None
    for line in text.splitlines():
        head = re.match(r"\|\s*(\d+)\s", line)
        draw = re.search(r"(\d+(?:\.\d+)?)\s*W\s*/\s*\d+(?:\.\d+)?\s*W", line)
        if draw and card is not None:
            found.append((card, float(draw[1])))
            card = None
        elif head:
            card = head[1]
        elif not line.startswith("|"):
            card = None
    return _some(found, text)


def mthreads_gmi(text: str) -> Powers:
    """`mthreads-gmi -q -j`, or the lines of `mthreads-gmi -q`; the key is `Power Draw`, with a blank at its end."""
    if not text.lstrip().startswith("{"):
        return by_pattern(r"^\s*Power Draw\s*:\s*(?P<power>\S+)", "W")(text)
    found: Powers = []
    for place, gpu in enumerate(_rows(_table(_json(text)).get("GPU"))):
        readings = {str(key).strip(): value for key, value in _table(gpu.get("Power Readings")).items()}
        watts = number(readings.get("Power Draw"))
        if watts is not None:
            found.append((str(gpu.get("GPU UUID") or gpu.get("Index") or place), watts))
    return _some(found, text)


def amd_smi(text: str) -> Powers:
    """`amd-smi metric --power --json`: a list, or the same under `gpu_data`; a warning may stand before it."""
    start = min((place for place in (text.find("["), text.find("{")) if place >= 0), default=0)
    said = _json(text[start:])
    found: Powers = []
    for place, gpu in enumerate(_rows(said.get("gpu_data") if isinstance(said, dict) else said)):
        keys = _table(gpu.get("power"))
        values = [number(keys.get(key)) for key in ("socket_power", "current_socket_power", "average_socket_power")]
        watts = next((value for value in values if value is not None), None)
        if watts is not None:
            found.append((str(gpu.get("gpu", place)), watts))
    return _some(found, text)


def hy_smi(text: str) -> Powers:
    """`hy-smi --showpower --json` (and `rocm-smi`): card -> its keys, one of them `... Package Power (W)`."""
    found: Powers = []
    for card, keys in _table(_json(text[max(0, text.find("{")) :])).items():
        values = [number(value) for key, value in _table(keys).items() if "Package Power (W)" in key]
        found += [(card, value) for value in values[:1] if value is not None]
    return _some(found, text)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise MeterError("meter_failed", f"no JSON: {_excerpt(text)}") from error


def _table(said: Any) -> dict[str, Any]:
    """It, if it is a table; another version of the tool may put something else there, which then holds no power."""
    return said if isinstance(said, dict) else {}


def _rows(said: Any) -> list[dict[str, Any]]:
    return [_table(one) for one in said] if isinstance(said, list) else []


def _some(found: Powers, text: str) -> Powers:
    if not found:
        raise MeterError("meter_failed", f"no power in: {_excerpt(text)}")
    doubles = [device for device, _ in found if [name for name, _ in found].count(device) > 1]
    if doubles:
        raise MeterError("meter_failed", f"two powers of device {doubles[0]} in: {_excerpt(text)}")
    return found


def _excerpt(text: str) -> str:
    return " ".join(text.split())[:120] or "nothing"
