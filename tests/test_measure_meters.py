"""Meters: what each says, in which unit, and with which code it says nothing. No hardware: fake libraries and folders,
and texts of vendors' tools (`tests/meters/README.md`)."""

import ctypes
import json
import os
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from pydantic import ValidationError

from evalsuite.errors import UsageError
from evalsuite.measure import meters, windows
from evalsuite.measure.meters import (
    METERS,
    MeterError,
    Reading,
    Setting,
    amd,
    commands,
    external,
    model,
    nvml,
    open_all,
    parsers,
    rapl,
    vendors,
)
from evalsuite.records import REASONS, Energy, EnergyEstimate, Host, MeterAbsent, Window

TEXTS = Path(__file__).parent / "meters"
S = 10**9


def text(name: str) -> str:
    return (TEXTS / name).read_text(encoding="utf-8")


# -- NVML --


class FakeNvml(ModuleType):
    """As much of `pynvml` as the meter calls, with the same constants; `broken` names calls that raise a code."""

    class NVMLError(Exception):
        def __init__(self, value: int) -> None:
            super().__init__(f"NVML error {value}")
            self.value = value

    NVML_SUCCESS, NVML_ERROR_NOT_SUPPORTED, NVML_ERROR_NO_PERMISSION = 0, 3, 4
    NVML_ERROR_DRIVER_NOT_LOADED, NVML_ERROR_LIBRARY_NOT_FOUND, NVML_ERROR_FUNCTION_NOT_FOUND = 9, 12, 13
    NVML_ERROR_GPU_IS_LOST, NVML_ERROR_LIB_RM_VERSION_MISMATCH = 15, 18
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    NVML_GPU_VIRTUALIZATION_MODE_VGPU = 2
    nvmlMemory_v2 = 0x02000028  # noqa: N815 - the library's name

    def __init__(self, boards: int = 2) -> None:
        super().__init__("fake_pynvml")
        self.boards, self.broken, self.closed = boards, {}, 0
        self.processes, self.used, self.mig, self.c2c = [], 200 << 20, False, False
        self.energy_mj, self.power_mw, self.mask, self.throttled_ns = 5_000_000, 300_000, 0, [0, 0]

    def _call(self, name: str, value: object) -> object:
        if name in self.broken:
            raise self.NVMLError(self.broken[name])
        return value

    def nvmlInit(self):
        self._call("nvmlInit", None)

    def nvmlShutdown(self):
        self.closed += 1

    def nvmlDeviceGetCount(self):
        return self.boards

    def nvmlDeviceGetHandleByIndex(self, i):
        return i

    def nvmlDeviceGetUUID(self, h):
        return f"GPU-{h}{h}{h}{h}-abcd"

    def nvmlDeviceGetName(self, h):
        return "NVIDIA Fake"

    def nvmlSystemGetDriverVersion(self):
        return "999.1"

    def nvmlDeviceGetTotalEnergyConsumption(self, h):
        return self._call("energy", self.energy_mj)

    def nvmlDeviceGetFieldValues(self, h, fields):
        self._call("fields", None)
        found = []
        for one in fields:
            field, scope = one if isinstance(one, tuple) else (one, 0)
            values = {186: self.power_mw * (2 if scope == 1 else 1), 74: self.throttled_ns[0], 75: self.throttled_ns[1]}
            value = SimpleNamespace(uiVal=values[field], ullVal=values[field])
            found.append(SimpleNamespace(nvmlReturn=self.broken.get(field, 0), value=value))
        return found

    def nvmlDeviceGetEnforcedPowerLimit(self, h):
        return self._call("limit", 700_000)

    def nvmlDeviceGetClockInfo(self, h, kind):
        return self._call("clock", (1800 if kind == 1 else 2600) - 100 * h)

    def nvmlDeviceGetTemperature(self, h, sensor):
        return self._call("temperature", 60 + h)

    def nvmlDeviceGetCurrentClocksEventReasons(self, h):
        return self._call("mask", self.mask)

    def nvmlDeviceGetMigMode(self, h):
        return self._call("mig", [int(self.mig), int(self.mig)])

    def nvmlDeviceGetVirtualizationMode(self, h):
        return 2

    def nvmlDeviceGetC2cModeInfoV(self, h):
        return self._call("c2c", SimpleNamespace(isC2cEnabled=int(self.c2c)))

    def nvmlDeviceGetComputeRunningProcesses(self, h):
        return self._call("processes", [SimpleNamespace(pid=pid, usedGpuMemory=m) for pid, m in self.processes])

    def nvmlDeviceGetMemoryInfo(self, h, version=None):
        return SimpleNamespace(used=self.used)


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "fake_pynvml", fake)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return fake


