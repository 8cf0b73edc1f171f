"""Charts of decisions as plain dicts. No I/O, and no plotly either (a test validates the dicts).

`canvas` says what a figure is; `speed_figures`, `scaling_figures` and `cost_figures` draw benches. An arm keeps one
look on every page (`looks`): hue by family, marker and dash inside the family, because only three hues can be told
apart by everyone.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from evalsuite.publish import text
from evalsuite.publish.canvas import GUTTER, Figure, axis, cut, frame, gutter, plain
from evalsuite.records import Arm, BenchSpec, Decision, RunSpec, SuiteDecision

Family = Literal["base", "fp8", "ue8m0"]

_LOOKS: dict[Family, tuple[tuple[str, str], ...]] = {
    "base": (("circle", "solid"), ("cross", "longdash"), ("hexagon", "longdashdot")),
    "fp8": (("square", "dash"), ("triangle-up", "dashdot"), ("star", "longdash")),
    "ue8m0": (("diamond", "dot"), ("triangle-down", "dashdot"), ("pentagon", "longdash")),
}
"""Marker and dash, first come first served inside a family; the fourth arm of a family looks like the first."""


@dataclass(frozen=True)
class Look:
    """How an arm is drawn wherever it appears."""

    family: Family
    """Also the name of its colour in the style sheet."""
    symbol: str
    dash: str


def _family(arm: Arm) -> Family:
    quants = [q for q in (arm.recipe.weights, arm.recipe.activations) if q]
    if not quants:
        return "base"
    return "ue8m0" if any(q.scale == "ue8m0" for q in quants) else "fp8"


def looks(spec: RunSpec | BenchSpec) -> dict[str, Look]:
    """The look of each arm of a run or bench, by arm id; the baseline always gets the first of its family."""
    order = sorted(spec.arms, key=lambda arm: arm.id != spec.baseline)
    seen: dict[Family, int] = {}
    found = {}
    for arm in order:
        family = _family(arm)
        place = seen.get(family, 0)
        seen[family] = place + 1
        symbol, dash = _LOOKS[family][place % len(_LOOKS[family])]
        found[arm.id] = Look(family, symbol, dash)
    return found


def tested(decision: Decision) -> bool:
    """Whether a test was made. If not (plan not complete, nothing to pair), there is no change to show."""
    return decision.delta is not None and decision.ci_kind != "none"


def allowed(decision: Decision) -> float:
    """The (negative) change at which a loss is too large; a relative margin is taken at the baseline's accuracy."""
    if decision.plan.relative is None:
        return -decision.plan.margin
    return -(1 - decision.plan.relative) * (decision.accuracy_base or 0.0)


def scale(decisions: Iterable[Decision]) -> tuple[float, float]:
    """The ends of an axis that holds every interval, every margin and zero."""
    rows = list(decisions)
    low = min([0.0, *map(allowed, rows), *(row.ci[0] for row in rows if tested(row))])
    high = max([0.0, *(row.ci[1] for row in rows if tested(row)), -0.5 * max(map(allowed, rows), default=0.0)])
    pad = 0.05 * (high - low) or 0.01
    return low - pad, high + pad


def forest_finding(decision: SuiteDecision) -> str:
    """What the forest shows, as its title: `1 of 4 tasks loses more than allowed; 2 are open.`"""
    tasks = [d.verdict for d in decision.tasks]
    bad, safe = tasks.count("UNSAFE"), tasks.count("SAFE")
    unusable = tasks.count("INVALID")
    undecided = len(tasks) - bad - safe - unusable
    parts = []
    if bad:
        parts.append(f"{bad} of {text.plural(len(tasks), 'task')} {'loses' if bad == 1 else 'lose'} more than allowed")
    else:
        parts.append("No task is shown to lose more than allowed")
    if safe:
        parts.append(f"{safe} {'is' if safe == 1 else 'are'} shown to stay within the margin")
    if undecided:
        parts.append(f"{undecided} {'is' if undecided == 1 else 'are'} undecided")
    if unusable:
        parts.append(f"{unusable} cannot be judged")
    return "; ".join(parts) + "."


def forest(decision: SuiteDecision, look: Look) -> Figure:
    """Change of accuracy by task, worst on top, with 90 % interval and margin, and the pooled diamond at the bottom."""
    tasks = sorted(decision.tasks, key=_place)
    rows = [(0, decision.pooled), *enumerate(tasks, start=1)]
    data = [_margins(rows), _squares(rows[1:], look)]
    if tested(decision.pooled):
        data.append(_diamond(decision.pooled, look))
    return {"data": data, "layout": _layout(rows), "narrow": _narrow(rows)}


