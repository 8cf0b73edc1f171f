"""The A/B protocol: orders, voided turns, interruption, and what becomes of points that cannot run."""

import time
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalsuite.measure import host
from evalsuite.measure.loads import Load, Work
from evalsuite.measure.rounds import Beside, Rounds, Schedule, order
from evalsuite.measure.sampler import Sampler
from evalsuite.records import EnergyModel, Host, Window


class Steady:
    """A load that takes as long as it says and does so many tokens."""

    def __init__(self, tokens: int = 100, seconds: float = 0.001) -> None:
        self.tokens, self.seconds = tokens, seconds
        self.warmed = self.runs = 0

    def warm(self, seconds: float) -> None:
        self.warmed += 1

    def run(self, seconds: float) -> Work:
        self.runs += 1
        start = time.perf_counter_ns()
        time.sleep(self.seconds)
        return Work(start, time.perf_counter_ns(), 1, 0, self.tokens, 1)

    def close(self) -> None:
        """Nothing to let go of."""


def windows(
    loads: dict[str, Load], rounds: int = 3, stop: Callable[[], bool] = lambda: False, cores: int = 1
) -> list[Window]:
    with Sampler([]) as sampler:
        made = Rounds(Schedule(rounds, 0.001, 0.0), Beside(sampler), time.perf_counter(), stop)
        return list(made.run(loads, cores))


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "reasons", lambda seen, cores: ())


def test_the_orders_of_two_and_three_arms_are_the_published_lists():
    assert ["".join(order(("A", "B"), r)) for r in range(4)] == ["AB", "BA", "BA", "AB"]
    assert ["".join(order(tuple("ABC"), r)) for r in range(6)] == ["ABC", "BCA", "CAB", "CBA", "ACB", "BAC"]


@given(st.integers(1, 7))
def test_over_twice_as_many_rounds_as_arms_every_arm_has_every_place_twice(n: int):
    names = tuple("ABCDEFG"[:n])
    places = Counter((name, place) for r in range(2 * n) for place, name in enumerate(order(names, r)))

    assert set(places.values()) == {2}


@pytest.mark.usefixtures("quiet")
def test_every_arm_runs_once_a_round_in_the_order_of_the_list_after_warming_up():
    load = Steady()
    found = windows({"a": load, "a@aa": load, "b": Steady(7)}, rounds=4)

    assert [(w.round, w.position, w.arm) for w in found] == [
        (r, place, name) for r in range(4) for place, name in enumerate(order(("a", "a@aa", "b"), r))
    ]
    assert load.runs == load.warmed == 8
    assert {w.output_tokens for w in found if w.arm == "b"} == {7}
    assert all(w.duration_s >= 0.001 for w in found)
    assert [w.start_s for w in found] == sorted(w.start_s for w in found)


def test_a_turn_that_a_neighbour_spoiled_is_measured_again_at_most_twice_then_kept_and_marked(monkeypatch):
    spoiled = iter([("shared_host",), ("shared_host",), ("shared_host",), ("steal_time",), (), ()])
    monkeypatch.setattr(host, "reasons", lambda seen, cores: next(spoiled))
    found = windows({"a": Steady(), "b": Steady()}, rounds=1)

    assert [(w.arm, w.attempt, w.voided, w.reasons) for w in found] == [
        ("a", 0, True, ("shared_host",)), ("a", 1, True, ("shared_host",)), ("a", 2, False, ("shared_host",)),
        ("b", 0, True, ("steal_time",)), ("b", 1, False, ()),
    ]  # fmt: skip


@pytest.mark.usefixtures("quiet")
def test_told_to_stop_it_ends_before_the_next_turn():
    done: list[int] = []
    found = []
    with Sampler([]) as sampler:
        rounds = Rounds(Schedule(5, 0.001, 0.0), Beside(sampler), 0.0, lambda: len(done) >= 3)
        for window in rounds.run({"a": Steady(), "b": Steady()}, 1):
            done.append(1)
            found.append(window)

    assert len(found) == 3


@pytest.mark.usefixtures("quiet")
def test_without_a_meter_a_window_has_no_energy_and_a_reason_never_zero():
    (window,) = windows({"a": Steady()}, rounds=1)

    assert window.energy == ()
    assert window.energy_reasons == ("all: no_meter",)


@pytest.mark.parametrize(
    ("seen", "cores", "expected"),
    [
        (Host(steal=0.0, involuntary_switches_per_s=10.0, others_cpu=0.01), 2, ()),
        (Host(steal=0.02, involuntary_switches_per_s=10.0, others_cpu=0.01), 2, ("steal_time",)),
        (Host(steal=0.0, involuntary_switches_per_s=300.0, others_cpu=0.01), 2, ("preempted",)),
        (Host(steal=0.0, involuntary_switches_per_s=0.0, others_cpu=0.2), 2, ("shared_host",)),
        (Host(steal=None, involuntary_switches_per_s=None, others_cpu=None), 2, ()),
    ],
)
def test_what_voids_a_window(monkeypatch, seen: Host, cores: int, expected: tuple[str, ...]):
    monkeypatch.setattr(host.os, "cpu_count", lambda: 2)

    assert host.reasons(seen, cores) == expected


def test_others_may_use_processors_that_the_load_leaves_free(monkeypatch):
    monkeypatch.setattr(host.os, "cpu_count", lambda: 8)

    assert host.reasons(Host(steal=0.0, involuntary_switches_per_s=0.0, others_cpu=0.7), 2) == ()
    assert host.reasons(Host(steal=0.0, involuntary_switches_per_s=0.0, others_cpu=0.9), 2) == ("shared_host",)


def test_the_host_counts_what_this_process_uses(monkeypatch):
    before = host.snapshot()
    until = time.process_time() + 0.3
    while time.process_time() < until:
        sum(range(1000))
    seen = host.between(before, host.snapshot())

    assert seen.client_cpu is not None
    assert 0.2 < seen.client_cpu < 1.5
    assert (host.resident_bytes() or 0) > 10_000_000
    assert host.reset_peak()
    block = bytearray(60_000_000)
    assert (host.peak_bytes() or 0) >= len(block)


def test_a_system_without_proc_knows_nothing_and_says_none(monkeypatch, tmp_path):
    monkeypatch.setattr(host, "PROC", tmp_path)
    seen = host.between(host.snapshot(), host.snapshot())

    assert (seen.steal, seen.involuntary_switches_per_s, seen.others_cpu) == (None, None, None)
    assert host.resident_bytes() is None
    assert not host.reset_peak()


@pytest.mark.usefixtures("quiet")
def test_a_modelled_estimate_is_an_interval_beside_the_window_and_only_where_it_was_asked_for():
    def one(model: EnergyModel | None) -> Window:
        with Sampler([]) as sampler:
            rounds = Rounds(Schedule(1, 0.001, 0.0), Beside(sampler, model), 0.0, lambda: False)
            return next(iter(rounds.run({"a": Steady()}, 1)))

    assert one(None).energy_estimate is None
    found = one(EnergyModel(tdp_w=200, host_threads=1000))
    assert found.energy == ()
    assert found.energy_estimate.provenance == "modelled"
    assert 0 < found.energy_estimate.low_j < found.energy_estimate.high_j
    assert not found.energy_estimate.informative_for_ratios
    assert one(EnergyModel(tdp_w=200)).energy_estimate is None  # the host's threads are not known: nothing is guessed
