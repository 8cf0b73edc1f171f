"""One group under way: the rows that still run, what each has so far, and how its next token is chosen."""

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from evalsuite.engines import GenerateRequest, Generation


class Batch:
    """The running rows of one group."""

    def __init__(self, requests: Sequence[GenerateRequest]) -> None:
        self.requests = requests
        self.rows = list(range(len(requests)))
        self.tokens: list[list[int]] = [[] for _ in requests]
        self.reason: list[Any] = [None] * len(requests)
        self.draws = [random.Random(r.seed) if r.temperature > 0 else None for r in requests]

    def choose(self, logits: Tensor) -> Tensor:
        """The next token of every row of the batch (`logits`: rows x vocabulary)."""
        token = logits.argmax(-1)
        for i, row in enumerate(self.rows):
            if (draw := self.draws[row]) is not None:
                token[i] = sample(logits[i], self.requests[row], draw.random())
        return token

    def answers(self, tokenizer: Any) -> list[Generation]:
        """All rows' answers, in the order of the requests."""
        texts = tokenizer.batch_decode(self.tokens, skip_special_tokens=True)
        return [
            Generation(tuple(t), text, reason)
            for t, text, reason in zip(self.tokens, texts, self.reason, strict=True)
        ]


def sample(logits: Tensor, request: GenerateRequest, uniform: float) -> int:
    """Draw a token from one row of logits by inverting its cumulative distribution, likeliest token first.

    Two arms that use the same `uniform` draw the same token wherever their distributions agree, so what differs between
    them is the arm and not the dice.
    """
    p, order = torch.softmax(logits.float() / request.temperature, -1).sort(descending=True, stable=True)
    below = p.cumsum(-1)
    kept = int((below - p < request.top_p).sum())  # the token that crosses top_p is kept
    at = torch.searchsorted(below[:kept], uniform * below[kept - 1], right=True)
    return int(order[min(int(at), kept - 1)])