def opened(devices: tuple[str, ...] | None = None) -> nvml.NvmlMeter | MeterAbsent:
    return nvml.open_meter(Setting(devices=devices), "fake_pynvml")


def test_nvml_counts_millijoules_and_reads_instant_milliwatts(board: FakeNvml):
    meter = opened()
    readings = meter.read()

    assert meter.info.devices == ("GPU-0000-abcd", "GPU-1111-abcd")
    assert [(one.energy_j, one.power_w) for one in readings] == [(5000.0, 300.0)] * 2
    assert meter.limit_w == 1400.0
    assert not meter.info.verified_on_hardware
    assert meter.read()[0].power_w is None  # while ticks are hunted the counter alone is read
    meter.close()
    assert board.closed == 1


def test_without_the_package_nvml_says_what_to_install():
    found = nvml.open_meter(Setting(), "no_such_pynvml")

    assert found.reason == "nvml_not_found"
    assert "evalsuite[energy]" in found.detail


@pytest.mark.parametrize(
    ("call", "value", "code"),
    [("nvmlInit", 12, "nvml_not_found"), ("nvmlInit", 9, "nvml_not_found"), ("nvmlInit", 18, "nvml_driver_mismatch"),
     ("nvmlInit", 15, "meter_failed"), ("energy", 3, "not_supported"), ("energy", 4, "not_supported")],
)  # fmt: skip
def test_nvmls_errors_become_codes(board: FakeNvml, call: str, value: int, code: str):
    board.broken[call] = value
    found = opened()

    assert isinstance(found, MeterAbsent)
    assert found.reason == code
    assert board.closed == (0 if call == "nvmlInit" else 1)


def test_a_guest_of_a_virtual_machine_is_told_apart_by_asking(board: FakeNvml):
    board.broken["energy"] = board.NVML_ERROR_NOT_SUPPORTED

    assert "guest" in opened().detail


def test_a_board_that_is_divided_has_no_energy(board: FakeNvml, monkeypatch: pytest.MonkeyPatch):
    board.mig = True

    assert opened().reason == "mig_slice"
    board.mig = False
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1234")
    assert opened().reason == "mig_slice"


def test_old_boards_that_know_no_mig_are_metered(board: FakeNvml):
    board.broken |= {"mig": 3, "c2c": 13, "processes": 3, "limit": 3}
    meter = opened()

    assert meter.limit_w is None
    assert len(meter.read()) == 2


def test_processes_of_others_are_seen_and_ours_and_our_childrens_are_not(board: FakeNvml):
    import subprocess

    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        board.processes = [(os.getpid(), 1 << 30), (child.pid, 1 << 30)]
        board.used = 2 << 30
        meter = opened()
        assert len(meter.read()) == 2
        board.processes.append((1, 1 << 20))
        assert opened().reason == "shared_device"
        meter._looked = 0.0
        with pytest.raises(MeterError) as error:
            meter.read()
        assert error.value.reason == "shared_device"
    finally:
        child.kill()
        child.wait()


def test_in_a_container_one_unknown_number_is_us_and_two_are_not(board: FakeNvml):
    board.processes = [(2**30, None)]
    assert not isinstance(opened(), MeterAbsent)
    board.processes.append((2**30 + 1, None))
    assert opened().reason == "shared_device"


def test_memory_that_nobody_of_us_holds_is_shared(board: FakeNvml):
    board.used = 3 << 30

    assert opened().reason == "shared_device"


@pytest.mark.parametrize(
    ("visible", "devices"),
    [("1", ("GPU-1111-abcd",)), ("GPU-1111", ("GPU-1111-abcd",)), ("1,0", ("GPU-1111-abcd", "GPU-0000-abcd"))],
)
def test_only_visible_boards_are_metered(board: FakeNvml, monkeypatch, visible: str, devices: tuple[str, ...]):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    assert opened().info.devices == devices


def test_boards_that_compute_and_are_not_metered_are_a_mismatch(board: FakeNvml, monkeypatch: pytest.MonkeyPatch):
    assert opened(("1111-abcd",)).info.devices == ("GPU-1111-abcd",)  # torch leaves the prefix out
    assert opened(("9999",)).reason == "device_set_mismatch"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert opened().reason == "device_set_mismatch"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert opened().reason == "no_meter"


