"""`vllm bench throughput --output-json` and `vllm bench latency --output-json`.

Neither names model, lengths or hardware. `tokens_per_second` counts input and output tokens together.
"""

import re

from evalsuite.importing.speeds.fields import Source, single
from evalsuite.records import ForeignSpeed, ForeignThroughput, ForeignWorkload

NAMELESS = "the file names neither model nor hardware nor lengths"
PERCENTILE = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,4})?")


def read_throughput(source: Source) -> list[ForeignSpeed]:
    """The one row of `vllm bench throughput`."""
    result = single(source)
    result.require(("tokens_per_second",), "a result of vllm bench throughput")
    result.notes.append(NAMELESS)
    return [ForeignSpeed(
        **result.row(0, "vllm-throughput"), framework="vllm", window="whole_run",
        duration_s=result.figure("elapsed_time"), workload=ForeignWorkload(requests=result.count("num_requests")),
        throughput=ForeignThroughput(
            total_tok_s=result.figure("tokens_per_second"), requests_s=result.figure("requests_per_second")
        ),
        notes=tuple(result.notes),
    )]  # fmt: skip


def read_latency(source: Source) -> list[ForeignSpeed]:
    """The one row of `vllm bench latency`: how long one batch takes from prompt to last token."""
    result = single(source)
    result.require(("avg_latency",), "a result of vllm bench latency")
    names = {"mean": "avg_latency", "std": "std_latency"}
    found = {name: value for name, key in names.items() if (value := result.number(key)) is not None}
    table = result.inner("percentiles")
    found |= {f"p{key}": value for key in table.data
              if PERCENTILE.fullmatch(key) and (value := table.number(key)) is not None}  # fmt: skip
    repeats = len(result.numbers("latencies"))
    return [ForeignSpeed(
        **result.row(0, "vllm-latency"), framework="vllm", window="whole_run", repeats=repeats or None,
        latency={"e2el_s": found}, notes=(NAMELESS, "a latency is that of a whole batch"),
    )]  # fmt: skip
