"""Charts of benches: points where there are numbers, rows with reasons where there are none, and nothing mixed."""

import json
import math
import re

import pytest
from test_judge_rounds import DECODE
from test_publish_bench_sample import (
    document,
    emulated,
    estimated,
    judged,
    metered,
    native,
    renamed,
    roofline,
    rows,
    scaled,
    two_meters,
)

from evalsuite.publish import cost_figures, energy, speed_figures, throughput
from evalsuite.publish.canvas import Figure, Scale, scale, ticks
from evalsuite.publish.costs import costs, facets
from evalsuite.records import BenchSpec


@pytest.fixture(scope="module")
def made():
    return judged(metered(), answers=True)


def traces(figure: Figure) -> dict[str, Figure]:
    return {trace["name"]: trace for trace in figure["data"]}


def gutter(figure: Figure) -> list[str]:
    return [note["text"] for note in figure["layout"]["annotations"]]


def everything(bench) -> dict[str, Figure]:
    return throughput.charts(bench) | energy.charts(bench)


@pytest.mark.parametrize("document_of", [metered, two_meters, estimated, scaled])
def test_every_figure_is_one_that_plotly_accepts(document_of):
    go = pytest.importorskip("plotly.graph_objects")
    found = everything(judged(document_of(), answers=document_of is metered))

    assert found
    for figure in found.values():
        plain = json.loads(re.sub(r'"@\w+"', '"#000000"', json.dumps(figure, allow_nan=False)))
        go.Figure(data=plain["data"], layout=plain["layout"])
        go.Figure(data=plain["data"], layout=plain["layout"] | plain["narrow"])


def test_speed_is_a_point_an_arm_with_its_interval_and_its_limit(made):
    figure = speed_figures.speeds(made, DECODE)
    own = traces(figure)
    base, point = own["BF16"], made.point("bf16", DECODE)

    assert base["x"] == [point.tokens_per_s.value]
    assert base["error_x"]["array"][0] == pytest.approx(point.tokens_per_s.ci95[1] - base["x"][0])
    assert own["BF16 again (null arm)"]["marker"]["symbol"] == ["circle-open"]
    assert own["physical limit"]["x"] == pytest.approx([400.0] * 3)
    assert own["physical limit"]["y"] == [0, 1, 2]


def test_the_axis_of_speed_begins_at_zero_unless_points_would_lie_on_it(made):
    plain = speed_figures.speeds(made, DECODE)
    far = (roofline(1.0, 1000),)
    low = document(*(row.model_copy(update={"rooflines": far}) for row in rows()))

    assert plain["layout"]["xaxis"]["range"][0] == 0
    assert speed_figures.speeds(judged(low), DECODE)["layout"]["xaxis"]["type"] == "log"


def test_an_emulated_arm_has_a_row_that_says_so_and_no_point_anywhere(made):
    for name, figure in throughput.charts(made).items():
        assert not any("UE8M0" in trace["name"] for trace in figure["data"]), name
    figure = speed_figures.speeds(made, DECODE)

    assert figure["layout"]["yaxis"]["ticktext"][3].strip() == "FP8 E4M3, UE8M0 scales"
    assert gutter(figure)[3] == "emulated – speed not meaningful"
    assert gutter(speed_figures.ratios(made)).count("emulated – speed not meaningful") == 1


def test_ratios_have_intervals_the_null_arms_band_and_the_ratio_of_the_limits(made):
    figure, ratio = speed_figures.ratios(made), made.ratio("fp8-e4m3", DECODE)
    own = traces(figure)
    band = own["noise"]["x"]

    assert own["FP8 E4M3, FP32 scales"]["x"][0] == ratio.value
    assert band[:3] == [1 / (1 + ratio.aa_halfwidth), 1 + ratio.aa_halfwidth, None]
    assert own["ratio of the limits"]["x"][0] == 1.8
    assert figure["layout"]["shapes"][0]["x0"] == 1.0
    low, high = (10**end for end in figure["layout"]["xaxis"]["range"])
    assert low < min(own["FP8 E4M3, FP32 scales"]["x"])
    assert high > 1.8