def test_grace_hopper_reads_the_module_and_says_so(board: FakeNvml):
    board.c2c = True
    meter = opened()

    assert meter.info.scope == "gpu_module"
    assert meter.read()[0].power_w == 600.0
    assert meter.limit_w is None


def test_power_that_is_not_offered_is_missing_and_not_zero(board: FakeNvml):
    board.broken[186] = 3

    assert opened().read()[0].power_w is None


def test_a_board_that_is_lost_fails_the_reading(board: FakeNvml):
    meter = opened()
    board.broken["energy"] = board.NVML_ERROR_GPU_IS_LOST

    with pytest.raises(MeterError) as error:
        meter.read()
    assert error.value.reason == "meter_failed"


def test_throttling_is_the_share_of_time_by_its_counters(board: FakeNvml):
    meter = opened()
    first = meter.state()
    board.throttled_ns = [10**9 * 3600, 0]  # an hour in a few microseconds: all of the time
    second = meter.state()
    board.broken["fields"] = 3
    board.mask = 0x40
    third = meter.state()

    assert (first.throttled_power, first.throttled_thermal) == (0.0, 0.0)
    assert (second.throttled_power, second.throttled_thermal) == (1.0, 0.0)
    assert (third.throttled_power, third.throttled_thermal) == (0.0, 1.0)
    assert first.sm_mhz[0] == 1700
    assert first.sm_mhz[2] == 1800
    assert first.temperature_c == (61, 61)


def test_the_real_package_has_every_name_that_the_meter_calls():
    real = pytest.importorskip("pynvml")
    for name in dir(FakeNvml):
        if name.startswith(("nvml", "NVML_")):
            assert hasattr(real, name), name
            if isinstance(getattr(FakeNvml, name), int):
                assert getattr(real, name) == getattr(FakeNvml, name), name
    assert (real.NVML_FI_DEV_POWER_INSTANT, real.NVML_POWER_SCOPE_MODULE) == (nvml.POWER_INSTANT, nvml.MODULE)


# -- RAPL --


def zone(folder: Path, name: str, energy_uj: int, range_uj: int = 262_143_328_850) -> Path:
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{energy_uj}\n")
    (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
    return folder


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    root = tmp_path / "powercap"
    for package in (0, 1):
        zone(root / f"intel-rapl:{package}", f"package-{package}", 1_000_000 * (package + 1))
        zone(root / f"intel-rapl:{package}" / f"intel-rapl:{package}:0", "core", 1)
        zone(root / f"intel-rapl:{package}" / f"intel-rapl:{package}:1", "dram", 5_000_000)
        (root / f"intel-rapl:{package}:1").symlink_to(root / f"intel-rapl:{package}" / f"intel-rapl:{package}:1")
    zone(root / "intel-rapl:2", "psys", 9_000_000)
    zone(root / "intel-rapl-mmio:0", "package-0", 7)
    (root / "intel-rapl").mkdir()
    return root


@pytest.fixture
def cpuinfo(tmp_path: Path) -> Path:
    path = tmp_path / "cpuinfo"
    path.write_text("model name : Fake\nflags : fpu vme\n")
    return path


def add(folder: Path, microjoules: int) -> None:
    path = folder / "energy_uj"
    path.write_text(str(int(path.read_text()) + microjoules))


def test_packages_are_metered_and_the_platform_their_cores_and_the_second_driver_are_not(powercap, cpuinfo):
    meter = rapl.open_meter("package", powercap, cpuinfo)
    add(powercap / "intel-rapl:0", 2_500_000)

    assert meter.info.devices == ("package-0", "package-1")
    assert (meter.info.scope, meter.info.quality) == ("cpu_package", "L2")
    assert [one.energy_j for one in meter.read()] == [2.5, 0.0]


def test_memory_is_a_meter_of_its_own_and_links_count_once(powercap, cpuinfo):
    meter = rapl.open_meter("dram", powercap, cpuinfo)
    add(powercap / "intel-rapl:1" / "intel-rapl:1:1", 500_000)

    assert meter.info.devices == ("dram-0-1", "dram-1-1")
    assert meter.info.scope == "dram"
    assert [one.energy_j for one in meter.read()] == [0.0, 0.5]


def test_a_wrap_is_undone(tmp_path: Path, cpuinfo: Path):
    package = zone(tmp_path / "p" / "intel-rapl:0", "package-0", 999_000_000, range_uj=1_000_000_000)
    meter = rapl.open_meter("package", tmp_path / "p", cpuinfo)
    read = []
    for now in (999_500_000, 250_000, 900_000_000, 100_000_000):
        (package / "energy_uj").write_text(str(now))
        read.append(meter.read()[0].energy_j)

    assert read == pytest.approx([0.5, 1.25, 901.0, 1101.0])


def test_a_counter_that_may_not_be_read_says_how_to_change_that(powercap, cpuinfo, monkeypatch: pytest.MonkeyPatch):
    real = Path.read_text
    meter = rapl.open_meter("package", powercap, cpuinfo)

    def refused(path: Path, *args: object, **more: object) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **more)

    monkeypatch.setattr(Path, "read_text", refused)  # root may read everything, also files without rights
    found = rapl.open_meter("package", powercap, cpuinfo)

    assert found.reason == "rapl_permission"
    assert "chmod" in found.detail
    with pytest.raises(MeterError) as error:
        meter.read()
    assert error.value.reason == "rapl_permission"


