"""What the requests of a task have in common: a few-shot block that all begin with, a context that options share.

An engine that knows it computes each distinct token once (`shared` of a request says how many leading tokens the task's
requests share), and groups are cut by what is left to compute.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from evalsuite.engines import GenerateRequest, ScoreRequest
from evalsuite.groups import Size

SHARED_BY = 32
"""Items whose common beginning is looked for, at most."""
SHARED_LEAST = 32
"""Tokens from which a common beginning is worth computing apart."""
Request = GenerateRequest | ScoreRequest
R = TypeVar("R", GenerateRequest, ScoreRequest, Request)


def share(asked: Sequence[Sequence[R]], by: int = SHARED_BY) -> list[tuple[R, ...]]:
    """The requests of each item with `shared` set, from the tokens that those of the first items begin with.

    The first `by` items decide, so what a request says does not depend on how many come after those.
    """
    starts = [_start(request) for requests in asked[: min(by, SHARED_BY)] for request in requests]
    prefix = starts[0] if starts else ()
    for start in starts[1:]:
        prefix = prefix[: _common(prefix, start)]
    return [tuple(_marked(request, prefix) for request in requests) for requests in asked]


def size_of(requests: Sequence[Request]) -> Size:
    """What an item costs: tokens behind the shared prefix, a context of several options counted once."""
    first = requests[0]
    if isinstance(first, GenerateRequest):
        return Size(1, len(first.prompt) - first.shared + first.max_new)
    scored = [request for request in requests if isinstance(request, ScoreRequest)]
    contexts = {request.context for request in scored}
    return Size(1, sum(len(c) - first.shared for c in contexts) + sum(len(r.continuation) for r in scored))


def _marked(request: R, prefix: tuple[int, ...]) -> R:
    common = _common(prefix, _start(request)[:-1])
    return replace(request, shared=common if common >= SHARED_LEAST else 0)


def _start(request: Request) -> tuple[int, ...]:
    return request.prompt if isinstance(request, GenerateRequest) else request.context


def _common(one: tuple[int, ...], two: tuple[int, ...]) -> int:
    """Leading tokens that both have."""
    return next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