def test_best_batches_stand_below_equal_ones(made):
    heads = [text for text in speed_figures.ratios(made)["layout"]["yaxis"]["ticktext"] if "<b>" in text]

    assert [head.strip() for head in heads] == [
        "<b>cpu-std.decode.b4.d512</b>", "<b>cpu-std.decode.b32.d512</b>", "<b>replay.whole.b8</b>",
        "<b>cpu-std.decode.d512, best batches</b>",
    ]  # fmt: skip


def test_what_is_not_resolved_is_hollow():
    noisy = judged(document(native("bf16"), native("bf16@null"), native("fp8-e4m3", factor=1.0005)))

    assert traces(speed_figures.ratios(noisy))["FP8 E4M3, FP32 scales"]["marker"]["symbol"] == ["square-open"]


def test_every_round_is_drawn_voided_ones_as_crosses(made):
    own = traces(speed_figures.rounds(made, DECODE))
    base = own["BF16"]

    assert len(base["x"]) == 6
    assert sorted(base["y"])[2] <= 0 <= sorted(base["y"])[3]  # around the arm's median
    assert own["BF16, voided"]["marker"]["symbol"] == "x-thin-open"
    assert own["BF16, voided"]["y"] == pytest.approx([-20], abs=0.5)
    assert "steal_time" in own["BF16, voided"]["text"][0]


def test_an_arm_whose_number_was_taken_away_has_no_point_and_no_rounds():
    cand = native("fp8-e4m3", reasons=("kernel_unproven",))
    bench = judged(document(native("bf16"), native("bf16@null"), cand))

    assert "FP8 E4M3, FP32 scales" not in traces(speed_figures.speeds(bench, DECODE))
    assert "FP8 E4M3, FP32 scales" not in traces(speed_figures.rounds(bench, DECODE))
    assert gutter(speed_figures.speeds(bench, DECODE))[2] == "no value: kernel_unproven"


def test_scaling_shows_the_ideal_efficiency_communication_and_where_it_stops():
    figure = throughput.charts(judged(scaled()))["scaling-s0"]
    own = traces(figure)

    assert own["BF16"]["x"] == [1, 2, 4, 8]
    assert own["ideal"]["y"] == pytest.approx([n * own["BF16"]["y"][0] for n in (1, 2, 4, 8)])
    assert own["BF16: efficiency"]["y"] == pytest.approx([100, 95, 85, 48.75], rel=0.01)
    assert own["BF16: communication"]["y"] == [5, 12, 40]
    assert figure["layout"]["shapes"][0]["x0"] == 8
    assert "8 do not pay" in figure["layout"]["annotations"][0]["text"]


def test_joules_of_two_meters_never_share_a_panel():
    bench = judged(two_meters(), answers=True)
    found = facets(bench)

    assert [(f.meter, f.metered.scope, f.metered.quality) for f in found] == [
        ("nvml", "gpu_board", "L3"), ("wall", "node_ac", "L4")]  # fmt: skip
    for facet in found:
        drawn = traces(cost_figures.joules(bench, facet))["BF16"]["x"]
        expected = [bench.point("bf16", w).j_per_token[facet.meter].value for w in facet.workloads]
        assert drawn == expected
        ratios = traces(energy.charts(bench)[f"joule-ratios-{facet.id}"])["FP8 E4M3, FP32 scales"]
        assert len(ratios["x"]) == len(facet.workloads) + 1


def test_a_waterfalls_factors_multiply_to_its_last_column(made):
    own = costs(made)[0]
    unit, steps = own.parts(own.whole[1])
    bars = cost_figures.waterfall(steps, "fp8")["data"][0]

    assert unit == "j"
    assert [name for name, _ in steps] == [
        "joules a token", "tokens an answer", "accuracy, inverted", "joules a correct answer"]  # fmt: skip
    assert math.fsum(bars["y"][:3]) == pytest.approx(bars["y"][3])
    assert bars["base"][1] == pytest.approx(bars["base"][0] + bars["y"][0])
    assert math.exp(bars["y"][3]) == pytest.approx(own.whole[1].relative["j_per_correct"].value)


def test_a_waterfall_of_one_percent_does_not_fill_the_plot():
    figure = cost_figures.waterfall((("tokens an answer", 0.01), ("tokens a correct answer", 0.01)), "fp8")
    low, high = figure["layout"]["yaxis"]["range"]

    assert high - low > 0.1


