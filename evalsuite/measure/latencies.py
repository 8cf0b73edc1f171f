"""From the times of requests to what is reported of them: pure arithmetic, the same for every engine.

A `Served` is one finished request: when it was sent, when each piece of its answer came, how many tokens each piece
held. `work_of` sums many of them up as the `Work` of a window.

Two spans are counted. The *steady state* is ML.ENERGY's: from the moment as many requests as fit have their first
token, until N - largest - 1 of the N requests have finished; filling up and running dry are outside. It is the window.
The *whole run*, from the first sending to the last piece, stands beside it.

Everything belongs to the span in which it ends: a time to the first token to the one with the first piece, a gap to the
one with its later piece, a request to the one with its last piece. A span excludes its first instant and includes its
last. So the burst of requests that opens a closed loop is in no steady state.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evalsuite.measure.loads import Work
from evalsuite.records import Latency, Percentiles, WholeRun

Times = NDArray[np.int64]
"""Nanoseconds of `time.perf_counter_ns()`."""
NS = 1e9


@dataclass(frozen=True, slots=True)
class Served:
    """One finished request."""

    sent_ns: int
    """First sending; retries and the waiting before them count as latency."""
    times_ns: Times
    """When each non-empty piece came, at least one, ascending. A piece of reasoning is one like any other."""
    tokens: Times | None
    """Tokens of each piece; None where the engine only says how many there were in all."""
    input_tokens: int
    output_tokens: int

    @property
    def first_ns(self) -> int:
        """When the first piece came."""
        return int(self.times_ns[0])

    @property
    def last_ns(self) -> int:
        """When the last piece came."""
        return int(self.times_ns[-1])

    @property
    def one_by_one(self) -> bool:
        """Whether every piece held exactly one token."""
        if self.tokens is None:
            return len(self.times_ns) == self.output_tokens
        return bool((self.tokens == 1).all())


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time, without its first instant and with its last."""

    start_ns: int
    end_ns: int

    def has(self, t_ns: int) -> bool:
        """Whether a moment lies inside."""
        return self.start_ns < t_ns <= self.end_ns

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.end_ns - self.start_ns) / NS


@dataclass(frozen=True, slots=True)
class Limits:
    """Service levels: the longest latencies, in seconds, with which a request counts as good; None: no limit."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2el_s: float | None = None


@dataclass(frozen=True, slots=True)
class Loop:
    """How requests were kept coming."""

    largest: int
    """Most requests in flight (closed loop), or in a batch (queue)."""
    queued: bool = False
    """All requests were handed over at once: the wait for the first token is the queue's, and no latency."""
    limits: Limits | None = None


class Progress:
    """How long the steady state of a run that still goes on would be if no more requests were sent."""

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._begun = 0
        self.start_ns: int | None = None
        """When the steady state began; None before."""
        self._ended_ns: list[int] = []

    def begun(self, t_ns: int) -> None:
        """A request got its first piece."""
        self._begun += 1
        if self._begun == self._largest:
            self.start_ns = t_ns

    def ended(self, t_ns: int) -> None:
        """A request got its last piece."""
        self._ended_ns.append(t_ns)

    def seconds(self, n: int) -> float:
        """Length of the steady state so far of a run of *n* requests in all; 0 where it has none yet."""
        ended = min(len(self._ended_ns), n - self._largest - 1)
        if ended < 1 or self.start_ns is None:
            return 0.0
        return (self._ended_ns[ended - 1] - self.start_ns) / NS


def percentiles(values: Sequence[float]) -> Percentiles | None:
    """Mean and percentiles by linear interpolation; one that too few values support is None, and so is all without any.

    pXX needs 10 / (1 - XX/100) values: 20, 100, 1000 (in whole numbers, where no rounding can shift the limit).
    """
    if not len(values):
        return None
    n = len(values)
    found = {
        f"p{p}": float(np.percentile(values, p, method="linear")) if n * (100 - p) >= 1000 else None
        for p in (50, 90, 99)
    }
    return Percentiles(n=n, mean=float(np.mean(values)), **found)


def whole(served: Sequence[Served]) -> Span:
    """From the first sending to the last piece."""
    return Span(min(one.sent_ns for one in served), max(one.last_ns for one in served))


def steady(served: Sequence[Served], largest: int) -> Span | None:
    """The steady state of finished requests; None if there are too few of them to have one."""
    ended = len(served) - largest - 1
    if ended < 1:
        return None
    start = sorted(one.first_ns for one in served)[largest - 1]
    end = sorted(one.last_ns for one in served)[ended - 1]
    return Span(start, end) if end > start else None