def test_virtual_machines_without_counters_have_a_code_of_their_own(tmp_path: Path):
    (tmp_path / "vm").write_text("flags : fpu hypervisor sse\n")
    (tmp_path / "bare").write_text("flags : fpu sse\n")

    assert rapl.open_meter("package", tmp_path / "none", tmp_path / "vm").reason == "rapl_absent_vm"
    assert rapl.open_meter("package", tmp_path / "none", tmp_path / "bare").reason == "no_meter"


def test_amd_processors_have_no_memory_zone(tmp_path: Path, cpuinfo: Path):
    zone(tmp_path / "intel-rapl:0", "package-0", 1)

    assert rapl.open_meter("dram", tmp_path, cpuinfo).reason == "no_meter"


def test_the_mmio_driver_is_taken_where_it_is_the_only_one_and_sgx_is_noted(tmp_path: Path):
    zone(tmp_path / "intel-rapl-mmio:0", "package-0", 1)
    (tmp_path / "cpuinfo").write_text("flags : fpu sgx sse\n")
    meter = rapl.open_meter("package", tmp_path, tmp_path / "cpuinfo")

    assert meter.info.devices == ("package-0",)
    assert "SGX" in meter.info.note


def test_rapls_readings_make_energy(powercap, cpuinfo):
    meter = rapl.open_meter("package", powercap, cpuinfo)
    readings = []
    for i in range(400):
        for package in (0, 1):
            add(powercap / f"intel-rapl:{package}", 1_000_000 + package * 500_000)
        readings += [Reading(one.device, i * S // 100, one.energy_j) for one in meter.read()]
    found = windows.energy(meter.info, readings, (S // 5, 17 * S // 5))

    assert found.power_w == pytest.approx(250, rel=1e-3)
    assert found.by_device_j == pytest.approx({"package-0": 320.0, "package-1": 480.0}, rel=1e-3)


# -- AMD --


class FakeAmd(ModuleType):
    class AmdSmiException(Exception):  # noqa: N818 - the library's name
        pass

    def __init__(self) -> None:
        super().__init__("fake_amdsmi")
        self.count, self.power, self.ticking = 1_000_000, {"current_socket_power": 542, "socket_power": "N/A"}, True

    def amdsmi_init(self):
        pass

    def amdsmi_shut_down(self):
        pass

    def amdsmi_get_processor_handles(self):
        return ["b", "a"]

    def amdsmi_get_gpu_enumeration_info(self, handle):
        return {"hip_id": {"a": 0, "b": 1}[handle]}

    def amdsmi_get_gpu_device_uuid(self, handle):
        return f"uuid-{handle}"

    def amdsmi_get_energy_count(self, handle):
        stamp = time.perf_counter_ns() + 10**15 if self.ticking else 0
        return {"energy_accumulator": self.count, "counter_resolution": 15.3, "timestamp": stamp}

    def amdsmi_get_power_info(self, handle):
        return self.power


@pytest.fixture
def radeon(monkeypatch: pytest.MonkeyPatch) -> FakeAmd:
    fake = FakeAmd()
    monkeypatch.setitem(sys.modules, "fake_amdsmi", fake)
    return fake


@pytest.mark.parametrize("ticking", [True, False])
def test_amd_counts_in_its_own_unit_in_hips_order_and_on_our_clock(radeon: FakeAmd, ticking: bool):
    radeon.ticking = ticking
    meter = amd.open_meter(Setting(), "fake_amdsmi")
    before = time.perf_counter_ns()
    readings = meter.read()
    after = time.perf_counter_ns()

    assert meter.info.devices == ("uuid-a", "uuid-b")
    assert [one.energy_j for one in readings if one.energy_j] == pytest.approx([15.3, 15.3])
    assert [one.power_w for one in readings if one.power_w] == [542.0, 542.0]
    assert all(before - 5_000_000 <= one.t_ns <= after for one in readings)


def test_amds_values_that_are_not_there_are_missing():
    assert amd.power({"current_socket_power": "N/A", "average_socket_power": 141}) == 141
    assert amd.power({"current_socket_power": "N/A", "average_socket_power": 0}) is None
    assert amd.counter({"power": 2_000_000, "counter_resolution": 15.3}) == (pytest.approx(30.6), 0)


def test_amd_without_its_package_or_in_a_guest_says_so(radeon: FakeAmd):
    def refused(handle: str) -> dict[str, object]:
        raise FakeAmd.AmdSmiException("not supported")

    assert amd.open_meter(Setting(), "no_such_amdsmi").reason == "no_meter"
    assert amd.open_meter(Setting(devices=("uuid-c",)), "fake_amdsmi").reason == "device_set_mismatch"
    radeon.amdsmi_get_energy_count = refused
    assert amd.open_meter(Setting(), "fake_amdsmi").reason == "not_supported"


# -- libraries of vendors --


class FakeDcmi:
    code = 0

    def dcmi_init(self):
        return 0

    def dcmi_get_card_list(self, count, cards, length):
        count._obj.value, cards[0], cards[1] = 2, 4, 6
        return 0

    def dcmi_get_device_num_in_card(self, card, number):
        number._obj.value = 2 if card == 6 else 1
        return 0

    def dcmi_get_device_power_info(self, card, chip, power):
        power._obj.value = 951 + chip
        return self.code


def test_dcmi_gives_tenths_of_a_watt():
    assert vendors.dcmi(FakeDcmi())() == [("4/0", pytest.approx(95.1)), ("6/0", pytest.approx(95.1)),
                                          ("6/1", pytest.approx(95.2))]  # fmt: skip


def test_a_vendors_error_is_a_failed_meter_and_a_missing_function_is_not_supported():
    library = FakeDcmi()
    read = vendors.dcmi(library)
    library.code = -8005

    with pytest.raises(MeterError) as error:
        read()
    assert error.value.reason == "meter_failed"
    absent = vendors.opened("dcmi", "npu_chip", "m", vendors._started("dcmi", vendors.dcmi, SimpleNamespace()))
    assert absent.reason == "not_supported"


def test_cndev_gives_whole_watts_and_writes_no_further_than_its_room():
    class Library:
        def cndevInit(self, flags):
            return 0

        def cndevGetDeviceCount(self, cards):
            assert cards._obj.version == 5
            cards._obj.number = 2
            return 0

        def cndevGetPowerInfo(self, info, card):
            assert ctypes.sizeof(info._obj) >= 64
            info._obj.usage, info._obj.cap = 213 + card, 250
            return 0

    assert vendors.cndev(Library())() == [("0", 213.0), ("1", 214.0)]


def test_mtml_gives_milliwatts():
    library = SimpleNamespace(
        mtmlLibraryInit=lambda: None, mtmlLibraryCountDevice=lambda: 1, mtmlLibraryInitDeviceByIndex=lambda i: i,
        mtmlDeviceGetUUID=lambda board: "u", mtmlDeviceGetPowerUsage=lambda board: 123456,
    )  # fmt: skip
    meter = vendors.opened("mtml", "gpu_board", "mtml.power_integral", vendors.mtml(library))

    assert meter.read()[0].power_w == pytest.approx(123.456)
    assert (meter.info.quality, meter.info.verified_on_hardware) == ("L2", False)


# -- texts --


@pytest.mark.parametrize(
    ("parser", "name", "expected"),
    [
        (parsers.npu_smi, "npu-smi-910.txt", [("0", 287.4)]),
        (parsers.npu_smi, "npu-smi-310p-two-chips.txt", [("mcu", 42.8)]),
        (parsers.npu_smi, "npu-smi-chip-and-mcu.txt", [("0", 69.0)]),
        (parsers.table, "cnmon.txt", [("0", 213.0), ("1", 107.0)]),
        (parsers.table, "mx-smi.txt", [("0", 181.0), ("1", 56.0)]),
        (parsers.mthreads_gmi, "mthreads-gmi.json", [("00000000-aaaa-1111-bbbb-222222222222", 287.25)]),
        (parsers.mthreads_gmi, "mthreads-gmi-q.txt", [("0", 123.46), ("1", 96.66)]),
        (parsers.amd_smi, "amd-smi-list.json", [("0", 542.0), ("1", 141.0)]),
        (parsers.amd_smi, "amd-smi-wrapped.json", [("0", 410.5)]),
        (parsers.hy_smi, "hy-smi.json", [("card0", 223.0), ("card1", 75.5)]),
        (commands.KNOWN["xpu-smi"].parse, "xpu-smi.txt", [("0", 214.61)]),
        (commands.KNOWN["ixsmi"].parse, "ixsmi.txt", [("0", 96.0)]),
    ],
)
def test_what_a_tool_prints_is_read(parser: parsers.Parser, name: str, expected: parsers.Powers):
    assert parser(text(name)) == expected


def test_every_text_is_read_by_some_test():
    source = Path(__file__).read_text(encoding="utf-8")
    for path in TEXTS.iterdir():
        assert path.name == "README.md" or f'"{path.name}"' in source


PARSERS = [parsers.npu_smi, parsers.table, parsers.mthreads_gmi, parsers.amd_smi, parsers.hy_smi]
ODD = ["", "command not found", "{", "{}", "[]", "[1]", '{"GPU": 3, "gpu_data": [null], "card0": 5}', "Power : N/A"]


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("said", ODD)
def test_text_that_holds_no_power_is_an_error_and_never_zero(parser: parsers.Parser, said: str):
    with pytest.raises(MeterError) as error:
        parser(said)
    assert error.value.reason == "meter_failed"


def test_a_rated_power_is_no_measurement():
    with pytest.raises(MeterError):
        parsers.npu_smi(text("npu-smi-310-rated.txt"))
    assert parsers.npu_smi_cards(text("npu-smi-list.txt")) == ["0", "3"]


@pytest.mark.parametrize(
    ("said", "expected"),
    [("96.66W", 96.66), ("[N/A]", None), ("N/A", None), ("-", None), ({"value": 3, "unit": "W"}, 3.0), (True, None),
     (float("nan"), None), (7, 7.0), (None, None), ("nan", None)],
)  # fmt: skip
def test_a_number_is_a_number_and_nothing_else_is(said: object, expected: float | None):
    assert parsers.number(said) == expected


@pytest.mark.parametrize(("unit", "watts"), [("W", 951.0), ("mW", 0.951), ("0.1W", 95.1)])
def test_units_are_stated(unit: str, watts: float):
    assert parsers.by_pattern(r"P=(\d+)", unit)("P=951") == [("0", pytest.approx(watts))]


def test_two_powers_of_one_device_are_refused():
    with pytest.raises(MeterError, match="two powers"):
        parsers.by_pattern(r"(?P<device>\d): (?P<power>\d+)", "W")("0: 5\n0: 6")


# -- commands of a suite --

MINE = {"command": [sys.executable, "-c", "print('gpu 3: 123456')"], "pattern": r"gpu (?P<device>\d): (?P<power>\d+)",
        "unit": "mW", "scope": "gpu_board", "period_s": 0.05}  # fmt: skip


def test_a_suites_own_command_is_a_meter():
    (meter,), absents = open_all(["mine"], Setting(configured={"mine": MINE}))
    readings: list[Reading] = []
    until = time.monotonic() + 10
    while len(readings) < 2 and time.monotonic() < until:
        readings += meter.read()
        time.sleep(0.02)
    meter.close()

    assert absents == []
    assert (meter.info.devices, meter.info.quality, meter.info.scope) == (("3",), "L1", "gpu_board")
    assert [one.power_w for one in readings] == pytest.approx([123.456] * len(readings))
    assert len(readings) >= 2
    assert meter.cpu_s > 0


def test_a_command_that_fails_later_is_a_failed_reading(tmp_path: Path):
    switch = tmp_path / "switch"
    code = f"import pathlib, sys; sys.exit('broken') if pathlib.Path({str(switch)!r}).exists() else print('gpu 3: 5')"
    (meter,), _ = open_all(["mine"], Setting(configured={"mine": {**MINE, "command": [sys.executable, "-c", code]}}))
    switch.touch()
    until, error = time.monotonic() + 10, None
    while error is None and time.monotonic() < until:
        try:
            meter.read()
        except MeterError as found:
            error = found
        time.sleep(0.02)
    meter.close()

    assert (error.reason, "broken" in error.detail) == ("meter_failed", True)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"unit": "mV"}, "unknown unit 'mV'"), ({"scope": "gpu"}, "unknown scope 'gpu'"), ({"pattern": "x"}, "no group"),
     ({"pattern": "("}, "pattern"), ({"komand": 1}, "unknown option 'komand'"), ({"command": []}, "empty")],
)  # fmt: skip
def test_a_suites_meter_that_is_wrong_is_refused_before_anything_runs(change: dict[str, object], said: str):
    with pytest.raises(UsageError, match=said):
        open_all([], Setting(configured={"mine": {**MINE, **change}}))


