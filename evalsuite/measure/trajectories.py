"""Divergence forward passes: every arm reads the answers that the baseline wrote, and its next-token distributions are
held against the baseline's, token by token.

The baseline's own answers are the trajectories, so all arms see the same contexts and one early difference does not
make the rest incomparable. The baseline's distribution is kept as its `top_k` likeliest tokens and one bucket for all
others (the whole vocabulary where it is not larger); an arm reports its log-probabilities of the same tokens. The
Kullback-Leibler divergence of the two is a lower bound of the full one, and equals it for the whole vocabulary.

Sequences are the first items of the seeded order of every task in turn, up to a budget of tokens an arm and mode.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from evalsuite.engines import Session, Trace, TraceRequest
from evalsuite.harness import Workload
from evalsuite.store import Row

BATCH_TOKENS = 16_384
"""Tokens of one forward pass, padding included."""
END_THINK = "</think>"


def choose(
    workloads: Sequence[Workload], answers: dict[str, dict[int, Row]], budget: int
) -> list[tuple[Workload, int, TraceRequest]]:
    """Sequences of one mode: (workload, position, request). `answers`: task -> position -> the baseline's sample."""
    generating = [w for w in workloads if any(row["output_token_ids"] for row in answers[w.spec.task].values())]
    queues = [(w, iter(range(len(w.items)))) for w in generating]
    chosen: list[tuple[Workload, int, TraceRequest]] = []
    while queues:
        for queue in list(queues):
            workload, positions = queue
            position = next(positions, None)
            if position is None:
                queues.remove(queue)
                continue
            row = answers[workload.spec.task].get(position)
            if row is None or not row["output_token_ids"]:
                continue
            request = TraceRequest(workload.items[position].requests[0].prompt, tuple(row["output_token_ids"]))  # type: ignore[union-attr]
            budget -= len(request.prompt) + len(request.continuation)
            if budget < 0:
                return chosen
            chosen.append((workload, position, request))
    return chosen


def trace(
    session: Session, requests: Sequence[TraceRequest], top_k: int, support: Sequence[Trace] | None = None
) -> list[Trace]:
    """Distributions along all requests, in batches of like length. `support`: whose tokens to report instead of own."""
    order = sorted(range(len(requests)), key=lambda i: (_length(requests[i]), i))
    found: list[Trace | None] = [None] * len(requests)
    for batch in _batches(requests, order):
        on = None if support is None else [support[i].tokens for i in batch]
        for i, made in zip(batch, session.trace([requests[i] for i in batch], top_k, on), strict=True):
            found[i] = made
    return [one for one in found if one is not None]


def _length(request: TraceRequest) -> int:
    return len(request.prompt) + len(request.continuation)


def _batches(requests: Sequence[TraceRequest], order: Sequence[int]) -> Iterator[list[int]]:
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) + 1) * _length(requests[i]) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def compare(base: Trace, arm: Trace) -> dict[str, np.ndarray]:
    """Per token: `kl` (nats, in FP64 from FP32 log-probabilities, not below 0), `same_top`, and both log-probabilities
    of the token that the baseline wrote. `arm` must have been traced on the baseline's tokens."""
    p, q = base.logprobs.astype(np.float64), arm.logprobs.astype(np.float64)
    kl = (np.exp(p) * (p - q)).sum(-1)
    rest = np.isfinite(base.rest)
    kl[rest] += np.exp(base.rest[rest]) * (base.rest[rest].astype(np.float64) - arm.rest[rest])
    return {
        "kl": np.maximum(kl, 0.0), "same_top": base.top == arm.top,
        "logprob_base": base.chosen, "logprob": arm.chosen,
    }  # fmt: skip


def rows_of(where: tuple[Workload, int], request: TraceRequest, found: dict[str, np.ndarray]) -> list[Row]:
    """Rows of `divergence.parquet`, one a token. `where`: the workload and the position of the item in it."""
    workload, position = where
    item, ids = workload.items[position], list(request.continuation)
    marker = workload.tokenizer.encode(END_THINK, add_special_tokens=False)
    closed = len(ids) - ids[::-1].index(marker[0]) if len(marker) == 1 and marker[0] in ids else 0
    return [
        {"task": workload.spec.task, "item_id": item.item_id, "item_hash": item.item_hash, "position": position,
         "token": token, "thinking": token < closed, "kl": _number(found["kl"][token]),
         "same_top": bool(found["same_top"][token]), "logprob_base": _number(found["logprob_base"][token]),
         "logprob": _number(found["logprob"][token])}
        for token in range(len(ids))
    ]  # fmt: skip


def _number(x: float) -> float | None:
    return float(x) if math.isfinite(x) else None
