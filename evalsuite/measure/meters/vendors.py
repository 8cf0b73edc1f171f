"""Ascend, Cambricon and Moore Threads: power by the vendors' libraries, and Ascend's command-line tool.

None has an energy counter that its library shows; all are sampled power, L2 at best, of the chip or the board. Written
from public headers and bindings, *not verified on hardware*: DCMI gives tenths of a watt (`dcmi_get_device_power_info`,
as AIS-Bench and Ascend's own `npu-smi` divide it), CNDev whole watts, MTML milliwatts.
"""

import ctypes
import ctypes.util
import importlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from evalsuite.measure.meters import Meter, MeterError, Reading, parsers
from evalsuite.measure.meters.commands import Command, open_command, output
from evalsuite.records import DeviceState, MeterAbsent, MeterInfo, Scope

MIN_WINDOW_S = 10.0
DCMI_UNIT_W, MTML_UNIT_W = 0.1, 1e-3
MAX_CARDS = 64
DCMI_PATHS = ("libdcmi.so", "/usr/local/dcmi/libdcmi.so", "/usr/local/Ascend/driver/lib64/driver/libdcmi.so")
CNDEV_PATHS = ("libcndev.so", "/usr/local/neuware/lib64/libcndev.so")
CNDEV_VERSION = 5
Watts = Callable[[], parsers.Powers]
"""Power of every device, now; MeterError where it cannot be had."""


class LibraryPower:
    """Power by a library's call."""

    limit_w: float | None = None
    cpu_s = 0.0

    def __init__(self, info: MeterInfo, watts: Watts) -> None:
        self.info, self._watts = info, watts

    def read(self) -> list[Reading]:
        """Power of each device."""
        return [Reading(device, time.perf_counter_ns(), power_w=watts) for device, watts in self._watts()]

    def state(self) -> DeviceState | None:
        """Not asked for."""
        return None

    def close(self) -> None:
        """These libraries are let go of with the process; MTML and CNDev may be in use by torch."""


def opened(name: str, scope: Scope, method: str, watts: Watts | MeterAbsent) -> Meter | MeterAbsent:
    """A meter that was read once, or why it cannot be read."""
    if isinstance(watts, MeterAbsent):
        return watts
    try:
        first = watts()
    except MeterError as error:
        return MeterAbsent(id=name, reason=error.reason, detail=error.detail)
    if not first:
        return MeterAbsent(id=name, reason="no_meter", detail="its library lists no devices.")
    info = MeterInfo(
        id=name, scope=scope, method=method, quality="L2", devices=tuple(device for device, _ in first),
        min_window_s=MIN_WINDOW_S, verified_on_hardware=False,
    )  # fmt: skip
    return LibraryPower(info, watts)


def _load(name: str, paths: tuple[str, ...]) -> Any:
    for path in paths:
        try:
            return ctypes.CDLL(path)
        except OSError:
            continue
    return MeterAbsent(id=name, reason="no_meter", detail=f"no library {paths[0]}.")


def _must(code: int, call: str) -> None:
    if code:
        raise MeterError("meter_failed", f"{call}: {code}")


def dcmi(library: Any) -> Watts:
    """Ascend: power of every chip of every card, by a loaded `libdcmi.so`.

    Raises:
        MeterError: it does not start, or names no cards.
    """
    _must(library.dcmi_init(), "dcmi_init")
    count, cards = ctypes.c_int(0), (ctypes.c_int * MAX_CARDS)()
    _must(library.dcmi_get_card_list(ctypes.byref(count), cards, MAX_CARDS), "dcmi_get_card_list")
    chips: list[tuple[int, int]] = []
    for card in cards[: count.value]:
        number = ctypes.c_int(0)
        _must(library.dcmi_get_device_num_in_card(card, ctypes.byref(number)), "dcmi_get_device_num_in_card")
        chips += [(card, chip) for chip in range(number.value)]

    def watts() -> parsers.Powers:
        found: parsers.Powers = []
        for card, chip in chips:
            said = ctypes.c_int(0)
            code = library.dcmi_get_device_power_info(card, chip, ctypes.byref(said))
            _must(code, f"dcmi_get_device_power_info({card}, {chip})")
            found.append((f"{card}/{chip}", said.value * DCMI_UNIT_W))
        return found

    return watts