def test_a_suites_meter_cannot_take_a_meters_name_or_leave_its_scope_out():
    with pytest.raises(UsageError, match="another name"):
        open_all([], Setting(configured={"nvml": MINE}))
    with pytest.raises(UsageError, match="missing scope"):
        open_all([], Setting(configured={"mine": {k: v for k, v in MINE.items() if k != "scope"}}))


def test_a_command_that_is_not_there_or_fails_at_once_is_absent():
    absent = commands.open_command(commands.Command("x", ("no-such-tool",), parsers.table, "gpu_board", "m"))
    fails = (sys.executable, "-c", "raise SystemExit(3)")
    broken = commands.open_command(commands.Command("x", fails, parsers.table, "gpu_board", "m"))

    assert (absent.reason, broken.reason) == ("no_meter", "meter_failed")


def test_ascends_tool_is_run_for_every_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tool = tmp_path / "npu-smi"
    tool.write_text(f'#!/bin/sh\nif [ "$2" = -l ]; then cat "{TEXTS}/npu-smi-list.txt"; '
                    f'elif [ "$5" = 3 ]; then cat "{TEXTS}/npu-smi-chip-and-mcu.txt"; '
                    f'else cat "{TEXTS}/npu-smi-910.txt"; fi\n')  # fmt: skip
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    (meter,), _ = open_all(["npu-smi"])
    meter.close()

    assert meter.info.devices == ("0/0", "3/0")


