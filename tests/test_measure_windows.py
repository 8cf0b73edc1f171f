"""From readings to energy: two rules, their limits, and a code for everything that breaks them."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalsuite.measure import states, windows
from evalsuite.measure.meters import Reading
from evalsuite.measure.meters.fake import Behaviour, FakeCounter, fake_info
from evalsuite.measure.windows import Circumstances, NoEnergyError, energy, integral, ticks
from evalsuite.records import REASONS, DeviceState, Energy, MeterInfo

S = 10**9


def counter(
    load: Callable[[float], float], edges: tuple[float, float], how: Behaviour | None = None,
    until: float | None = None,
) -> tuple[list[Reading], FakeCounter]:  # fmt: skip
    """Readings of a fake counter as the sampler takes them: every 50 ms, every 3 ms near the edges, with jitter."""
    now = [0]
    meter = FakeCounter(load, how, clock=lambda: now[0])
    rng = np.random.default_rng(0)
    readings, t = [], 0.0
    while t < (until or edges[1] + 0.3):
        now[0] = round(t * S)
        readings += meter.read()
        near = min(abs(t - edge) for edge in edges) < 0.15
        t += (0.003 if near else 0.05) * rng.uniform(0.9, 1.1)
    return readings, meter


def sampled(times: list[float], watts: list[float], device: str = "fake-0") -> list[Reading]:
    return [Reading(device, round(t * S), power_w=w) for t, w in zip(times, watts, strict=True)]


POWER = fake_info(id="p", method="fake.power_integral", quality="L2", min_window_s=1.0)
COUNTER = fake_info(min_window_s=1.0)


def reason(
    info: MeterInfo, readings: list[Reading], edges: tuple[float, float], about: Circumstances | None = None
) -> str:
    with pytest.raises(NoEnergyError) as error:
        energy(info, readings, (round(edges[0] * S), round(edges[1] * S)), about)
    assert error.value.reason in REASONS
    return error.value.reason


@pytest.mark.parametrize("phase", [0.0, 0.013, 0.05, 0.097])
def test_tick_alignment_takes_the_counters_edge_error_away(phase: float):
    edges = (1.0 + phase, 6.0 + phase + 0.049)  # a window that is no multiple of a tick
    readings, _ = counter(lambda _: 400.0, edges)
    t, e = windows._series(readings, "energy_j")
    found = ticks(t, e, round(edges[0] * S), round(edges[1] * S))
    true = 400.0 * (edges[1] - edges[0])

    assert abs(found.energy_j / true - 1) < 1e-3
    assert abs(found.period_s - 0.1) < 0.005
    assert found.edge_j < 0.05 * true
    assert found.covered > 0.95


def test_reading_the_counter_at_the_edges_alone_is_off_by_more_than_that():
    errors = []
    for phase in np.arange(0, 0.1, 0.01):
        start, end = round((1 + phase) * S), round((6 + phase + 0.049) * S)
        readings, _ = counter(lambda _: 400.0, (start / S, end / S))
        before = {edge: [one for one in readings if one.t_ns <= edge] for edge in (start, end)}
        at = {edge: found[-1].energy_j for edge, found in before.items()}
        errors.append((at[end] - at[start]) / (400.0 * (end - start) / S) - 1)

    assert math.sqrt(np.mean(np.square(errors))) > 3e-3


def test_the_edges_uncertainty_grows_with_what_the_load_does_there():
    steady, _ = counter(lambda _: 400.0, (1.0, 6.0))
    falling, _ = counter(lambda t: 400.0 if t < 5.5 else 100.0, (1.0, 6.0))
    one, other = (ticks(*windows._series(r, "energy_j"), S, 6 * S) for r in (steady, falling))

    assert other.edge_j > one.edge_j
    assert other.edge_j == pytest.approx(2 * abs(100 - other.power_w) * other.period_s, rel=0.15)


def test_a_flat_load_is_seen_right_with_a_quarter_of_the_time_and_a_modulated_one_is_not():
    edges = (1.0, 6.0)
    square = lambda t: 650.0 if t % 0.1 < 0.05 else 150.0  # noqa: E731
    readings, _ = counter(square, edges)
    found = ticks(*windows._series(readings, "energy_j"), S, 6 * S)

    assert abs(found.power_w / 400 - 1) > 0.25  # why `aliasing_risk` exists
    assert states.aliasing_risk(busy=0.6, period_s=0.1)
    assert not states.aliasing_risk(busy=0.95, period_s=0.1)
    assert not states.aliasing_risk(busy=0.6, period_s=1.0)


@pytest.mark.parametrize(
    ("how", "code"),
    [(Behaviour(reset_at_s=3.0), "counter_reset"), (Behaviour(frozen_from_s=3.0), "counter_frozen"),
     (Behaviour(frozen_from_s=0.0), "counter_frozen")],
)  # fmt: skip
def test_a_counter_that_misbehaves_gives_a_code(how: Behaviour, code: str):
    readings, _ = counter(lambda _: 400.0, (1.0, 6.0), how)

    assert reason(COUNTER, readings, (1.0, 6.0)) == code


def test_a_board_needs_a_hundred_ticks_and_the_meters_shortest_window():
    readings, _ = counter(lambda _: 400.0, (1.0, 12.0))
    short, _ = counter(lambda _: 400.0, (1.0, 6.0))
    cpu = fake_info(scope="cpu_package", min_window_s=1.0)

    assert reason(COUNTER, short, (1.0, 6.0)) == "window_too_short"
    assert energy(cpu, short, (S, 6 * S)).power_w == pytest.approx(400, rel=1e-3)
    assert energy(COUNTER, readings, (S, 12 * S)).ticks >= 100
    assert reason(fake_info(min_window_s=20.0), readings, (1.0, 12.0)) == "window_too_short"
    assert energy(fake_info(min_window_s=20.0), readings, (S, 6 * S), Circumstances(minimum=False)).energy_j > 0


def test_few_ticks_that_do_not_cover_the_window_are_too_few():
    slow, _ = counter(lambda _: 400.0, (1.0, 12.0), Behaviour(tick_s=1.1))

    assert reason(fake_info(scope="cpu_package", min_window_s=1.0), slow, (1.0, 12.0)) == "window_too_short"


def test_counter_and_integral_check_each_other():
    agree, _ = counter(lambda _: 400.0, (1.0, 12.0), Behaviour(power="true", gain=0.97))
    differ, _ = counter(lambda _: 400.0, (1.0, 12.0), Behaviour(power="true", gain=0.55))
    alone, _ = counter(lambda _: 400.0, (1.0, 12.0))
    nan, _ = counter(lambda _: 400.0, (1.0, 12.0), Behaviour(power="nan"))
    found = [energy(COUNTER, readings, (S, 12 * S)) for readings in (agree, differ, alone, nan)]

    assert [one.quality for one in found] == ["L3", "L2", "L2", "L2"]
    assert [one.reasons for one in found] == [(), ("accumulator_mismatch",), (), ()]
    assert found[0].crosscheck_rel == pytest.approx(0.03 / 0.97, abs=2e-3)
    assert found[1].energy_j == pytest.approx(0.55 * 400 * 11, rel=2e-3)
    assert found[2].crosscheck_rel is found[3].crosscheck_rel is None


def test_constant_power_of_identical_samples_is_power_times_time():
    found = energy(POWER, sampled([i / 10 for i in range(121)], [300.0] * 121), (S, 11 * S))

    assert found.energy_j == pytest.approx(3000)  # Zeus, which drops repeated values, says 0
    assert found.quality == "L2"


@given(watts=st.floats(0.1, 1e4), start=st.floats(0.0, 5.0), seconds=st.floats(0.5, 50.0), period=st.floats(0.01, 0.9))
def test_constant_power_integrates_exactly_at_any_window_and_rate(watts, start, seconds, period):
    times = np.arange(0, start + seconds + 2 * period, period)
    base = 10**18  # a machine that has run for thirty years
    t = base + np.round(times * S).astype(np.int64)
    edges = base + round(start * S), base + round((start + seconds) * S)
    found = integral(t, np.full(len(t), watts), *edges)

    assert found.energy_j == pytest.approx(watts * (edges[1] - edges[0]) / S, rel=1e-9)


@settings(max_examples=60)
@given(st.lists(st.floats(1, 1000), min_size=30, max_size=60), st.floats(0.3, 2.5))
def test_the_energy_of_two_halves_is_that_of_the_whole(watts, middle):
    t = np.arange(len(watts), dtype=np.int64) * S // 10
    a, b, c = round(0.05 * S), round(middle * S), round(2.85 * S)
    whole, first, second = (integral(t, np.array(watts), *edges).energy_j for edges in ((a, c), (a, b), (b, c)))

    assert first + second == pytest.approx(whole, rel=1e-9)


@given(st.permutations(["a", "b", "c"]))
def test_the_order_of_devices_changes_nothing(order):
    watts = {"a": 1e-9, "b": 0.7, "c": 59999.1}
    times = [i / 10 for i in range(40)]
    readings = [one for name in order for one in sampled(times, [watts[name]] * 40, name)]
    found = energy(POWER.model_copy(update={"devices": tuple(order)}), readings, (S, 3 * S))
    expected = energy(POWER.model_copy(update={"devices": tuple("abc")}), sorted(readings, key=lambda r: r.device),
                      (S, 3 * S))  # fmt: skip

    assert found.energy_j == expected.energy_j
    assert found.by_device_j == pytest.approx({name: 2 * one for name, one in watts.items()})


def test_edges_between_two_samples_are_interpolated():
    t, p = np.array([0, S, 2 * S, 3 * S]), np.array([0.0, 100.0, 200.0, 300.0])

    assert integral(t, p, S // 2, 5 * S // 2).energy_j == pytest.approx((50 + 250) / 2 * 2)


def test_samples_of_one_moment_are_averaged():
    t, p = np.array([0, S, S, 2 * S]), np.array([100.0, 50.0, 150.0, 100.0])

    assert integral(t, p, 0, 2 * S).energy_j == pytest.approx(200)


@pytest.mark.parametrize("times", [[1.5, 2.0, 5.0], [0.5, 2.0, 3.5], [], [0.5]])
def test_a_window_that_no_sample_precedes_or_follows_has_no_energy(times: list[float]):
    assert reason(POWER, sampled(times, [300.0] * len(times)), (1.0, 4.0)) == "window_not_bracketed"


def test_the_same_holds_for_counters():
    readings, _ = counter(lambda _: 400.0, (1.0, 12.0), until=11.9)
    late = [one for one in readings if one.t_ns > 2 * S]

    assert reason(COUNTER, readings, (1.0, 12.0)) == "window_not_bracketed"
    assert reason(COUNTER, late, (1.0, 11.5)) == "window_not_bracketed"


def test_a_gap_between_samples_is_refused_by_three_seconds_or_ten_periods():
    dense = [i / 10 for i in range(40)]
    hole = [t for t in np.arange(0, 12, 0.1) if not 4.05 < t < 7.5]
    slow = list(np.arange(0, 40, 1.0))
    slow_hole = [t for t in slow if not 10 < t < 19]

    assert energy(POWER, sampled(dense, [300.0] * 40), (S, 3 * S)).energy_j == pytest.approx(600)
    assert reason(POWER, sampled(hole, [300.0] * len(hole)), (1.0, 11.0)) == "sampling_gap"
    assert energy(POWER, sampled(slow_hole, [300.0] * len(slow_hole)), (S, 38 * S)).quality == "L1"
    assert energy(POWER, sampled(slow, [300.0] * len(slow)), (S, 38 * S)).quality == "L1"


def test_a_counter_nobody_looked_at_is_a_gap_and_not_frozen():
    readings, _ = counter(lambda _: 400.0, (1.0, 12.0))

    assert reason(COUNTER, [r for r in readings if not 4 < r.t_ns / S < 6.5], (1.0, 12.0)) == "sampling_gap"


def test_missing_values_are_no_samples_and_never_zero():
    times = [i / 10 for i in range(60)]
    holes = [float("nan") if 20 < i < 24 else 300.0 for i in range(60)]
    none = [Reading(r.device, r.t_ns, power_w=None if 20 < i < 24 else 300.0) for i, r in
            enumerate(sampled(times, [300.0] * 60))]  # fmt: skip

    assert energy(POWER, sampled(times, holes), (S, 5 * S)).energy_j == pytest.approx(1200)
    assert energy(POWER, none, (S, 5 * S)).energy_j == pytest.approx(1200)
    assert reason(POWER, sampled(times, [float("nan")] * 60), (1.0, 5.0)) == "not_supported"
    assert reason(POWER, sampled(times, [math.inf] * 60), (1.0, 5.0)) == "not_supported"


def test_a_device_that_says_nothing_takes_the_whole_meters_number_away():
    info = POWER.model_copy(update={"devices": ("fake-0", "fake-1")})
    times = [i / 10 for i in range(60)]

    assert reason(info, sampled(times, [300.0] * 60), (1.0, 5.0)) == "window_not_bracketed"


@pytest.mark.parametrize("about", [Circumstances(limit_w=250.0), Circumstances(idle_w=350.0)])
def test_power_beyond_the_limit_or_below_idle_is_not_believed(about: Circumstances):
    readings = sampled([i / 10 for i in range(60)], [300.0] * 60)

    assert reason(POWER, readings, (1.0, 5.0), about) == "implausible_power"
    assert energy(POWER, readings, (S, 5 * S), Circumstances(idle_w=310.0, limit_w=280.0)).power_w == pytest.approx(300)


def test_zero_watts_are_not_a_measurement():
    readings = sampled([i / 10 for i in range(60)], [0.0] * 60)

    assert reason(POWER, readings, (1.0, 5.0)) == "implausible_power"


def test_what_others_did_takes_machine_wide_numbers_away_and_no_boards():
    readings = sampled([i / 10 for i in range(60)], [300.0] * 60)
    cpu = POWER.model_copy(update={"scope": "cpu_package"})

    assert reason(cpu, readings, (1.0, 5.0), Circumstances(others_cpu=0.06)) == "shared_host"
    assert energy(cpu, readings, (S, 5 * S), Circumstances(others_cpu=0.04)).energy_j > 0
    assert energy(POWER, readings, (S, 5 * S), Circumstances(others_cpu=0.5)).energy_j > 0


def test_a_set_clock_takes_the_number_of_wall_clock_meters_away_and_no_others():
    readings = sampled([i / 10 for i in range(60)], [300.0] * 60)
    wall = POWER.model_copy(update={"scope": "node_ac", "method": "external.ac_meter", "quality": "L4"})

    assert reason(wall, readings, (1.0, 5.0), Circumstances(clock_step=True)) == "clock_step"
    assert energy(wall, readings, (S, 5 * S)).quality == "L4"
    assert energy(POWER, readings, (S, 5 * S), Circumstances(clock_step=True)).energy_j > 0


def test_warnings_stay_beside_the_number():
    readings = sampled([i / 10 for i in range(60)], [300.0] * 60)
    module = POWER.model_copy(update={"scope": "gpu_module"})

    found = energy(module, readings, (S, 5 * S), Circumstances(aliasing=True))

    assert found.reasons == ("module_scope", "aliasing_risk")


def test_two_meters_of_one_scope_that_differ_take_each_other_away():
    def one(meter: str, joules: float, scope: str = "gpu_board") -> Energy:
        return Energy(meter=meter, scope=scope, method="m", quality="L2", energy_j=joules, power_w=1, by_device_j={})

    assert windows.disagreeing([one("a", 100), one("b", 104)]) == set()
    assert windows.disagreeing([one("a", 100), one("b", 106)]) == {"a", "b"}
    assert windows.disagreeing([one("a", 100), one("b", 200, "dram")]) == set()


def test_a_windows_state_is_the_spread_of_its_moments():
    def moment(mhz: float, warm: float, heat: float | None, power: float | None) -> DeviceState:
        return DeviceState(sm_mhz=(mhz,) * 3, temperature_c=(warm,) * 2, throttled_thermal=heat, throttled_power=power)

    moments = [moment(1000, 50, 0.0, 0.5), moment(1900, 60, 0.1, 0.5), moment(1800, 58, None, None)]
    found = states.over_window(moments)

    assert (found.sm_mhz, found.temperature_c) == ((1000, 1800, 1900), (50, 58))
    assert found.throttled_thermal == pytest.approx(0.05)
    assert states.reasons(found) == ("thermal_throttle", "power_capped")
    assert states.over_window([]) is None
    assert states.reasons(None) == ()
