"""Charts of speed: tokens a second beside the physical limit, ratios to the baseline, and every round.

An arm without a number has a row with the reason and no point. The null arm (the baseline a second time) is drawn as
the baseline, hollow; what it shows against itself is the grey band of the ratios: a change inside it is noise.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from evalsuite.judge.rounds import SPEED, Quantity
from evalsuite.publish import text
from evalsuite.publish.benches import NO_SPEED, JudgedBench, limit_of
from evalsuite.publish.canvas import (
    Figure,
    Row,
    axis,
    bands,
    cut,
    frame,
    legend,
    level,
    plain,
    row_chart,
    scale,
    upright,
    whiskers,
)
from evalsuite.records import Interval, Ratio, Window, Workload


class Placed(NamedTuple):
    """A value on a row."""

    place: int
    value: float
    ends: tuple[float, float] | None
    hover: str
    hollow: bool = False


def dots(bench: JudgedBench, arm: str, placed: Sequence[Placed]) -> Figure:
    """An arm's values with whiskers, as it looks everywhere; hollow ones are not resolved."""
    look = bench.looks[arm]
    symbols = [f"{look.symbol.removesuffix('-open')}-open" if p.hollow else look.symbol for p in placed]
    return {
        "type": "scatter", "name": plain(bench.arm_name(arm)), "mode": "markers",
        "x": [p.value for p in placed], "y": [p.place for p in placed],
        "text": [plain(p.hover) for p in placed], "hoverinfo": "text",
        "marker": {"symbol": symbols, "size": 11, "color": f"@{look.family}", "opacity": 1,
                   "line": {"width": 2, "color": f"@{look.family}"}},
        "error_x": whiskers([(p.value, p.ends) for p in placed], f"@{look.family}"),
    }  # fmt: skip


def reading(found: Interval) -> str:
    """`3,010 [2,950, 3,070]`."""
    ends = "" if found.ci95 is None else f" {text.amount_bounds(found.ci95)}"
    return f"{text.amount(found.value, found.ci95)}{ends}"


def why(codes: Iterable[str]) -> tuple[str, str]:
    """Why there is no point, beside the plot, and the same on a small screen."""
    found = list(codes)
    if "emulated_speed" in found:
        return NO_SPEED, NO_SPEED
    return f"no value: {', '.join(found) or 'see the table'}", "no value: see the table"


def speeds(bench: JudgedBench, workload: Workload) -> Figure:
    """Tokens a second by arm, and each arm's physical limit as an upright tick."""
    rows, data, limits, values = [], [], [], [0.0]
    for place, arm in enumerate(bench.arms):
        point, name = bench.point(arm, workload), bench.arm_name(arm)
        found = point.tokens_per_s if point else None
        if point is None or found is None:
            rows.append(Row(cut(name), *why(point.reasons if point else ("interrupted",)), kind="absent"))
            continue
        limit = limit_of(point)
        share = f"  ·  {text.percent(point.fraction)} of limit" if point.fraction else ""
        rows.append(Row(cut(name), reading(found) + share, reading(found)))
        data.append(dots(bench, arm, [Placed(place, found.value, found.ci95, f"{name}: {reading(found)} tokens/s")]))
        values += [found.value, *(found.ci95 or ())]
        if limit is not None:
            limits.append((limit, place))
    every = values[1:] + [limit for limit, _ in limits]
    # From zero, so that a length is a share of the limit; logarithmic only where points would lie on top of zero.
    wide = bool(every) and max(every) > 12 * min(every)
    along = scale("tokens a second" + (" (logarithmic)" if wide else ""), every, log=wide, zero=True)
    hover = [f"physical limit: {text.amount(limit)} tokens/s" for limit, _ in limits]
    return row_chart([*data, upright("physical limit", limits, hover=hover)], rows, along)


def ratios(bench: JudgedBench, quantity: Quantity = SPEED, only: Iterable[Workload] | None = None) -> Figure:
    """Every candidate over the baseline, point by point, then at best batches; arms without any number once, below."""
    points = bench.bench.workloads if only is None else tuple(only)
    book = _Ratios(bench)
    for workload in points:
        book.group(workload.key, [bench.ratio(arm, workload, quantity) for arm in bench.candidates])
    best = [r for r in bench.best(quantity.name) if r.meter == quantity.meter]
    for preset in dict.fromkeys((r.workload.preset, r.workload.phase, r.workload.depth) for r in best):
        own = [r for r in best if (r.workload.preset, r.workload.phase, r.workload.depth) == preset]
        depth = "" if preset[2] is None else f".d{preset[2]}"
        book.group(f"{preset[0]}.{preset[1]}{depth}, best batches", own)
    return book.figure("ratio to the baseline, " + ("tokens a second" if quantity == SPEED else "joules a token"))


