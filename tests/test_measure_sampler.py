"""One thread reads all meters; whatever a meter does, a bench goes on."""

import threading
import time
from pathlib import Path

import pytest

from evalsuite.measure import sampler as sampling
from evalsuite.measure.meters import Meter, MeterError
from evalsuite.measure.meters.fake import Behaviour, FakeCounter, FakePower, fake_info
from evalsuite.measure.sampler import Found, Mark, Sampler
from evalsuite.records import DeviceState

QUICK = fake_info(scope="cpu_package", method="fake.energy_counter", min_window_s=0.2)
SENSOR = fake_info(id="sensor", scope="gpu_board", method="fake.power_integral", quality="L2", min_window_s=0.2)
FAST = Behaviour(tick_s=0.01)


def window(sampler: Sampler, seconds: float = 0.5, hint: bool = True, **about: object) -> Found:
    for _ in range(6):
        sampler.begin(seconds if hint else None)
        start = time.perf_counter_ns()
        time.sleep(seconds)
        found = sampler.end(start, time.perf_counter_ns(), **about)
        # Half a second has no time to lose: where other tests kept the thread from its processor, once more.
        if "fake: window_too_short" not in found.reasons:
            break
    return found


@pytest.mark.parametrize("hint", [True, False])
def test_a_window_gets_the_energy_of_every_meter(hint: bool):
    meters: list[Meter] = [FakeCounter(lambda _: 100.0, FAST, QUICK), FakePower(lambda _: 250.0, SENSOR)]
    with Sampler(meters) as sampler:
        found = window(sampler, hint=hint)
        other = window(sampler, hint=hint)

    for one in (found, other):
        assert one.reasons == ()
        assert {e.meter: e.quality for e in one.energy} == {"fake": "L2", "sensor": "L2"}
        by_meter = {e.meter: e for e in one.energy}
        assert by_meter["fake"].power_w == pytest.approx(100, rel=0.1)
        assert by_meter["sensor"].power_w == pytest.approx(250)
        assert 0 < one.sampler_cpu_s < 0.4


def test_without_meters_there_is_no_thread_and_a_reason():
    before = threading.active_count()
    with Sampler([]) as sampler:
        sampler.begin(1.0)

        assert threading.active_count() == before
        assert sampler.idle(100.0) == {}
        found = sampler.end(0, 1)
    assert (found.energy, found.reasons, found.sampler_cpu_s) == ((), ("all: no_meter",), 0.0)


@pytest.mark.parametrize("code", ["shared_device", "not_supported", "meter_failed"])
def test_a_meter_that_fails_in_a_window_gives_its_code_and_no_other_meter_suffers(code: str):
    meters: list[Meter] = [FakeCounter(lambda _: 100.0, FAST, QUICK), FakePower(lambda _: 250.0, SENSOR, (0.2, code))]
    with Sampler(meters) as sampler:
        found = window(sampler)

    assert found.reasons == (f"sensor: {code}",)
    assert [one.meter for one in found.energy] == ["fake"]


class Surprising(FakePower):
    def read(self):
        raise ZeroDivisionError


def test_an_error_nobody_foresaw_is_a_failed_meter():
    with Sampler([Surprising(lambda _: 1.0, SENSOR)]) as sampler:
        found = window(sampler, 0.3)

    assert found.reasons == ("sensor: meter_failed",)


class Silent(FakePower):
    def read(self):
        return []


def test_a_meter_that_stays_silent_is_waited_for_so_long_and_no_longer(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sampling, "PATIENCE_S", 0.2)
    with Sampler([Silent(lambda _: 1.0, SENSOR)]) as sampler:
        start = time.perf_counter()
        found = window(sampler, 0.3)

    assert found.reasons == ("sensor: window_not_bracketed",)
    assert time.perf_counter() - start < 2


def test_an_error_before_a_window_does_not_spoil_it():
    class Once(FakePower):
        failed = False

        def read(self):
            if not self.failed:
                self.failed = True
                raise MeterError("meter_failed", "once")
            return super().read()

    with Sampler([Once(lambda _: 250.0, SENSOR)]) as sampler:
        time.sleep(0.15)
        found = window(sampler)

    assert found.reasons == ()
    assert found.energy[0].power_w == pytest.approx(250)


def test_two_meters_of_one_scope_that_differ_give_no_energy():
    one, other = SENSOR, SENSOR.model_copy(update={"id": "other"})
    with Sampler([FakePower(lambda _: 250.0, one), FakePower(lambda _: 200.0, other)]) as sampler:
        found = window(sampler, 0.3)

    assert found.energy == ()
    assert found.reasons == ("other: meters_disagree", "sensor: meters_disagree")