# -- a log at the wall --


def test_a_log_is_read_as_it_grows_on_our_clock(tmp_path: Path):
    log = tmp_path / "wall.csv"
    log.write_text("t_unix,power_w,channel\n100.0,450,a\n100.0,[N/A],b\n")
    meter = external.open_log("wall", {"path": str(log), "channels": ["a", "b"]}, "node_ac")
    first = meter.read()
    now = time.time()
    with log.open("a") as file:
        file.write(f"{now},460.5,a\n{now},80")  # a line is being written
    second = meter.read()
    with log.open("a") as file:
        file.write(",b\n")
    third = meter.read()

    assert [(one.device, one.power_w) for one in first] == [("a", 450.0)]
    assert [(one.device, one.power_w) for one in second] == [("a", 460.5)]
    assert [(one.device, one.power_w) for one in third] == [("b", 80.0)]
    assert abs(second[0].t_ns - time.perf_counter_ns()) < S
    assert (meter.info.scope, meter.info.quality, meter.info.method) == ("node_ac", "L2", "external.ac_meter")


def test_a_log_may_be_json_by_line(tmp_path: Path):
    log = tmp_path / "wall.jsonl"
    log.write_text('{"t_unix": 100.5, "power_w": 450}\n{"t_unix": 101, "power_w": null}\n')
    meter = external.open_log("wall", {"path": str(log)}, "node_ac")

    assert [(one.device, one.power_w) for one in meter.read()] == [("0", 450.0)]