def _place(row: Decision) -> tuple[bool, float, str]:
    """Order from the bottom: untested rows, then from the largest gain to the largest loss."""
    return tested(row), -(row.delta or 0.0) if tested(row) else 0.0, row.subject.task or ""


_Rows = list[tuple[int, Decision]]


def _margins(rows: _Rows) -> Figure:
    x: list[float | None] = []
    y: list[float | None] = []
    for place, row in rows:
        limit = _points(allowed(row))
        x += [limit, limit, None]
        y += [place - 0.5, place + 0.5, None]
    line = {"color": "@unsafe", "width": 1.5, "dash": "5px,4px"}
    return {"type": "scatter", "name": "allowed loss", "mode": "lines", "x": x, "y": y, "line": line,
            "hoverinfo": "skip"}  # fmt: skip


def _squares(rows: _Rows, look: Look) -> Figure:
    drawn = [(place, row, row.delta) for place, row in rows if tested(row) and row.delta is not None]
    most = max([row.n for _, row, _ in drawn], default=1) or 1
    return {
        "type": "scatter", "name": "tasks", "mode": "markers",
        "x": [_points(delta) for _, _, delta in drawn], "y": [place for place, _, _ in drawn],
        "text": [f"{plain(row.subject.task or '')}: {_reading(row)}" for _, row, _ in drawn], "hoverinfo": "text",
        "marker": {"symbol": look.symbol, "color": f"@{look.family}", "opacity": 1,
                   "size": [round(7 + 9 * (row.n / most) ** 0.5, 1) for _, row, _ in drawn]},
        "error_x": {"type": "data", "symmetric": False, "color": f"@{look.family}", "thickness": 2, "width": 0,
                    "array": [_points(row.ci[1] - delta) for _, row, delta in drawn],
                    "arrayminus": [_points(delta - row.ci[0]) for _, row, delta in drawn]},
    }  # fmt: skip


def _diamond(pooled: Decision, look: Look) -> Figure:
    low, middle, high = (_points(v) for v in (pooled.ci[0], pooled.delta or 0.0, pooled.ci[1]))
    return {
        "type": "scatter", "name": "pooled", "mode": "lines", "fill": "toself", "fillcolor": f"@{look.family}",
        "x": [low, middle, high, middle, low], "y": [0, 0.2, 0, -0.2, 0],
        "line": {"color": f"@{look.family}", "width": 1.5}, "text": f"pooled: {_reading(pooled)}", "hoverinfo": "text",
    }  # fmt: skip


def _layout(rows: _Rows) -> Figure:
    low, high = scale(row for _, row in rows)
    return {
        **frame(70 + 38 * len(rows), {"l": 8, "r": GUTTER, "t": 4, "b": 58}),
        "xaxis": axis("change of accuracy, points", range=[_points(low), _points(high)], zeroline=True,
                      zerolinecolor="@ink", zerolinewidth=1.5, ticksuffix=""),
        "yaxis": axis(range=[-0.6, len(rows) - 0.4], showgrid=False, zeroline=False, automargin=True,
                      tickvals=[place for place, _ in rows], ticktext=[_name(row) + "  " for _, row in rows]),
        "shapes": [_rule()], "annotations": [_gutter(place, row) for place, row in rows],
    }  # fmt: skip


def _narrow(rows: _Rows) -> Figure:
    layout = _layout(rows)
    labels = [
        {**_gutter(place, row), "x": 0, "xshift": 0, "y": place + 0.39, "bgcolor": "@card",
         "text": f"{_name(row)}  {_short(row)}"}
        for place, row in rows
    ]  # fmt: skip
    return {
        "height": 74 + 56 * len(rows), "margin": {**layout["margin"], "r": 8}, "font": {**layout["font"], "size": 12},
        "yaxis": {**layout["yaxis"], "showticklabels": False, "range": [-0.5, len(rows) - 0.4]},
        "annotations": labels,
    }  # fmt: skip


def _rule() -> Figure:
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 0.5, "y1": 0.5,
            "line": {"color": "@line", "width": 1}}  # fmt: skip


def _gutter(place: int, row: Decision) -> Figure:
    return gutter(place, _reading(row), "@ink" if tested(row) else "@muted")


def _name(row: Decision) -> str:
    return "<b>pooled</b>" if row.subject.task is None else cut(row.subject.task)


def _short(row: Decision) -> str:
    return f"{text.change(row.delta or 0.0, row.ci)} {text.bounds(row.ci)}" if tested(row) else "no value"


def _reading(row: Decision) -> str:
    if not tested(row):
        return "no value: see the table"
    lost_gained = f"{text.count(row.counts.n10)} lost, {text.count(row.counts.n01)} gained"
    return f"{_short(row)}  ·  {lost_gained}  ·  n {text.count(row.n)}"


def _points(fraction: float) -> float:
    return round(100 * fraction, 4)