def test_idle_watts_are_measured_and_less_than_that_is_not_believed_later():
    watts = [300.0]
    with Sampler([FakePower(lambda _: watts[0], SENSOR), FakeCounter(lambda _: 80.0, FAST, QUICK)]) as sampler:
        idle = sampler.idle(0.4)
        watts[0] = 200.0
        found = window(sampler)

    assert idle == {"sensor": pytest.approx(300), "fake": pytest.approx(80, rel=0.1)}
    assert found.reasons == ("sensor: implausible_power",)


def test_the_limit_is_the_meters_own():
    meter = FakePower(lambda _: 300.0, SENSOR)
    meter.limit_w = 250.0
    with Sampler([meter]) as sampler:
        assert window(sampler, 0.3).reasons == ("sensor: implausible_power",)


def test_states_of_the_window_are_joined_and_codes_follow():
    meter = FakePower(lambda _: 300.0, SENSOR)
    meter.state_now = DeviceState(sm_mhz=(1500, 1500, 1500), temperature_c=(70, 70), throttled_power=0.2,
                                  throttled_thermal=0.0)  # fmt: skip
    with Sampler([meter]) as sampler:
        found = window(sampler, 0.4)

    assert found.device.sm_mhz == (1500, 1500, 1500)
    assert found.state_reasons == ("power_capped",)


def test_what_the_bench_knows_of_the_window_is_passed_on():
    with Sampler([FakeCounter(lambda _: 100.0, FAST, QUICK)]) as sampler:
        shared = window(sampler, 0.3, others_cpu=0.2)
        risky = window(sampler, 0.3, aliasing_risk=True)

    assert shared.reasons == ("fake: shared_host",)
    assert risky.energy[0].reasons == ("aliasing_risk",)


def test_a_clock_that_is_set_during_the_window_is_seen_and_one_that_is_slewed_is_not():
    start = Mark(0, 10**18)
    minute = 60 * 10**9
    slewed, stepped = Mark(minute, 10**18 + minute + 25_000_000), Mark(minute, 10**18 + minute + 10**9)

    assert not sampling._stepped(start, slewed)
    assert sampling._stepped(start, stepped)
    assert sampling._stepped(start, Mark(minute, 10**18 + minute - 10**9))


def test_the_trace_has_every_reading_and_meters_are_closed():
    meter = FakePower(lambda _: 250.0, SENSOR)
    with Sampler([meter, FakeCounter(lambda _: 100.0, FAST, QUICK)]) as sampler:
        found = window(sampler, 0.3)
        rows = sampler.rows()

    assert meter.closed
    assert {row["meter"] for row in rows} == {"fake", "sensor"}
    assert [row["t_ns"] for row in rows] == sorted(row["t_ns"] for row in rows)
    assert all(row["power_w"] == 250.0 for row in rows if row["meter"] == "sensor")
    assert sampler.rows(found.marks[1].perf_ns + 10**9) == []


def test_counters_are_read_fast_only_near_the_edges_of_a_window():
    meter = FakeCounter(lambda _: 100.0, FAST, QUICK)
    with Sampler([meter, FakePower(lambda _: 250.0, SENSOR)]) as sampler:
        sampler.begin(1.0)
        start = time.perf_counter_ns()
        time.sleep(1.0)
        end = time.perf_counter_ns()
        sampler.end(start, end)
        t = [(row["t_ns"] - start) / 1e9 for row in sampler.rows(start, end) if row["meter"] == "fake"]
        power = [row for row in sampler.rows(start, end) if row["meter"] == "sensor"]
    edges = [one for one in t if one < 0.15 or one > 0.85]
    middle = [one for one in t if 0.2 < one < 0.8]

    assert len(edges) > 2 * len(middle)
    assert 4 < len(middle) < 25
    assert len(power) < 20


def test_a_log_at_the_wall_is_read_and_waited_for(tmp_path: Path):
    from evalsuite.measure.meters import Setting, open_all

    log = tmp_path / "wall.csv"
    log.write_text(f"t_unix,power_w\n{time.time():.6f},500\n")
    stop = threading.Event()

    def logger() -> None:
        while not stop.wait(0.1):
            with log.open("a") as file:
                file.write(f"{time.time():.6f},500\n")

    thread = threading.Thread(target=logger)
    thread.start()
    options = {"wall": {"path": str(log), "model": "m", "accuracy": "0.1 %", "calibrated": True}}
    meters, absents = open_all(["wall"], Setting(configured=options))
    meters[0].info = meters[0].info.model_copy(update={"min_window_s": 0.3})
    with Sampler(meters) as sampler:
        time.sleep(0.2)
        found = window(sampler, 0.6)
    stop.set()
    thread.join()

    assert absents == []
    assert found.reasons == ()
    assert (found.energy[0].quality, found.energy[0].scope) == ("L4", "node_ac")
    assert found.energy[0].power_w == pytest.approx(500)