class _Ratios:
    """Rows of ratios in the making."""

    def __init__(self, bench: JudgedBench) -> None:
        self.bench = bench
        self.rows: list[Row] = []
        self.placed: dict[str, list[Placed]] = {arm: [] for arm in bench.candidates}
        self.noise: list[tuple[float, float, int]] = []
        self.limits: list[tuple[float, int]] = []
        self.values = [0.95, 1.05]

    def group(self, title: str, found: Sequence[Ratio | None]) -> None:
        """The candidates at one point."""
        own = [ratio for ratio in found if ratio is not None and ratio.arm not in self.bench.emulated]
        if not own:
            return
        self.rows.append(Row(plain(title), kind="head"))
        for ratio in own:
            self._add(ratio)

    def _add(self, ratio: Ratio) -> None:
        place, name = len(self.rows), self.bench.arm_name(ratio.arm)
        if ratio.value is None:
            self.rows.append(Row(cut(name), *why(ratio.reasons), kind="absent"))
            return
        ends = "" if ratio.ci95 is None else f" {text.factor_bounds(ratio.ci95)}"
        short = f"{text.factor(ratio.value)}{ends}"
        limit = "" if ratio.limit_ratio is None else f"  ·  limits {ratio.limit_ratio:.2f}"
        open_ = "" if ratio.resolved else "  ·  not resolved"
        self.rows.append(Row(cut(name), short + limit + open_, short))
        self.placed[ratio.arm].append(Placed(place, ratio.value, ratio.ci95, ratio.sentence, not ratio.resolved))
        self.values += [ratio.value, *(ratio.ci95 or ())]
        if ratio.aa_halfwidth is not None:
            ends_ = (1 / (1 + ratio.aa_halfwidth), 1 + ratio.aa_halfwidth)
            self.noise.append((*ends_, place))
            self.values += ends_
        if ratio.limit_ratio is not None:
            self.limits.append((ratio.limit_ratio, place))
            self.values.append(ratio.limit_ratio)

    def figure(self, title: str) -> Figure:
        """All rows, and below them the arms that were emulated."""
        rows = [*self.rows, *(Row(cut(self.bench.arm_name(arm)), NO_SPEED, kind="absent")
                              for arm in self.bench.emulated)]  # fmt: skip
        traces = [dots(self.bench, arm, placed) for arm, placed in self.placed.items() if placed]
        hover = [f"ratio of the limits: {text.factor(limit)}" for limit, _ in self.limits]
        data = [bands("noise", self.noise), *traces, upright("ratio of the limits", self.limits, hover=hover)]
        made = row_chart(data, rows, scale(title, self.values, log=True))
        made["layout"]["shapes"] = [level(1.0)]
        return made


def rounds(bench: JudgedBench, workload: Workload) -> Figure:
    """Every window of every arm, over the time of the bench, relative to its arm's median: drift is seen as a slope."""
    data, most = [], 0.5
    for arm in bench.arms:
        windows = bench.windows(arm, workload)
        kept = [w for w in windows if not w.voided]
        if not kept:
            continue
        middle = float(np.median([w.tokens_per_s(workload.phase) for w in kept]))
        moved = {id(w): 100 * (w.tokens_per_s(workload.phase) / middle - 1) for w in windows}
        most = max([most, *map(abs, moved.values())])
        groups = [own for own in (kept, [w for w in windows if w.voided]) if own]
        data += [_strip(bench, arm, own, [moved[id(w)] for w in own]) for own in groups]
    made = {
        **legend(frame(250, {"l": 8, "r": 14, "t": 8, "b": 52})),
        "xaxis": axis("seconds since the bench began", zeroline=False),
        "yaxis": axis("% from median", range=[round(-1.15 * most, 4), round(1.15 * most, 4)],
                      zerolinecolor="@ink", zerolinewidth=1, automargin=True),
    }  # fmt: skip
    return {"data": data, "layout": made, "narrow": {"height": 280, "font": {**made["font"], "size": 12}}}


def _strip(bench: JudgedBench, arm: str, windows: Sequence[Window], moved: Sequence[float]) -> Figure:
    look, name, void = bench.looks[arm], bench.arm_name(arm), windows[0].voided
    hover = [
        f"{name}, round {w.round + 1}, turn {w.position + 1}: {m:+.1f} %"
        + (f"; voided ({', '.join(w.reasons)}) and measured again" if void else f"  {', '.join(w.reasons)}".rstrip())
        for w, m in zip(windows, moved, strict=True)
    ]
    return {
        "type": "scatter", "name": plain(f"{name}, voided" if void else name),
        "mode": "markers" if void else "lines+markers", "showlegend": not void,
        "x": [round(w.start_s, 2) for w in windows], "y": [round(m, 3) for m in moved],
        "text": [plain(line) for line in hover], "hoverinfo": "text",
        "line": {"color": f"@{look.family}", "width": 1, "dash": look.dash},
        "marker": {"symbol": "x-thin-open" if void else look.symbol, "size": 9, "opacity": 1,
                   "color": f"@{look.family}", "line": {"width": 1.5, "color": f"@{look.family}"}},
    }  # fmt: skip