@pytest.mark.parametrize("line", ["1,2,3", "x,2", '{"power_w": 3}', "{"])
def test_a_log_with_a_broken_line_is_a_failed_meter(line: str):
    with pytest.raises(MeterError) as error:
        external.row(line, ["t_unix", "power_w"])
    assert error.value.reason == "meter_failed"


def test_a_log_that_is_cut_or_absent_or_empty_says_so(tmp_path: Path):
    log = tmp_path / "wall.csv"
    assert external.open_log("wall", {"path": str(log)}, "node_ac").reason == "no_meter"
    log.write_text("t_unix,power_w\n")
    assert external.open_log("wall", {"path": str(log)}, "node_ac").reason == "no_meter"
    log.write_text("t_unix,power_w\n1,2\n")
    meter = external.open_log("wall", {"path": str(log)}, "node_ac")
    meter.read()
    log.write_text("t")
    with pytest.raises(MeterError, match="was cut"):
        meter.read()


def test_only_a_calibrated_meter_that_states_its_accuracy_is_the_best():
    with pytest.raises(UsageError, match="accuracy"):
        open_all([], Setting(configured={"wall": {"path": "x", "calibrated": True}}))
    with pytest.raises(UsageError, match="unknown option 'colour'"):
        open_all([], Setting(configured={"wall": {"path": "x", "colour": 1}}))
    with pytest.raises(UsageError, match="unknown scope"):
        open_all([], Setting(configured={"wall": {"path": "x", "scope": "house"}}))


