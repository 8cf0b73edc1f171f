"""Ratios of paired rounds: they cover what they claim, stand what drifts, and refuse what cannot be compared.

`bench_of` builds a bench document for the tests of its other readers too.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalsuite.errors import NotComparableError
from evalsuite.judge import judge_bench
from evalsuite.judge.configs import best_ratio, scalings, sweeps
from evalsuite.judge.effects import apart, bca, effect, moved
from evalsuite.judge.rounds import SPEED, Quantity, ratio
from evalsuite.records import (
    REASONS,
    Arm,
    Bench,
    BenchSpec,
    DeviceState,
    Energy,
    Host,
    Measurement,
    MeterAbsent,
    ModelRef,
    Recipe,
    Roofline,
    Window,
    Workload,
)

MODEL = ModelRef(id="reference")
ARMS = ("bf16", "fp8")
NULL = "bf16@null"
DECODE = Workload(preset="cpu-std", runner="static", phase="decode", batch=4, input_tokens=128, output_tokens=32,
                  depth=512)  # fmt: skip
REPLAY = Workload(preset="replay", runner="replay", phase="whole", batch=8, input_tokens=60, output_tokens=40)
JOULES = Quantity("j_per_token", "nvml")
HOST = Host(steal=0.0, involuntary_switches_per_s=1.0, others_cpu=0.0)


def energy(joules, **changes):
    fields = {"meter": "nvml", "scope": "gpu_board", "method": "nvml.total_energy_counter", "quality": "L3",
              "energy_j": joules, "power_w": joules / 10, "by_device_j": {"0": joules}}  # fmt: skip
    return Energy(**{**fields, **changes})


def window(arm, number, speed, joules=None, **changes):
    """Ten seconds at so many tokens a second; `joules` a token."""
    tokens = round(1000 * speed)
    fields = {"round": number, "position": 0, "attempt": 0, "arm": arm, "start_s": 10.0 * number,
              "duration_s": tokens / speed, "iterations": 10, "input_tokens": tokens, "output_tokens": tokens,
              "requests": 4, "host": HOST, "energy": () if joules is None else (energy(joules * tokens),)}  # fmt: skip
    return Window(**{**fields, **changes})


def measured(arm, speeds, joules=None, workload=DECODE, **changes):
    joules = [None] * len(speeds) if joules is None else joules
    windows = tuple(window(arm, i, s, j) for i, (s, j) in enumerate(zip(speeds, joules, strict=True)))
    fields = {"row_id": f"{workload.key}.{arm}", "arm": arm, "workload": workload, "execution": "native",
              "realised": None, "speed_valid": True, "windows": windows}  # fmt: skip
    return Measurement(**{**fields, **changes})


def emulated(arm="fp8", workload=DECODE):
    return measured(arm, [], workload=workload, execution="emulated", speed_valid=False)


def bench_of(*rows, arms=ARMS, absent=(), **changes):
    spec = {"suite": "test", "model": MODEL, "baseline": "bf16", "null_arm": NULL, "engine": "local",
            "arms": tuple(Arm(id=a, model=MODEL, recipe=Recipe(id=a, label=a)) for a in arms),
            "presets": ("cpu-std",), "rounds": 6, "window_s": 10.0, "warm_s": 2.0}  # fmt: skip
    return Bench(bench_id="b1", created="2026-01-01T00:00:00Z", status="done", spec=BenchSpec(**{**spec, **changes}),
                 machine={}, software={}, measurements=rows, absent=absent)  # fmt: skip


def steady(factor=1.0, n=6, noise=0.001, seed=0):
    rng = np.random.default_rng(seed)
    return list(100 * factor * np.exp(noise * rng.standard_normal(n)))


def three(candidate=1.07, n=6, **changes):
    """Baseline, null arm, candidate."""
    return (measured("bf16", steady(seed=1, n=n)), measured(NULL, steady(seed=2, n=n)),
            measured("fp8", steady(candidate, seed=3, n=n), **changes))  # fmt: skip


def test_a_hand_computed_ratio():
    base, cand = [100.0, 100.0, 100.0], [105.0, 107.0, 112.0]
    made = ratio(bench_of(measured("bf16", base), measured(NULL, base), measured("fp8", cand)), DECODE, "fp8")
    y = np.log([1.05, 1.07, 1.12])
    half = 4.302652729911275 * y.std(ddof=1) / math.sqrt(3)  # Student's t with 2 degrees of freedom, 97.5 %

    assert made.value == pytest.approx(1.07, rel=1e-9)
    assert made.ci95 == pytest.approx((math.exp(y.mean() - half), math.exp(y.mean() + half)), rel=1e-9)
    assert made.n == 3
    assert made.aa_halfwidth == pytest.approx(0.0, abs=1e-9)
    assert not made.resolved  # [1.00, 1.17]


def test_a_clear_change_is_said_with_its_interval_and_its_limit():
    roof = Roofline(peaks="table", limit_tokens_per_s=400.0, bound="memory", bytes_per_step=1, flops_per_step=1,
                    fraction=0.27, limit_ratio=1.125)  # fmt: skip
    made = ratio(bench_of(*three(rooflines=(roof,))), DECODE, "fp8")

    assert made.resolved
    assert made.sentence == ("fp8 decodes 1.07 times as fast as bf16 [1.07, 1.07] (95 %, cpu-std.decode.b4.d512); at "
                             "most 1.12 is possible at the same share of the limit.")  # fmt: skip


@pytest.mark.parametrize(("change", "noise"), [(1.005, 0.0001), (1.02, 0.03)])
def test_a_change_below_one_percent_or_below_the_noise_is_not_resolved(change: float, noise: float):
    rows = [measured(arm, steady(f, noise=noise, seed=i, n=6)) for i, (arm, f) in
            enumerate([("bf16", 1.0), (NULL, 1.0), ("fp8", change)])]  # fmt: skip
    made = ratio(bench_of(*rows), DECODE, "fp8")

    assert not made.resolved
    assert "no difference resolved (± " in made.sentence


def test_a_change_smaller_than_the_null_arms_interval_is_not_resolved():
    base, null = [100.0] * 6, [97.0, 103.0, 96.0, 104.0, 95.0, 105.0]
    made = ratio(bench_of(measured("bf16", base), measured(NULL, null), measured("fp8", [102.0] * 6)), DECODE, "fp8")

    assert made.ci95 == pytest.approx((1.02, 1.02))
    assert made.aa_halfwidth > 0.02
    assert not made.resolved


def test_without_the_null_arm_nothing_is_resolved():
    base, _, cand = three()
    made = ratio(bench_of(base, cand), DECODE, "fp8")

    assert made.value is not None
    assert made.aa_halfwidth is None
    assert not made.resolved
    assert "null arm" in made.sentence


def test_a_baseline_that_differs_from_itself_takes_the_ratio_away_and_stays_in_sight():
    base, _, cand = three()
    bench = bench_of(base, measured(NULL, steady(1.03, seed=5)), cand)
    made, null = ratio(bench, DECODE, "fp8"), ratio(bench, DECODE, NULL)

    assert made.value is None
    assert "aa_failed" in made.reasons
    assert null.value == pytest.approx(1.03, abs=0.005)
    assert "measure again" in null.sentence


def test_emulated_arms_and_those_that_were_not_reached_have_a_reason_and_no_number():
    base, null, _ = three()
    made = ratio(bench_of(base, null, emulated()), DECODE, "fp8")
    gone = ratio(bench_of(base, null), DECODE, "fp8")

    assert (made.value, made.reasons) == (None, ("emulated_speed",))
    assert (gone.value, gone.reasons) == (None, ("interrupted",))
    assert REASONS["emulated_speed"] in made.sentence


@pytest.mark.parametrize("code", ["counter_reset", "endpoint_failed", "clock_step"])
def test_a_hard_reason_in_any_window_that_counts_takes_the_number_away(code: str):
    base, null, cand = three()
    spoiled = cand.model_copy(update={"windows": (*cand.windows[:-1], cand.windows[-1].model_copy(
        update={"reasons": (code,)}))})  # fmt: skip
    made = ratio(bench_of(base, null, spoiled), DECODE, "fp8")

    assert made.value is None
    assert code in made.reasons


def test_a_warning_stays_beside_the_number():
    base, null, cand = three(reasons=("power_capped",))
    made = ratio(bench_of(base, null, cand), DECODE, "fp8")

    assert made.value is not None
    assert made.reasons == ("power_capped",)


def test_voided_windows_count_for_nothing_and_are_counted():
    base, null, cand = three()
    bad = window("fp8", 2, 1.0, voided=True, reasons=("steal_time",))
    with_bad = cand.model_copy(update={"windows": (*cand.windows[:2], bad, *cand.windows[2:])})
    clean, made = (ratio(bench_of(base, null, row), DECODE, "fp8") for row in (cand, with_bad))

    assert (made.value, made.ci95, made.reasons) == (clean.value, clean.ci95, ())
    assert (clean.voided, made.voided) == (0, 1)


@given(st.lists(st.floats(-0.2, 0.2), min_size=2, max_size=9), st.floats(0.01, 100), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_swapped_arms_give_the_reciprocal_and_scale_and_order_of_rounds_do_not_matter(y, scale, random):
    rng = np.random.default_rng(len(y))
    base = 100 * np.exp(0.01 * rng.standard_normal(len(y)))
    cand = base * np.exp(y)

    def made(one, two):
        return ratio(bench_of(measured("bf16", list(one)), measured("fp8", list(two))), DECODE, "fp8")

    plain, swapped = made(base, cand), made(cand, base)
    order = random.sample(range(len(y)), len(y))

    assert swapped.value == pytest.approx(1 / plain.value, rel=1e-9)
    assert swapped.ci95 == pytest.approx((1 / plain.ci95[1], 1 / plain.ci95[0]), rel=1e-9)
    for other in (made(scale * base, scale * cand), made(base[order], cand[order])):
        assert other.value == pytest.approx(plain.value, rel=1e-9)
        assert other.ci95 == pytest.approx(plain.ci95, rel=1e-9)
    assert plain.ci95[0] <= plain.value <= plain.ci95[1]


@pytest.mark.parametrize("n", [3, 6, 10])
def test_the_interval_covers_the_truth_as_often_as_it_says(n: int):
    y = 0.01 * np.random.default_rng(n).standard_normal((2000, n))
    found = effect(y)
    covered = float(((found.low <= 0) & (found.high >= 0)).mean())

    assert 0.93 <= covered <= 0.97


def test_half_width_is_that_of_the_specification():
    """1 % of scatter: 1.05 % at six rounds, 0.72 % at ten."""
    for n, expected in ((6, 0.0105), (10, 0.0072)):
        y = np.random.default_rng(0).standard_normal((4000, n))
        y = 0.01 * (y - y.mean(axis=1, keepdims=True)) / y.std(axis=1, ddof=1, keepdims=True)

        assert effect(y).half[0] == pytest.approx(expected, rel=0.01)


def drifting(total, noise, sims, rounds, seed):
    """Speeds of two arms of true ratio 1 under a linear drift: interleaved AB BA ..., and all A before all B."""
    rng = np.random.default_rng(seed)
    place = np.arange(2 * rounds) / (2 * rounds) * total
    scatter = noise * rng.standard_normal((sims, 2 * rounds))
    y = place + scatter
    pairs = y.reshape(sims, rounds, 2)
    swapped = np.where(np.arange(rounds)[:, None] % 2 == 0, [0, 1], [1, 0])
    inter = np.take_along_axis(pairs, np.broadcast_to(swapped, pairs.shape), 2)
    return inter[..., 1] - inter[..., 0], y[:, rounds:] - y[:, :rounds]


def test_interleaved_rounds_are_unbiased_under_drift_and_sequential_ones_are_not():
    interleaved, sequential = (effect(y) for y in drifting(0.10, 0.01, 2000, 6, 0))

    assert abs(interleaved.value.mean()) < 0.001
    assert ((interleaved.low <= 0) & (interleaved.high >= 0)).mean() >= 0.93
    assert sequential.value.mean() == pytest.approx(0.05, abs=0.002)
    assert ((sequential.low <= 0) & (sequential.high >= 0)).mean() < 0.05


def test_drift_is_seen_and_is_a_warning():
    fall = list(100 * np.exp(-0.01 * np.arange(6)))
    made = ratio(bench_of(*(measured(arm, fall) for arm in ("bf16", NULL, "fp8"))), DECODE, "fp8")

    assert made.value == pytest.approx(1.0)
    assert made.drift == pytest.approx(math.expm1(-0.06))
    assert made.reasons == ("drift",)
    assert moved(np.array([0, 1]), np.array([0.0, 0.1])) is None


def test_the_bootstrap_stands_beside_the_t_interval_from_ten_rounds_on():
    assert ratio(bench_of(*three(n=9)), DECODE, "fp8").bca95 is None

    made = ratio(bench_of(*three(n=10)), DECODE, "fp8")

    assert made.bca95 == pytest.approx(made.ci95, rel=0.001)
    assert bca(np.full(10, 0.5)) == (0.5, 0.5)


def test_clocks_are_taken_out_as_a_diagnostic_only():
    def clocked(row, mhz):
        state = DeviceState(sm_mhz=(mhz - 10, mhz, mhz + 10))
        return row.model_copy(update={"windows": tuple(w.model_copy(update={"device": state}) for w in row.windows)})

    base, null, cand = three(1.10)
    made = ratio(bench_of(clocked(base, 1000), null, clocked(cand, 1100)), DECODE, "fp8")

    assert made.value == pytest.approx(1.10, abs=0.005)
    assert made.clock_normalised == pytest.approx(made.value / 1.1)
    assert made.reasons == ("clock_variation",)


@pytest.mark.parametrize(("peaks", "fraction", "kept"), [
    ("table", 1.0, True), ("table", 1.01, False), ("measured", 1.09, True), ("measured", 1.11, False),
])  # fmt: skip
def test_what_is_faster_than_physics_allows_is_no_number(peaks, fraction, kept):
    roof = Roofline(peaks=peaks, limit_tokens_per_s=100.0, bound="memory", bytes_per_step=1, flops_per_step=1,
                    fraction=fraction)  # fmt: skip
    made = ratio(bench_of(*three(rooflines=(roof,))), DECODE, "fp8")

    assert (made.value is not None) == kept
    assert ("above_physical_limit" in made.reasons) == (not kept)


def test_a_gain_beyond_the_ratio_of_the_limits_is_pointed_out():
    roof = Roofline(peaks="measured", limit_tokens_per_s=400.0, bound="memory", bytes_per_step=1, flops_per_step=1,
                    limit_ratio=1.05)  # fmt: skip
    made = ratio(bench_of(*three(1.2, rooflines=(roof,))), DECODE, "fp8")

    assert made.resolved
    assert made.reasons == ("above_limit_ratio",)


def metered(*costs, arms=("bf16", NULL, "fp8"), **changes):
    rows = []
    for i, (arm, cost) in enumerate(zip(arms, costs, strict=True)):
        row = measured(arm, steady(seed=i), [0.5 * c * cost / 100 for c in steady(seed=9 + i)])
        rows.append(row)
    if changes:
        other = tuple(w.model_copy(update={"energy": tuple(e.model_copy(update=changes) for e in w.energy)})
                      for w in rows[-1].windows)  # fmt: skip
        rows[-1] = rows[-1].model_copy(update={"windows": other})
    return rows


def test_joules_of_one_meter_are_compared():
    made = ratio(bench_of(*metered(1.0, 1.0, 0.9)), DECODE, "fp8", JOULES)

    assert made.value == pytest.approx(0.9, abs=0.005)
    assert (made.meter, made.scope, made.quality, made.resolved) == ("nvml", "gpu_board", "L3", True)
    assert made.sentence.startswith("fp8 uses 0.90 times the energy a token of bf16 [")


@pytest.mark.parametrize(
    "changes", [{"scope": "node_ac"}, {"quality": "L2"}, {"method": "nvml.power_instant_integral"}]
)
def test_joules_of_different_scope_quality_or_method_are_refused(changes):
    bench = bench_of(*metered(1.0, 1.0, 0.9, **changes))
    with pytest.raises(NotComparableError, match="not compared"):
        ratio(bench, DECODE, "fp8", JOULES)

    made = [r for r in judge_bench(bench).ratios if r.quantity == "j_per_token" and r.arm == "fp8"]

    assert [(r.value, r.reasons) for r in made] == [(None, ("not_comparable",))]


def test_a_window_without_joules_takes_the_ratio_of_joules_away_and_not_that_of_speed():
    base, null, cand = metered(1.0, 1.0, 0.9)
    lost = cand.windows[0].model_copy(update={"energy": (), "energy_reasons": ("nvml: window_too_short",)})
    bench = bench_of(base, null, cand.model_copy(update={"windows": (lost, *cand.windows[1:])}))

    joules = ratio(bench, DECODE, "fp8", JOULES)

    assert ratio(bench, DECODE, "fp8").value is not None
    assert (joules.value, joules.reasons) == (None, ("window_too_short",))


def test_synthetic_weights_have_a_speed_and_no_joules():
    rows = [row.model_copy(update={"synthetic_weights": True}) for row in metered(1.0, 1.0, 0.9)]

    assert ratio(bench_of(*rows), DECODE, "fp8").reasons == ("dummy_weights",)
    assert ratio(bench_of(*rows), DECODE, "fp8").value is not None
    assert ratio(bench_of(*rows), DECODE, "fp8", JOULES).value is None


def test_without_a_meter_the_reason_stands_in_place_of_joules():
    absent = MeterAbsent(id="rapl", reason="rapl_absent_vm", detail="a virtual machine")
    judged = judge_bench(bench_of(*three(), absent=(absent,)))
    joules = [r for r in judged.ratios if r.quantity == "j_per_token"]

    assert {(r.value, r.reasons) for r in joules} == {(None, ("rapl_absent_vm",))}
    assert all(not p.j_per_token and p.energy_reasons == ("rapl_absent_vm",) for p in judged.points)
    assert judged.reasons == ("rapl_absent_vm",)


def test_documents_with_energy_of_zero_or_an_estimate_in_its_place_are_refused():
    """JSON of a bench: no meter is no energy, never 0, and a modelled value never stands in a measured one's field."""
    row = metered(1.0, 1.0, 0.9)[0]
    good = bench_of(row).model_dump(mode="json")
    window_ = good["measurements"][0]["windows"][0]

    assert Bench.model_validate(good).measurements[0].windows[0].energy[0].energy_j > 0
    estimate = {"provenance": "modelled", "method": "model.tdp_linear", "low_j": 1.0, "high_j": 2.0, "inputs": {},
                "assumption": "linear", "informative_for_ratios": False}  # fmt: skip
    first = window_["energy"][0]
    for wrong in ({**first, "energy_j": 0.0}, estimate, {**first, "provenance": "modelled"}):
        window_["energy"] = [wrong]
        with pytest.raises(ValueError, match="validation error"):
            Bench.model_validate(good)
    window_["energy"], window_["energy_estimate"] = [], {**estimate, "informative_for_ratios": True}
    with pytest.raises(ValueError, match="informative_for_ratios"):
        Bench.model_validate(good)
    schema = Bench.model_json_schema()["$defs"]["Energy"]

    assert schema["properties"]["energy_j"]["exclusiveMinimum"] == 0
    assert schema["properties"]["provenance"]["const"] == "measured"
    assert schema["additionalProperties"] is False
    assert "energy_j" in schema["required"]


