"""`vllm bench serve --save-result [--save-detailed]`; with `--append-result` one object a line.

The figures of the file are of the whole run, start and end included. A detailed result also gives a row of the steady
state, computed from its requests (`steady`). `request_rate` may be the text "inf"; `e2el` is there only if it was asked
for; `--metadata` writes its own keys beside all others, which are ignored.
"""

import re

from evalsuite.importing.speeds.fields import Fields, Source, objects
from evalsuite.importing.speeds.steady import Requests, steady_state
from evalsuite.records import ForeignSpeed, ForeignThroughput, ForeignWorkload
from evalsuite.records.foreign import LatencyKind

TOOL = "vllm-serve"
HOW_STEADY = ("computed from start_times, ttfts and itls: from the moment that all places were taken until no request "
              "was left to take the next one; batch is the mean")  # fmt: skip
FAMILIES: dict[str, LatencyKind] = {"ttft": "ttft_s", "tpot": "tpot_s", "itl": "itl_s", "e2el": "e2el_s"}
STATISTIC = re.compile(r"(mean|median|std|p[0-9]{1,3}(?:\.[0-9]{1,4})?)_(ttft|tpot|itl|e2el)(_ms)?")
"""Keys of latencies: milliseconds with `_ms`; InferenceX writes seconds without it."""


def read_vllm_serve(source: Source) -> list[ForeignSpeed]:
    """One row a result, and one more for the steady state of a detailed result."""
    rows: list[ForeignSpeed] = []
    for result in objects(source):
        result.require(("output_throughput", "total_token_throughput"), "a result of vllm bench serve")
        whole = _whole(result, len(rows))
        rows.append(whole)
        steady = _steady(result, whole)
        rows += [steady] if steady is not None else []
    return rows


def _whole(result: Fields, index: int) -> ForeignSpeed:
    completed = result.count("completed")
    speed = ForeignThroughput(
        output_tok_s=result.figure("output_throughput"), total_tok_s=result.figure("total_token_throughput"),
        requests_s=result.figure("request_throughput"),
    )  # fmt: skip
    failed = result.count("failed") or 0
    if failed:
        result.notes.append(f"{failed} requests failed")
    if result.data.get("max_concurrency") is None:
        result.notes.append("requests in flight were not limited; batch is unknown")
    return ForeignSpeed(
        **result.row(index, TOOL), measured_at=result.text("date"), label=result.text("label"),
        model=result.text("model_id"), framework=result.text("backend") or result.text("endpoint_type"),
        workload=ForeignWorkload(
            input_tokens=_mean(result.count("total_input_tokens"), completed),
            output_tokens=_mean(result.count("total_output_tokens"), completed),
            batch=result.figure("max_concurrency"), requests=completed,
        ),
        window="whole_run", duration_s=result.figure("duration"), throughput=speed, latency=latencies(result),
        notes=tuple(result.notes),
    )  # fmt: skip


def _mean(total: int | None, n: int | None) -> float | None:
    return total / n if total is not None and n else None


def latencies(result: Fields) -> dict[LatencyKind, dict[str, float]]:
    """All latency statistics of a result, in seconds."""
    found: dict[LatencyKind, dict[str, float]] = {}
    for key in result.data:
        named = STATISTIC.fullmatch(key)
        value = result.number(key) if named else None
        if named and value is not None:
            name = "p50" if named[1] == "median" else named[1]
            found.setdefault(FAMILIES[named[2]], {})[name] = value / 1000 if named[3] else value
    return found


def _steady(result: Fields, whole: ForeignSpeed) -> ForeignSpeed | None:
    """The steady state of a detailed result; None where it has none or is not detailed."""
    if not result.values("itls") or not result.values("start_times") or not whole.workload.batch:
        return None
    requests = Requests.of(result)
    found = steady_state(requests, int(whole.workload.batch))
    if found is None:
        return None
    return whole.model_copy(update={
        "row": whole.row + 1, "window": "steady_state", "duration_s": found.duration_s,
        "workload": whole.workload.model_copy(update={"batch": found.mean_batch, "requests": found.finished}),
        "throughput": ForeignThroughput(
            output_tok_s=found.output_tok_s, requests_s=found.finished / found.duration_s or None
        ),
        "latency": {}, "reasons": found.reasons,
        "notes": (HOW_STEADY, *found.notes),
    })  # fmt: skip