class _CndevCards(ctypes.Structure):
    _fields_ = (("version", ctypes.c_int), ("number", ctypes.c_uint))


class _CndevPower(ctypes.Structure):
    # All headers that have a version begin so; later ones are longer, hence the room behind.
    _fields_ = (("version", ctypes.c_int), ("usage", ctypes.c_int), ("cap", ctypes.c_int), ("room", ctypes.c_int * 61))


def cndev(library: Any) -> Watts:
    """Cambricon: power of every card, by a loaded `libcndev.so`.

    Raises:
        MeterError: it does not start, or names no cards.
    """
    _must(library.cndevInit(0), "cndevInit")
    cards = _CndevCards(version=CNDEV_VERSION)
    _must(library.cndevGetDeviceCount(ctypes.byref(cards)), "cndevGetDeviceCount")

    def watts() -> parsers.Powers:
        found: parsers.Powers = []
        for card in range(cards.number):
            said = _CndevPower(version=CNDEV_VERSION)
            _must(library.cndevGetPowerInfo(ctypes.byref(said), card), f"cndevGetPowerInfo({card})")
            found.append((str(card), float(said.usage)))
        return found

    return watts


def mtml(library: Any) -> Watts:
    """Moore Threads: power of every board, by the package `pymtml` (of mthreads-ml-py).

    Raises:
        MeterError: it does not start.
    """
    try:
        library.mtmlLibraryInit()
        boards = [library.mtmlLibraryInitDeviceByIndex(i) for i in range(library.mtmlLibraryCountDevice())]
        named = [(str(library.mtmlDeviceGetUUID(board)), board) for board in boards]
    except Exception as error:
        raise MeterError("meter_failed", f"pymtml: {error}") from error

    def watts() -> parsers.Powers:
        try:
            return [(uuid, library.mtmlDeviceGetPowerUsage(board) * MTML_UNIT_W) for uuid, board in named]
        except Exception as error:
            raise MeterError("meter_failed", f"mtmlDeviceGetPowerUsage: {error}") from error

    return watts


def _started(name: str, make: Callable[[Any], Watts], library: Any) -> Watts | MeterAbsent:
    if isinstance(library, MeterAbsent):
        return library
    try:
        return make(library)
    except MeterError as error:
        return MeterAbsent(id=name, reason=error.reason, detail=error.detail)
    except AttributeError as error:  # a function that this version of the library does not have
        return MeterAbsent(id=name, reason="not_supported", detail=str(error))


def _dcmi() -> Meter | MeterAbsent:
    return opened("dcmi", "npu_chip", "dcmi.power_integral", _started("dcmi", dcmi, _load("dcmi", DCMI_PATHS)))


def _cndev() -> Meter | MeterAbsent:
    return opened("cndev", "npu_chip", "cndev.power_integral", _started("cndev", cndev, _load("cndev", CNDEV_PATHS)))


def _mtml() -> Meter | MeterAbsent:
    try:
        library = importlib.import_module("pymtml")
    except (ImportError, OSError) as error:
        return MeterAbsent(id="mtml", reason="no_meter", detail=f"the package mthreads-ml-py cannot be used: {error}.")
    return opened("mtml", "gpu_board", "mtml.power_integral", _started("mtml", mtml, library))


def _npu_smi() -> Meter | MeterAbsent:
    try:
        cards = parsers.npu_smi_cards(output(("npu-smi", "info", "-l"))[0])
    except MeterError as error:
        return MeterAbsent(id="npu-smi", reason=error.reason, detail=error.detail)
    if not cards:
        return MeterAbsent(id="npu-smi", reason="no_meter", detail="`npu-smi info -l` lists no cards.")
    command = Command("npu-smi", ("npu-smi", "info", "-t", "power", "-i", "{}"), parsers.npu_smi, "npu_chip",
                      "npu_smi.power_integral", each=tuple(cards))  # fmt: skip
    return open_command(command)


OPENERS: Mapping[str, Callable[[], Meter | MeterAbsent]] = {
    "dcmi": _dcmi, "npu-smi": _npu_smi, "cndev": _cndev, "mtml": _mtml,
}  # fmt: skip
