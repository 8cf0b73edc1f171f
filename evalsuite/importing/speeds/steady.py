"""The steady state of a serving benchmark, from the times of its requests.

With `places` requests in flight at most, it begins when `places` requests have their first token, and ends when
`N - places - 1` of the N requests have finished: after that no request waits to take a place that becomes free. (The
rule of ML.ENERGY; a window counts from 30 s on, and with a mean batch of 80 % of `places`.)
"""

from dataclasses import dataclass
from itertools import accumulate

from evalsuite.errors import UsageError
from evalsuite.importing.speeds.fields import Fields

SHORTEST_S = 30.0
FULL = 0.8
TICK_S = 1e-6
"""Shorter than this there was no window."""


@dataclass(frozen=True)
class Requests:
    """Requests that were completed: seconds, on the benchmark's own clock."""

    starts: list[float]
    arrivals: list[list[float]]
    """When each piece of output arrived."""
    tokens: list[float]
    """Output tokens a piece; more than 1 where a piece carries several."""

    @classmethod
    def of(cls, result: Fields) -> "Requests":
        """The completed requests of a detailed result; UsageError where its lists do not fit each other."""
        starts, ttfts = result.numbers("start_times"), result.numbers("ttfts")
        gaps, lens, errors = result.values("itls"), result.numbers("output_lens"), result.values("errors")
        sizes = {"start_times": len(starts), "ttfts": len(ttfts), "itls": len(gaps), "output_lens": len(lens)}
        if len(set(sizes.values())) != 1 or (errors and len(errors) != len(starts)):
            told = ", ".join(f"{key} {size}" for key, size in sizes.items())
            raise UsageError(f"{result.source.path}: the lists of requests differ in length ({told}).")
        made = cls([], [], [])
        for i, start in enumerate(starts):
            pieces = Fields(result.source, {"itls": gaps[i]}, f"itls[{i}]").numbers("itls")
            if lens[i] >= 1 and not (errors and errors[i]):
                made.starts.append(start)
                made.arrivals.append(list(accumulate(pieces, initial=start + ttfts[i])))
                made.tokens.append(lens[i] / (1 + len(pieces)))
        return made


@dataclass(frozen=True)
class Steady:
    """What was seen in the steady state."""

    duration_s: float
    output_tok_s: float
    finished: int
    mean_batch: float
    notes: tuple[str, ...]
    reasons: tuple[str, ...]


def steady_state(requests: Requests, places: int) -> Steady | None:
    """The steady state with `places` requests in flight at most; None where there was none."""
    last = len(requests.starts) - places - 1
    if places < 1 or last < 1:
        return None
    begin = sorted(arrivals[0] for arrivals in requests.arrivals)[places - 1]
    end = sorted(arrivals[-1] for arrivals in requests.arrivals)[last - 1]
    duration = end - begin
    if duration < TICK_S:
        return None
    tokens = sum(each * sum(begin < t <= end for t in arrivals)
                 for each, arrivals in zip(requests.tokens, requests.arrivals, strict=True))  # fmt: skip
    busy = sum(max(0.0, min(end, arrivals[-1]) - max(begin, start))
               for start, arrivals in zip(requests.starts, requests.arrivals, strict=True))  # fmt: skip
    if tokens <= 0:
        return None
    batch = busy / duration
    several = sum(each > 1 for each in requests.tokens)
    reasons = (["window_too_short"] if duration < SHORTEST_S else []) + (
        ["not_steady"] if batch < FULL * places else [])  # fmt: skip
    return Steady(
        duration, tokens / duration, sum(begin < arrivals[-1] <= end for arrivals in requests.arrivals), batch,
        (f"in {several} requests a piece carries several tokens, taken as equally many",) if several else (),
        tuple(reasons),
    )  # fmt: skip
