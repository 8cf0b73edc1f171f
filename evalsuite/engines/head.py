"""The output head: logits from FP32 operands, and what is read off them."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SLICE_ELEMENTS = 2**26
"""Logits (positions x vocabulary) that are held at once: 256 MB."""


def distribution(logp: Tensor, tokens: Tensor, written: Tensor) -> tuple[Tensor, ...]:
    """The columns of a `Trace` from log-probabilities (positions x vocabulary)."""
    rest = logp.scatter(-1, tokens, -torch.inf).logsumexp(-1)
    return tokens, logp.gather(-1, tokens), rest, logp.argmax(-1), logp.gather(-1, written[:, None])[:, 0]


KEPT_ELEMENTS = 2**24
"""Weights of a head up to which a widened copy is kept; a larger one is widened for each slice, in place of its size
in memory a second and third time."""


class Head:
    """The output head of one arm. A head that the arm quantises gives its own logits, widened."""

    def __init__(self, model: Any, quantised: tuple[str, ...]) -> None:
        self.module = model.get_output_embeddings()
        self.own = any(module is self.module and name in quantised for name, module in model.named_modules())
        weight = self.module.weight
        self._kept = weight.float() if weight.numel() <= KEPT_ELEMENTS else None
        self._bias = None if getattr(self.module, "bias", None) is None else self.module.bias.float()
        self._at_once = max(1, SLICE_ELEMENTS // weight.shape[0])

    def project(self, hidden: Tensor) -> Tensor:
        """Logits (float32) of hidden states."""
        if self.own:
            logits: Tensor = self.module(hidden)
            return logits.float()
        weight = self.module.weight.float() if self._kept is None else self._kept
        return F.linear(hidden.float(), weight, self._bias)

    def slices(self, hidden: Tensor) -> Iterator[Tensor]:
        """The same a slice of positions after the other, so that a large vocabulary does not fill the memory."""
        for part in torch.split(hidden, self._at_once):
            yield self.project(part)