def swept(speeds):
    """{(arm, batch): factor} -> a bench with one point a batch."""
    rows = [measured(arm, steady(f, seed=i), workload=DECODE.model_copy(update={"batch": batch}))
            for i, ((arm, batch), f) in enumerate(speeds.items())]  # fmt: skip
    return bench_of(*rows)


def test_best_batches_are_compared_beside_equal_ones_and_may_disagree():
    """At equal batch the candidate is slower; only it fits the larger batch, and there it wins."""
    bench = swept({("bf16", 8): 1.0, (NULL, 8): 1.0, ("fp8", 8): 0.9, ("fp8", 32): 2.0})
    judged = judge_bench(bench)
    iso = next(r for r in judged.ratios if r.arm == "fp8" and r.workload.batch == 8 and r.quantity == "tokens_per_s")
    best = next(r for r in judged.ratios if r.workload.comparison == "best_config" and r.quantity == "tokens_per_s")

    assert iso.value == pytest.approx(0.9, abs=0.01)
    assert best.value == pytest.approx(2.0, abs=0.01)
    assert (best.workload.batch, best.baseline_workload.batch) == (32, 8)
    assert iso.resolved
    assert best.resolved
    assert "at its best batch" in best.sentence


def test_best_at_the_same_batch_is_the_paired_ratio():
    arms = {"bf16": 1.0, NULL: 1.0, "fp8": 1.2}
    bench = swept({(arm, batch): f * batch for arm, f in arms.items() for batch in (1, 4)})
    best = best_ratio(bench, sweeps(bench)[0], "fp8", SPEED)

    assert best.value == ratio(bench, best.workload.model_copy(update={"comparison": "iso_config"}), "fp8").value
    assert best.workload.batch == 4


