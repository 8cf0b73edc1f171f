"""What all charts share: frame, axes, and the chart of rows: a point a row, its name on one side, its numbers beside.

A figure is `{"data", "layout", "narrow"}`; `narrow` overrides the layout on screens too small for labels beside the
plot. Colours are names, not values: `"@fp8"` stands for the style sheet's `--fp8`, which differs between light, dark
and print; `app.js` resolves keys that end in `color`, and nothing else. Everything that plotly draws as text passes
`plain`, since plotly reads a subset of HTML in labels and names are not ours.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import unescape
from typing import Any, Literal

Figure = dict[str, Any]
Ends = tuple[float, float]

GUTTER = 372
"""Pixels beside the plot for the numbers of a row."""
LONGEST = 34
"""Characters of a name that fit beside the plot; the table has the whole name."""
ABOVE = 40
"""Characters of a name and its numbers that fit over the plot on a screen of 360 pixels."""
TICKS = 6
"""Ticks that an axis should have, about."""


def plain(name: str) -> str:
    """A name as plotly must be given it to draw it unchanged."""
    return name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\n", " ")


def cut(name: str) -> str:
    """A name, drawn unchanged, that fits beside the plot."""
    return plain(name if len(name) <= LONGEST else name[: LONGEST - 1] + "…")


def frame(height: int, margin: dict[str, int]) -> Figure:
    """The layout that every chart begins with."""
    return {
        "height": height, "margin": margin, "paper_bgcolor": "@card", "plot_bgcolor": "@card",
        "dragmode": False, "showlegend": False, "hovermode": "closest",
        "hoverlabel": {"bgcolor": "@card", "bordercolor": "@line", "font": {"color": "@ink"}, "align": "left"},
        "font": {"color": "@ink", "size": 13, "family": "system-ui, sans-serif"},
    }  # fmt: skip


def axis(title: str = "", **more: Any) -> Figure:
    """An axis in the style of all."""
    named = {"title": {"text": title, "standoff": 12, "font": {"color": "@muted", "size": 12}}} if title else {}
    return {"gridcolor": "@grid", "linecolor": "@line", "ticks": "", "fixedrange": True, **named, **more}


def gutter(place: float, reading: str, color: str = "@ink") -> Figure:
    """The numbers of a row, right of the plot."""
    return {"xref": "paper", "x": 1, "xshift": 14, "xanchor": "left", "y": place, "yanchor": "middle", "align": "left",
            "showarrow": False, "text": reading, "font": {"color": color, "size": 12}}  # fmt: skip


@dataclass(frozen=True)
class Scale:
    """An axis of values: its ends, and whether it is logarithmic."""

    title: str
    low: float
    high: float
    log: bool = False

    def layout(self) -> Figure:
        """As plotly wants it: a logarithmic axis has its range in powers of ten."""
        ends = [math.log10(v) for v in (self.low, self.high)] if self.log else [self.low, self.high]
        kind = {"type": "log"} if self.log else {}
        values = ticks(self)
        return axis(self.title, range=[round(end, 6) for end in ends], tickvals=values,
                    ticktext=[number(v) for v in values], zeroline=False, **kind)  # fmt: skip


def scale(title: str, values: Iterable[float], *, log: bool | None = None, zero: bool = False) -> Scale:
    """An axis that holds all values with some room; `log` None: where they lie more than a factor ten apart."""
    found = [v for v in values if math.isfinite(v)]
    low, high = min(found, default=0.0), max(found, default=1.0)
    if (low > 0 and high > 10 * low) if log is None else log:
        room = max((high / low) ** 0.06, 1.01)
        return Scale(title, low / room, high * room, log=True)
    room = 0.06 * (high - min(low, 0.0) if zero else high - low) or 0.05 * abs(high) or 0.05
    return Scale(title, 0.0 if zero and low >= 0 else low - room, high + room)


def ticks(of: Scale) -> list[float]:
    """Round values between the ends of an axis: powers and halves of ten over wide ranges, equal steps over small."""
    decades = math.log10(of.high / of.low) if of.log else 0.0
    if decades > 1.2:
        parts = (1, 2, 5) if decades < 2.5 else (1,)
        every = max(1, math.ceil(decades / (2 * TICKS)))
        first, last = math.floor(math.log10(of.low)), math.ceil(math.log10(of.high))
        found = [part * 10.0**power for power in range(first, last + 1, every) for part in parts]
        return [float(f"{v:.6g}") for v in found if of.low <= v <= of.high]
    rough = (of.high - of.low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(part * power for part in (1, 2, 5, 10) if part * power >= rough * 0.999)
    first, last = math.ceil(of.low / step - 1e-9), math.floor(of.high / step + 1e-9)
    return [float(f"{place * step:.9g}") for place in range(first, last + 1)]


def number(value: float) -> str:
    """The text of a tick."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.6g}"