def tokens_in(one: Served, span: Span) -> int:
    """Tokens that came inside a span. Where pieces do not say how many they hold, each holds the same share."""
    inside = (one.times_ns > span.start_ns) & (one.times_ns <= span.end_ns)
    if one.tokens is None:
        return round(one.output_tokens * int(inside.sum()) / len(inside))
    return int(one.tokens[inside].sum())


def run_of(served: Sequence[Served], span: Span) -> WholeRun:
    """What was done in a span: tokens that came, prompts whose first token came, requests that ended."""
    return WholeRun(
        duration_s=span.seconds,
        input_tokens=sum(one.input_tokens for one in served if span.has(one.first_ns)),
        output_tokens=sum(tokens_in(one, span) for one in served),
        requests=sum(span.has(one.last_ns) for one in served),
    )


def in_flight(served: Sequence[Served], span: Span) -> float:
    """Requests between sending and last piece, on average over a span."""
    overlap = (min(one.last_ns, span.end_ns) - max(one.sent_ns, span.start_ns) for one in served)
    return sum(max(0, each) for each in overlap) / NS / span.seconds


def batch(served: Sequence[Served], span: Span) -> float | None:
    """Answers that grew at each moment at which any did, on average over a span: the batch of an engine whose steps
    are seen one by one. None where nothing grew."""
    moments = np.concatenate([one.times_ns for one in served])
    moments = moments[(moments > span.start_ns) & (moments <= span.end_ns)]
    return len(moments) / len(np.unique(moments)) if len(moments) else None


def latency(served: Sequence[Served], span: Span, loop: Loop) -> Latency:
    """The latencies that ended inside a span; those that the way of sending makes meaningless are None."""
    done = [one for one in served if span.has(one.last_ns)]
    inside: list[float] = []
    for one in served:
        later = one.times_ns[1:]
        inside += (np.diff(one.times_ns)[(later > span.start_ns) & (later <= span.end_ns)] / NS).tolist()
    gaps = percentiles(inside)
    single = all(one.one_by_one for one in served)
    ttft = percentiles([(one.first_ns - one.sent_ns) / NS for one in served if span.has(one.first_ns)])
    e2el = percentiles([(one.last_ns - one.sent_ns) / NS for one in done])
    return Latency(
        ttft_s=None if loop.queued else ttft,
        tpot_s=percentiles([t for t in map(tpot, done) if t is not None]),
        itl_s=gaps if single else None,
        icl_s=None if single else gaps,
        e2el_s=None if loop.queued else e2el,
        goodput_per_s=None if loop.limits is None else sum(good(one, loop.limits) for one in done) / span.seconds,
    )


def tpot(one: Served) -> float | None:
    """Seconds a token behind the first; None for an answer of fewer than two tokens."""
    return None if one.output_tokens <= 1 else (one.last_ns - one.first_ns) / NS / (one.output_tokens - 1)


def good(one: Served, limits: Limits) -> bool:
    """Whether a request kept all limits. An answer of one token has no time per token to keep."""
    pairs = (
        ((one.first_ns - one.sent_ns) / NS, limits.ttft_s),
        (tpot(one), limits.tpot_s),
        ((one.last_ns - one.sent_ns) / NS, limits.e2el_s),
    )
    return all(value is None or limit is None or value <= limit for value, limit in pairs)


def work_of(served: Sequence[Served], loop: Loop) -> Work:
    """What many requests, all finished, come to. Too few of them for a steady state: the whole run is the window, and
    `not_steady` says so."""
    around = whole(served)
    span = steady(served, loop.largest)
    window = span or around
    mean = batch(served, window) if loop.queued else in_flight(served, window)
    found = latency(served, window, loop)
    shown = [one for one in (found.ttft_s, found.tpot_s, found.itl_s, found.icl_s, found.e2el_s) if one is not None]
    reasons = {
        "not_steady": span is None or mean is None or mean < 0.8 * loop.largest,
        "few_requests": any(None in (one.p50, one.p90, one.p99) for one in shown),
    }
    run = run_of(served, window)
    return Work(
        start_ns=window.start_ns,
        end_ns=window.end_ns,
        iterations=run.requests,
        input_tokens=run.input_tokens,
        output_tokens=run.output_tokens,
        requests=run.requests,
        latency=found,
        reasons=tuple(code for code, true in reasons.items() if true),
        whole_run=run_of(served, around),
    )