# -- the table, the model, the schema --


def test_every_meter_either_answers_or_gives_a_code_and_never_raises():
    for name, opener in METERS.items():
        found = opener(Setting())
        if isinstance(found, MeterAbsent):
            assert found.id == name
            assert found.reason in REASONS
            assert found.detail
        else:
            assert found.info.id == name
            found.close()


def test_no_name_opens_a_fake_or_a_model():
    assert not {name for name in METERS if "fake" in name or "model" in name}
    with pytest.raises(UsageError, match="Unknown meter 'fake'"):
        open_all(["fake"])


def test_by_itself_the_first_accelerator_that_answers_is_taken_and_the_processor_beside_it(monkeypatch):
    from evalsuite.measure.meters.fake import FakePower, fake_info

    tried = []

    def answers(name: str):
        def opener(_: Setting):
            tried.append(name)
            return FakePower(lambda _: 1.0, fake_info(id=name))

        return opener

    def absent(name: str):
        return lambda _: MeterAbsent(id=name, reason="no_meter", detail="none")

    accelerators = {"a": absent("a"), "b": answers("b"), "c": answers("c")}
    monkeypatch.setattr(meters, "ACCELERATORS", accelerators)
    monkeypatch.setattr(meters, "METERS", accelerators | {"rapl": answers("rapl")})
    opened_, absents = open_all(None)

    assert [one.info.id for one in opened_] == ["b", "rapl"]
    assert [one.id for one in absents] == ["a"]
    assert tried == ["b", "rapl"]
    assert [one.info.id for one in open_all(["c", "c"])[0]] == ["c"]
    assert open_all([]) == ([], [])
    assert [row["state"] for row in meters.rows()] == ["absent", "answers", "answers", "answers"]


def test_the_model_is_an_interval_and_says_what_it_cannot_say():
    found, reason = model.estimate(model.Processor(tdp_w=256.0, threads=2, host_threads=256), 10.0, 1.0)

    assert reason is None
    assert (found.low_j, found.high_j) == (pytest.approx(20.0), pytest.approx(20.0))
    half, _ = model.estimate(model.Processor(256.0, 2, 256), 10.0, 0.5)
    assert (half.low_j, half.high_j) == (pytest.approx(20 * 0.55), pytest.approx(20 * 0.75))
    assert half.inputs["share"] == "vcpus/host_threads=2/256"
    assert half.informative_for_ratios is False


@pytest.mark.parametrize(
    "processor", [model.Processor(None, 2, 256), model.Processor(256.0, 2, None), model.Processor(256.0, 300, 256)]
)
def test_the_model_guesses_nothing(processor: model.Processor):
    found, reason = model.estimate(processor, 10.0, 0.9)

    assert found is None
    assert reason


def test_a_row_without_a_meter_has_no_energy_and_the_schema_takes_no_zero_and_no_estimate_in_its_place():
    host = Host(steal=None, involuntary_switches_per_s=None, others_cpu=None)
    base = {"round": 0, "position": 0, "attempt": 0, "arm": "bf16", "start_s": 0.0, "duration_s": 1.0, "iterations": 1,
            "input_tokens": 1, "output_tokens": 1, "requests": 1, "host": host.model_dump()}  # fmt: skip
    without = Window.model_validate(base | {"energy_reasons": ["all: no_meter"]})
    energy = {"meter": "m", "scope": "dram", "method": "m", "quality": "L2", "energy_j": 5.0, "power_w": 5.0,
              "by_device_j": {}}  # fmt: skip
    guess, _ = model.estimate(model.Processor(256.0, 2, 256), 1.0, 1.0)

    assert without.energy == ()
    Window.model_validate(base | {"energy": [energy]})
    for wrong in (energy | {"energy_j": 0}, energy | {"power_w": 0.0}, energy | {"provenance": "modelled"},
                  guess.model_dump(), {"energy_j": 0}):  # fmt: skip
        with pytest.raises(ValidationError):
            Window.model_validate(base | {"energy": [wrong]})
    schema = json.dumps(Window.model_json_schema())
    assert '"exclusiveMinimum": 0' in schema
    assert Energy.model_json_schema()["properties"]["provenance"]["const"] == "measured"
    assert EnergyEstimate.model_json_schema()["properties"]["provenance"]["const"] == "modelled"
