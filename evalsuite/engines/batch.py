"""One group under way: the rows that still run, and how the next token of each is chosen."""

import random
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from evalsuite.engines import GenerateRequest, Generation


class Batch:
    """The running rows of one group: ids, mask and positions of the next forward pass, and what each row has so far."""

    def __init__(self, requests: Sequence[GenerateRequest], pad: int, device: torch.device) -> None:
        self.requests = requests
        self.rows = list(range(len(requests)))
        self.tokens: list[list[int]] = [[] for _ in requests]
        self.reason: list[Any] = [None] * len(requests)
        self.draws = [random.Random(r.seed) if r.temperature > 0 else None for r in requests]
        width = max(len(r.prompt) for r in requests)
        ids = torch.full((len(requests), width), pad, dtype=torch.long)
        mask = torch.zeros(len(requests), width, dtype=torch.long)
        for i, request in enumerate(requests):
            ids[i, width - len(request.prompt) :] = torch.tensor(request.prompt)
            mask[i, width - len(request.prompt) :] = 1
        self.ids, self.mask = ids.to(device), mask.to(device)
        self.positions = (self.mask.cumsum(-1) - 1).clamp_min(0)

    def choose(self, logits: Tensor) -> Tensor:
        """The next token of every row of the batch (`logits`: rows x vocabulary)."""
        token = logits.argmax(-1)
        for i, row in enumerate(self.rows):
            if (draw := self.draws[row]) is not None:
                token[i] = sample(logits[i], self.requests[row], draw.random())
        return token

    def select(self, keep: list[int], index: Tensor) -> None:
        """Drop the rows that are not in `keep`."""
        self.rows = [self.rows[i] for i in keep]
        self.mask = self.mask[index]
        self.positions = self.positions[index]

    def extend(self, token: Tensor) -> tuple[Tensor, Tensor]:
        """Ids and positions of the next step, one column."""
        self.mask = F.pad(self.mask, (0, 1), value=1)
        self.positions = self.positions[:, -1:] + 1
        return token[:, None], self.positions

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
