"""Charts of energy and of what a correct answer costs: rows with intervals, the waterfall of factors, the trade-off.

A cost relative to the baseline is a product of three factors, so the waterfall is drawn in logarithms, where products
are sums. Nothing modelled enters any of them: estimates have a chart of their own, grey, hatched, and without a point.
"""

import math
import textwrap
from collections.abc import Sequence

from evalsuite.publish import text
from evalsuite.publish.benches import JudgedBench
from evalsuite.publish.canvas import (
    Figure,
    Row,
    axis,
    bands,
    cut,
    frame,
    legend,
    level,
    number,
    plain,
    row_chart,
    scale,
    ticks,
    upright,
    whiskers,
)
from evalsuite.publish.costs import NAMES, Costs, Estimated, Facet, Unit, accuracy_ends
from evalsuite.publish.speed_figures import Placed, dots, reading, why
from evalsuite.records import Interval, Joint

LEAST = 0.05
"""Logarithms that a waterfall's axis holds at least: a change of 1 % must not fill the plot."""


def joules(bench: JudgedBench, facet: Facet) -> Figure:
    """Joules a token by point and arm, in one panel of comparable energies."""
    rows: list[Row] = []
    placed: dict[str, list[Placed]] = {}
    values = []
    for workload in facet.workloads:
        rows.append(Row(plain(workload.key), kind="head"))
        for spent in (s for s in facet.rows if s.workload == workload):
            name = bench.arm_name(spent.arm)
            if spent.joules is None:
                rows.append(Row(cut(name), *why(spent.reasons), kind="absent"))
                continue
            seen = reading(spent.joules)
            placed.setdefault(spent.arm, []).append(
                Placed(len(rows), spent.joules.value, spent.joules.ci95, f"{name}: {seen} J a token")
            )
            rows.append(Row(cut(name), f"{seen} J", f"{seen} J"))
            values += [spent.joules.value, *(spent.joules.ci95 or ())]
    traces = [dots(bench, arm, own) for arm, own in placed.items()]
    return row_chart(traces, rows, scale("joules a token", values, zero=True))


def cost(bench: JudgedBench, costs: Costs, unit: Unit) -> Figure:
    """Cost of a correct answer by arm."""
    rows, traces, values = [], [], []
    for place, joint in enumerate(costs.whole):
        found, name = costs.value(joint, unit), bench.arm_name(joint.arm)
        if found is None:
            rows.append(Row(cut(name), *why(joint.reasons), kind="absent"))
            continue
        rows.append(Row(cut(name), reading(found)))
        traces.append(dots(bench, joint.arm, [Placed(place, found.value, found.ci95, f"{name}: {reading(found)}")]))
        values += [found.value, *(found.ci95 or ())]
    return row_chart(traces, rows, scale(f"{NAMES[unit]} a correct answer", values, zero=True))


def inflation(bench: JudgedBench, costs: Costs) -> Figure:
    """Tokens an answer over the baseline's by arm, what two runs of the baseline differ by, and break-even."""
    rows: list[Row] = []
    traces, noise, even, values = [], [], [], [0.98, 1.02]
    for joint in costs.whole:
        found, place, name = joint.token_inflation, len(rows), bench.arm_name(joint.arm)
        if found is None:
            continue
        seen = text.factor(found.value) + (f" {text.factor_bounds(found.ci95)}" if found.ci95 else "")
        stops = joint.break_even_inflation
        more = "" if stops is None else f"  ·  break-even {text.factor(stops)}"
        rows.append(Row(cut(name), seen + more, seen))
        traces.append(dots(bench, joint.arm, [Placed(place, found.value, found.ci95, f"{name}: {seen}")]))
        values += [found.value, *(found.ci95 or ())]
        if joint.token_inflation_noise is not None:
            band = (math.exp(-joint.token_inflation_noise), math.exp(joint.token_inflation_noise))
            noise.append((*band, place))
            values += band
        if stops is not None:
            even.append((stops, place))
            values.append(stops)
    hover = [f"the gain of energy is gone at {text.factor(value)} times the tokens" for value, _ in even]
    made = row_chart([bands("noise", noise), *traces, upright("break-even", even, hover=hover)], rows,
                     scale("tokens an answer, times the baseline's", values, log=True))  # fmt: skip
    made["layout"]["shapes"] = [level(1.0)]
    return made


def waterfall(steps: Sequence[tuple[str, float]], family: str) -> Figure:
    """Factors of a cost over the baseline's, one after the other, and their product. `steps`: logarithms, sum last."""
    starts, reached = [], 0.0
    for _, value in steps[:-1]:
        starts.append(reached)
        reached += value
    starts.append(0.0)
    ends = [start + value for start, (_, value) in zip(starts, steps, strict=True)]
    factors = [f"×{text.factor(math.exp(value))}" for _, value in steps]
    colors = ["@muted"] * (len(steps) - 1) + [f"@{family}"]
    bars = {
        "type": "bar", "name": "factors", "x": list(range(len(steps))), "base": starts,
        "y": [value for _, value in steps], "width": 0.6, "hoverinfo": "text",
        "text": [plain(f"{name} {seen}") for (name, _), seen in zip(steps, factors, strict=True)],
        "textposition": "none", "marker": {"color": colors},
    }  # fmt: skip
    low, high = min([*starts, *ends, -LEAST]), max([*starts, *ends, LEAST])
    along = (low - 0.18 * (high - low), high + 0.18 * (high - low))
    inner = scale("", [math.exp(v) for v in along], log=True)
    layout = {
        **frame(270, {"l": 8, "r": 8, "t": 8, "b": 64}), "bargap": 0.4,
        "xaxis": axis(tickvals=list(range(len(steps))), ticktext=[_broken(name) for name, _ in steps], tickangle=0,
                      range=[-0.5, len(steps) - 0.5], showgrid=False, zeroline=False, automargin=True),
        "yaxis": axis("times the baseline", range=list(along), tickvals=[math.log(v) for v in ticks(inner)],
                      ticktext=[number(v) for v in ticks(inner)], zerolinecolor="@ink", zerolinewidth=1.5,
                      automargin=True),
        "shapes": [_joint_line(place, end) for place, end in enumerate(ends[:-1])],
        "annotations": [_label(place, max(start, end), seen)
                        for place, (start, end, seen) in enumerate(zip(starts, ends, factors, strict=True))],
    }  # fmt: skip
    return {"data": [bars], "layout": layout, "narrow": {"font": {**layout["font"], "size": 11}}}