def test_unpaired_points_have_welchs_interval():
    one, two = np.log([100.0, 101.0, 99.0, 100.5]), np.log([120.0, 118.0, 123.0])
    found = apart(one, two)
    va, vb = one.var(ddof=1) / 4, two.var(ddof=1) / 3
    df = (va + vb) ** 2 / (va**2 / 3 + vb**2 / 2)
    from scipy.stats import t

    assert found.half == pytest.approx(t.ppf(0.975, df) * math.sqrt(va + vb))


def test_scaling_says_where_adding_devices_stops_paying():
    rows = [measured("bf16", steady(f, seed=n), workload=DECODE.model_copy(update={"devices": n}), communication=c)
            for n, f, c in ((1, 1.0, None), (2, 1.9, 0.05), (4, 3.4, 0.12), (8, 3.9, 0.4))]  # fmt: skip
    made = scalings(bench_of(*rows))[0]

    assert [step.devices for step in made.steps] == [1, 2, 4, 8]
    assert [step.efficiency.value for step in made.steps] == pytest.approx([1, 0.95, 0.85, 0.4875], rel=0.01)
    assert [step.pays for step in made.steps] == [None, True, True, False]
    assert made.steps[2].gain.value == pytest.approx(3.4 / 1.9 - 1, rel=0.01)
    assert (made.stops_at, made.steps[3].communication) == (8, 0.4)
    assert "beyond 4 it does not pay" in made.sentence
    assert scalings(bench_of(rows[0])) == ()


def test_scaling_that_noise_hides_is_left_open():
    rows = [measured("bf16", steady(f, seed=n, noise=0.2), workload=DECODE.model_copy(update={"devices": n}))
            for n, f in ((1, 1.0), (2, 1.5))]  # fmt: skip
    made = scalings(bench_of(*rows))[0]

    assert made.steps[1].pays is None
    assert made.stops_at is None
    assert "not resolved" in made.sentence


def test_the_same_document_gives_the_same_judgement_in_strict_json():
    bench = bench_of(*metered(1.0, 1.0, 0.9))
    one, two = judge_bench(bench), judge_bench(Bench.model_validate_json(bench.model_dump_json()))

    assert one == two
    assert one.digest() == two.digest()  # canonical JSON without NaN or infinity
