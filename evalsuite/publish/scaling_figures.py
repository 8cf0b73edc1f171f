"""The chart of one workload over numbers of devices: speed beside the ideal line, and where more devices do not pay."""

import math
from collections.abc import Sequence

from evalsuite.publish import text
from evalsuite.publish.benches import JudgedBench
from evalsuite.publish.canvas import Figure, axis, cut, frame, legend, plain, scale, whiskers
from evalsuite.publish.speed_figures import reading
from evalsuite.records import Scaling


def scaling(bench: JudgedBench, own: Sequence[Scaling]) -> Figure:
    """Arms of one workload over numbers of devices: speed with the ideal line; below, efficiency and communication."""
    data: list[Figure] = []
    counts = sorted({step.devices for one in own for step in one.steps})
    for one in own:
        data += _scaled(bench, one)
    # Both axes are logarithmic: the ideal is then a straight line, and the gap to it is the efficiency.
    speed = scale("tokens a second", [y for trace in data if "yaxis" not in trace for y in trace["y"]], log=True)
    stops = [(one.stops_at, bench.arm_name(one.arm)) for one in own if one.stops_at is not None]
    made = {
        **legend(frame(460, {"l": 8, "r": 14, "t": 8, "b": 52})),
        "xaxis": axis("devices", type="log", tickvals=counts, ticktext=[str(n) for n in counts], anchor="y2",
                      range=[math.log10(counts[0] * 0.85), math.log10(counts[-1] * 1.18)], zeroline=False),
        "yaxis": {**speed.layout(), "domain": [0.42, 1.0], "automargin": True},
        "yaxis2": axis("%", domain=[0.0, 0.32], range=[0, 112], tickvals=[0, 50, 100], automargin=True),
        "shapes": [_stop(n) for n, _ in stops],
        "annotations": [_stop_words(n, name) for n, name in stops],
    }  # fmt: skip
    return {"data": data, "layout": made, "narrow": {"height": 440, "font": {**made["font"], "size": 12}}}


def _scaled(bench: JudgedBench, one: Scaling) -> list[Figure]:
    look, name = bench.looks[one.arm], bench.arm_name(one.arm)
    devices, first = [step.devices for step in one.steps], one.steps[0]
    speed = [step.tokens_per_s for step in one.steps]
    ink, each = f"@{look.family}", first.tokens_per_s.value / first.devices
    line = {"color": ink, "width": 1.5, "dash": look.dash}
    marker = {"symbol": look.symbol, "size": 10, "color": ink, "opacity": 1}
    made: list[Figure] = [
        {"type": "scatter", "name": "ideal", "mode": "lines", "x": devices, "y": [each * n for n in devices],
         "hoverinfo": "skip", "showlegend": False, "line": {"color": "@muted", "width": 1, "dash": "dot"}},
        {"type": "scatter", "name": plain(name), "mode": "lines+markers", "x": devices, "y": [s.value for s in speed],
         "text": [plain(f"{name} on {n}: {reading(s)} tokens/s") for n, s in zip(devices, speed, strict=True)],
         "hoverinfo": "text", "line": line, "marker": marker,
         "error_y": whiskers([(s.value, s.ci95) for s in speed], ink)},
        {"type": "scatter", "name": plain(f"{name}: efficiency"), "mode": "lines+markers", "yaxis": "y2",
         "showlegend": False, "x": devices, "y": [100 * step.efficiency.value for step in one.steps],
         "text": [plain(f"{name} on {s.devices}: {text.percent(s.efficiency.value)} efficient") for s in one.steps],
         "hoverinfo": "text", "line": line, "marker": marker},
    ]  # fmt: skip
    busy = [(step.devices, step.communication) for step in one.steps if step.communication is not None]
    if busy:
        made.append({
            "type": "scatter", "name": plain(f"{name}: communication"), "mode": "markers", "yaxis": "y2",
            "showlegend": False, "x": [n for n, _ in busy], "y": [100 * share for _, share in busy],
            "text": [plain(f"{name} on {n}: {text.percent(share)} of the time in communication") for n, share in busy],
            "hoverinfo": "text", "marker": {"symbol": "x-thin-open", "size": 9, "color": ink,
                                            "line": {"width": 2, "color": ink}},
        })  # fmt: skip
    return made


def _stop(devices: int) -> Figure:
    return {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": devices, "x1": devices,
            "line": {"color": "@unsafe", "width": 1.5, "dash": "5px,4px"}}  # fmt: skip


def _stop_words(devices: int, name: str) -> Figure:
    return {"x": math.log10(devices), "xanchor": "right", "xshift": -6, "yref": "paper", "y": 0.44, "yanchor": "bottom",
            "showarrow": False, "text": f"{cut(name)}: {devices} do not pay", "bgcolor": "@card",
            "font": {"color": "@unsafe", "size": 12}}  # fmt: skip
