import json
import re

import pytest
from test_publish_sample import FP8, UE8M0, counts, decision, sample_run, spec, suite_decision

from evalsuite.publish import figures
from evalsuite.records import Arm, ModelRef, Plan, Subject


def forest(candidate: str = "fp8-ue8m0", mode: str = "thinking") -> figures.Figure:
    run = spec()
    return figures.forest(suite_decision(run, candidate, mode), figures.looks(run)[candidate])


def test_a_forest_is_a_figure_that_plotly_accepts():
    go = pytest.importorskip("plotly.graph_objects")
    text = re.sub(r'"@\w+"', '"#000000"', json.dumps(forest()))
    figure = json.loads(text)

    go.Figure(data=figure["data"], layout=figure["layout"])
    go.Figure(data=figure["data"], layout=figure["layout"] | figure["narrow"])


def test_a_forest_has_a_square_a_task_worst_on_top_and_a_pooled_diamond():
    figure = forest()
    squares = next(trace for trace in figure["data"] if trace["name"] == "tasks")

    assert squares["y"] == [1, 2, 3, 4]
    assert squares["x"] == sorted(squares["x"], reverse=True)
    assert squares["x"][-1] == -7.75
    assert [trace["name"] for trace in figure["data"]] == ["allowed loss", "tasks", "pooled"]


def test_the_axis_holds_every_interval_and_every_margin():
    figure = forest()
    low, high = figure["layout"]["xaxis"]["range"]
    limits = next(trace for trace in figure["data"] if trace["name"] == "allowed loss")["x"]
    squares = next(trace for trace in figure["data"] if trace["name"] == "tasks")
    ends = [x - minus for x, minus in zip(squares["x"], squares["error_x"]["arrayminus"], strict=True)]

    assert low < min(ends + [x for x in limits if x is not None])
    assert high > 0


def test_an_untested_gate_has_a_row_but_no_point():
    run = spec()
    whole = suite_decision(run, "fp8-e4m3", "direct")
    subject = Subject(model="reference", baseline="bf16", candidate="fp8-e4m3", mode="direct", task="empty")
    gaps = whole.model_copy(update={"tasks": (*whole.tasks[:2], decision(subject, counts(0, 0, 0, 0.0), 0.05))})

    figure = figures.forest(gaps, figures.looks(run)["fp8-e4m3"])

    squares = next(trace for trace in figure["data"] if trace["name"] == "tasks")
    assert len(squares["x"]) == 2
    assert figure["layout"]["yaxis"]["ticktext"][1].strip() == "empty"
    assert "no value" in figure["layout"]["annotations"][1]["text"]


def test_a_relative_margin_is_drawn_at_the_baselines_accuracy():
    subject = Subject(model="m", baseline="bf16", candidate="fp8-e4m3", mode="direct")
    one = decision(subject, counts(1000, 10, 10, 0.8), 0.02)
    relative = one.model_copy(update={"plan": Plan(relative=0.99)})

    assert figures.allowed(one) == -0.02
    assert figures.allowed(relative) == pytest.approx(-0.008)


def test_an_arm_looks_the_same_everywhere_and_like_no_other_of_its_run():
    model = ModelRef(id="m")
    variants = [Arm(id=f"ue8m0-{i}", model=model, recipe=UE8M0) for i in range(3)]
    shipped = Arm(id="shipped", model=model, recipe=FP8)
    run = spec()

    looks = figures.looks(run.model_copy(update={"arms": (*variants, *run.arms, shipped)}))

    assert looks["bf16"] == figures.Look("base", "circle", "solid")
    assert len(set(looks.values())) == len(looks) - 1  # the fourth of a family repeats its first
    assert looks["fp8-e4m3"].family == looks["shipped"].family == "fp8"


def test_names_of_tasks_are_drawn_as_text():
    evil = "<a href='javascript:x'>a</a>"
    run = spec(tasks=tuple(t.model_copy(update={"task": evil[:20] + str(i)}) for i, t in enumerate(spec().tasks)))

    text = json.dumps(figures.forest(suite_decision(run, "fp8-e4m3", "direct"), figures.looks(run)["fp8-e4m3"]))

    assert "<a" not in text
    assert "&lt;a href" in text


def test_the_title_counts_tasks_by_verdict():
    titles = {(d.pooled.subject.candidate, d.pooled.subject.mode): figures.forest_finding(d)
              for d in sample_run().judgement.decisions}  # fmt: skip

    assert titles["fp8-e4m3", "direct"].startswith("No task is shown to lose more than allowed")
    assert titles["fp8-ue8m0", "thinking"].startswith("1 of 4 tasks loses more than allowed")