def _broken(name: str) -> str:
    """A name on short lines: `joules a<br>correct<br>answer`."""
    return "<br>".join(textwrap.wrap(name, 9))


def _joint_line(place: int, at: float) -> Figure:
    return {"type": "line", "x0": place + 0.3, "x1": place + 0.7, "y0": at, "y1": at,
            "line": {"color": "@muted", "width": 1, "dash": "2px,2px"}}  # fmt: skip


def _label(place: int, at: float, seen: str) -> Figure:
    return {"x": place, "y": at, "yanchor": "bottom", "yshift": 3, "showarrow": False, "text": seen,
            "font": {"color": "@ink", "size": 13}}  # fmt: skip


def pareto(bench: JudgedBench, costs: Costs) -> Figure:
    """Accuracy against the cost of a correct answer, whiskers both ways, and the front; shaded: better on both."""
    drawn = [(joint, value) for joint in costs.whole if (value := costs.value(joint, costs.unit)) is not None]
    data = [_front(drawn)] if len(drawn) > 1 else []
    spent: list[float] = []
    right: list[float] = []
    for joint, value in drawn:
        low, high = accuracy_ends(joint)
        data.append(_spot(bench, joint, value))
        spent += [value.value, *(value.ci95 or ())]
        right += [100 * low, 100 * high]
    along, up = scale(f"{NAMES[costs.unit]} a correct answer", spent, log=True), scale("accuracy, %", right)
    base = next((value for joint, value in drawn if joint.arm == costs.baseline.arm), None)
    made = {
        **legend(frame(400, {"l": 8, "r": 14, "t": 8, "b": 52})), "xaxis": along.layout(),
        "yaxis": {**up.layout(), "automargin": True},
        "shapes": [] if base is None else [{
            "type": "rect", "layer": "below", "x0": along.low, "x1": base.value, "y0": 100 * costs.baseline.accuracy,
            "y1": up.high, "fillcolor": "@raised", "line": {"width": 0, "color": "@raised"},
        }],
    }  # fmt: skip
    return {"data": data, "layout": made, "narrow": {"height": 380, "font": {**made["font"], "size": 12}}}


def _spot(bench: JudgedBench, joint: Joint, value: Interval) -> Figure:
    look, ends = bench.looks[joint.arm], accuracy_ends(joint)
    accuracy = 100 * joint.accuracy
    seen = f"{bench.arm_name(joint.arm)}: {text.percent(joint.accuracy)} right, {reading(value)} a correct answer"
    return {
        "type": "scatter", "name": plain(bench.arm_name(joint.arm)), "mode": "markers", "x": [value.value],
        "y": [accuracy], "text": [plain(seen)], "hoverinfo": "text",
        "marker": {"symbol": look.symbol, "size": 12, "color": f"@{look.family}", "opacity": 1},
        "error_x": whiskers([(value.value, value.ci95)], f"@{look.family}"),
        "error_y": whiskers([(accuracy, (100 * ends[0], 100 * ends[1]))], f"@{look.family}"),
    }  # fmt: skip


def _front(drawn: Sequence[tuple[Joint, Interval]]) -> Figure:
    """Arms that no other arm beats on both by its values alone, as steps."""
    best: list[tuple[float, float]] = []
    for joint, value in sorted(drawn, key=lambda one: (one[1].value, -one[0].accuracy)):
        if not best or joint.accuracy > best[-1][1]:
            best.append((value.value, joint.accuracy))
    return {"type": "scatter", "name": "front", "mode": "lines", "x": [x for x, _ in best],
            "y": [100 * y for _, y in best], "hoverinfo": "skip", "showlegend": False,
            "line": {"color": "@muted", "width": 1, "dash": "dot", "shape": "hv"}}  # fmt: skip


def estimates(bench: JudgedBench, found: Sequence[Estimated]) -> Figure:
    """Modelled energy as grey hatched intervals."""
    rows: list[Row] = []
    places = []
    for workload in dict.fromkeys(one.workload for one in found):
        rows.append(Row(plain(workload.key), kind="head"))
        for one in (one for one in found if one.workload == workload):
            places.append(len(rows))
            seen = f"{text.amount(one.low)} to {text.amount(one.high)} J (modelled)"
            rows.append(Row(cut(bench.arm_name(one.arm)), seen))
    bars = {
        "type": "bar", "orientation": "h", "name": "modelled", "base": [one.low for one in found],
        "x": [one.high - one.low for one in found], "y": places, "width": 0.5, "hoverinfo": "skip",
        "marker": {"color": "@grid", "line": {"color": "@muted", "width": 1},
                   "pattern": {"shape": "/", "fgcolor": "@muted", "bgcolor": "@grid", "size": 6}},
    }  # fmt: skip
    ends = [end for one in found for end in (one.low, one.high)]
    return row_chart([bars], rows, scale("modelled joules a token", ends, log=False, zero=True))