def test_the_trade_off_has_whiskers_both_ways_and_a_region_that_beats_the_baseline(made):
    own = costs(made)[0]
    figure = cost_figures.pareto(made, own)
    base = traces(figure)["BF16"]
    region = figure["layout"]["shapes"][0]

    assert base["x"] == [own.whole[0].j_per_correct.value]
    assert base["y"] == [80.0]
    assert base["error_x"]["array"][0] > 0
    assert base["error_y"]["arrayminus"][0] > 0
    assert (region["x1"], region["y0"]) == (base["x"][0], base["y"][0])
    assert own.dominated == {}


def test_an_arm_that_costs_more_and_is_right_less_often_is_dominated(made):
    own = costs(made)[0]
    worse = own.whole[1].model_copy(update={
        "n_correct": 60, "accuracy": 0.3,
        "j_per_correct": own.whole[0].j_per_correct.model_copy(update={"value": 900.0, "ci95": (800.0, 1000.0)}),
    })  # fmt: skip
    changed = type(own)(own.mode, (own.whole[0], worse, own.whole[2]), own.base)

    assert changed.dominated == {"fp8-e4m3": "bf16"}


def test_costs_fall_back_to_seconds_and_then_to_tokens(made):
    no_meter = judged(document(*rows()), answers=True)
    only_emulated = judged(document(native("bf16"), native("bf16@null"), emulated("fp8-e4m3"), emulated()),
                           answers=True)  # fmt: skip

    assert costs(made)[0].units == ("j", "tokens")
    assert costs(no_meter)[0].units == ("s", "tokens")
    assert costs(no_meter)[0].unit == "s"
    assert costs(only_emulated)[0].unit == "tokens"  # one arm in seconds cannot be set against anything
    assert len(traces(cost_figures.pareto(only_emulated, costs(only_emulated)[0]))) == 4


def test_inflation_stands_beside_its_noise_and_its_break_even(made):
    own = traces(cost_figures.inflation(made, costs(made)[0]))
    joint = costs(made)[0].whole[1]

    assert own["FP8 E4M3, FP32 scales"]["x"] == [joint.token_inflation.value]
    assert own["noise"]["x"][1] == pytest.approx(math.exp(joint.token_inflation_noise))
    assert own["break-even"]["x"] == [joint.break_even_inflation]


def test_estimates_are_hatched_intervals_in_a_chart_of_their_own():
    found = energy.charts(judged(estimated()))

    assert set(found) == {"estimates"}
    bars = found["estimates"]["data"][0]
    assert bars["marker"]["pattern"]["shape"] == "/"
    assert "modelled" in gutter(found["estimates"])[0]
    assert all(width > 0 for width in bars["x"])


def test_names_of_arms_and_presets_are_drawn_as_text():
    evil = "<a href='javascript:x'>a</a>"
    bench = document(*rows())
    arms = tuple(arm.model_copy(update={"recipe": arm.recipe.model_copy(update={"label": evil})})
                 for arm in bench.spec.arms)  # fmt: skip
    point = [row.model_copy(update={"workload": row.workload.model_copy(update={"preset": evil})})
             for row in bench.measurements]  # fmt: skip
    spec = BenchSpec(**(bench.spec.model_dump() | {"arms": arms}))
    hostile = judged(bench.model_copy(update={"spec": spec, "measurements": tuple(point)}))

    text = json.dumps(everything(renamed(hostile)))

    assert "<a" not in text
    assert "&lt;a href" in text


@pytest.mark.parametrize(("along", "expected"), [
    (Scale("", 0, 21000), [0, 5000, 10000, 15000, 20000]), (Scale("", 0.93, 1.12, log=True), [0.95, 1.0, 1.05, 1.1]),
    (Scale("", 0.9, 2500, log=True), [1, 10, 100, 1000]), (Scale("", 3, 90, log=True), [5, 10, 20, 50]),
])  # fmt: skip
def test_ticks_are_round_and_few(along: Scale, expected: list[float]):
    assert ticks(along) == pytest.approx(expected)


def test_an_axis_holds_all_values_and_zero_where_it_must():
    assert scale("", [100.0, 110.0], zero=True).low == 0
    one = scale("", [5.0])
    assert one.low < 5 < one.high
    assert scale("", [0.001, 10.0]).log
    assert not scale("", [1.0, 2.0]).log