@dataclass(frozen=True)
class Row:
    """One row of a chart of rows; texts as plotly is to draw them."""

    label: str
    reading: str = ""
    """Its numbers, or why it has none."""
    short: str | None = None
    """The numbers on a small screen; None for `reading`."""
    kind: Literal["value", "absent", "head"] = "value"
    """`head`: a title over the rows below it."""


def row_chart(data: list[Figure], rows: Sequence[Row], along: Scale, room: int = GUTTER) -> Figure:
    """Rows from top to bottom at y = 0, 1, 2, ...; `room`: pixels for the numbers beside them."""
    layout = {
        **frame(70 + 34 * len(rows), {"l": 8, "r": room, "t": 4, "b": 58}), "xaxis": along.layout(),
        "yaxis": axis(range=[len(rows) - 0.4, -0.6], showgrid=False, zeroline=False, automargin=True,
                      tickvals=list(range(len(rows))), ticktext=[_label(row) + "  " for row in rows]),
        "annotations": [gutter(i, row.reading, _ink(row)) for i, row in enumerate(rows) if row.reading],
    }  # fmt: skip
    above = [
        {**gutter(i, _above(row), _ink(row)), "x": 0, "xshift": 0, "y": i - (0.39 if row.kind == "value" else 0.1),
         "bgcolor": "@card"}
        for i, row in enumerate(rows)
    ]  # fmt: skip
    narrow = {
        "height": 74 + 50 * len(rows), "margin": {**layout["margin"], "r": 14}, "font": {**layout["font"], "size": 12},
        "yaxis": {**layout["yaxis"], "showticklabels": False, "range": [len(rows) - 0.5, -0.7]}, "annotations": above,
    }  # fmt: skip
    return {"data": data, "layout": layout, "narrow": narrow}


def _above(row: Row) -> str:
    """A row's texts on a small screen: over the plot, on two lines where there is no point to leave room for."""
    reading = row.reading if row.short is None else row.short
    if row.kind == "absent" or not reading:
        return _label(row) + (f"<br>{reading}" if reading else "")
    name, room = unescape(row.label), ABOVE - len(reading)
    return f"{row.label if len(name) <= room else plain(name[: room - 1] + '…')}  {reading}"


def _label(row: Row) -> str:
    return f"<b>{row.label}</b>" if row.kind == "head" else row.label


def _ink(row: Row) -> str:
    return "@muted" if row.kind == "absent" else "@ink"


def whiskers(found: Sequence[tuple[float, Ends | None]], color: str) -> Figure:
    """Error bars from values and their intervals' ends; none where there is no interval."""
    return {"type": "data", "symmetric": False, "color": color, "thickness": 2, "width": 0,
            "array": [0.0 if ends is None else ends[1] - value for value, ends in found],
            "arrayminus": [0.0 if ends is None else value - ends[0] for value, ends in found]}  # fmt: skip


def upright(name: str, at: Sequence[tuple[float, int]], color: str = "@ink", hover: Sequence[str] = ()) -> Figure:
    """Upright ticks on rows: a limit, a break-even."""
    return {"type": "scatter", "name": name, "mode": "markers", "x": [x for x, _ in at], "y": [y for _, y in at],
            "marker": {"symbol": "line-ns-open", "size": 18, "color": color, "line": {"width": 2.5, "color": color}},
            **_hover(hover)}  # fmt: skip


def bands(name: str, ends: Sequence[tuple[float, float, int]]) -> Figure:
    """Broad grey lines on rows: what noise alone may do."""
    x = [value for low, high, _ in ends for value in (low, high, None)]
    y = [value for *_, place in ends for value in (place, place, None)]
    return {"type": "scatter", "name": name, "mode": "lines", "x": x, "y": y, "hoverinfo": "skip",
            "line": {"color": "@line", "width": 14}}  # fmt: skip


def level(place: float) -> Figure:
    """A line through all rows at one value, e.g. 1: no change."""
    return {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": place, "x1": place, "layer": "below",
            "line": {"color": "@ink", "width": 1.5}}  # fmt: skip


def legend(layout: Figure) -> Figure:
    """The layout with a legend above the plot, where names cannot stand beside what they name."""
    place = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "bgcolor": "@card",
             "font": {"color": "@ink", "size": 12}, "itemclick": False, "itemdoubleclick": False}  # fmt: skip
    return {**layout, "showlegend": True, "legend": place}


def _hover(texts: Sequence[str]) -> Figure:
    return {"text": [plain(text) for text in texts], "hoverinfo": "text"} if texts else {"hoverinfo": "skip"}
