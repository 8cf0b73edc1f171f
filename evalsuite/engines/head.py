"""The output head: logits at chosen positions from FP32 operands, and what is read off them."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SLICE_ELEMENTS = 2**26
"""Logits (positions x vocabulary) that are held at once: 256 MB."""


def padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ids and mask of rows padded on the right."""
    width = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    return ids, mask


def distribution(logp: Tensor, tokens: Tensor, written: Tensor) -> tuple[Tensor, ...]:
    """The columns of a `Trace` from log-probabilities (positions x vocabulary)."""
    rest = logp.scatter(-1, tokens, -torch.inf).logsumexp(-1)
    return tokens, logp.gather(-1, tokens), rest, logp.argmax(-1), logp.gather(-1, written[:, None])[:, 0]


class FP32Head:
    """Logits at chosen positions from FP32 operands, where the architecture's head is a plain linear layer.

    A model that scales or caps its logits is recognised by a probe (its own logits are not `hidden @ W`); its own
    logits are then used, widened to FP32, and `logits_dtype` says so. So are those of a head that is itself quantised.
    """

    def __init__(self, model: Any, quantised: tuple[str, ...]) -> None:
        self._model = model
        self._body = model.get_decoder()
        self._head = model.get_output_embeddings()
        self._weight = self._head.weight.float()
        self._bias = None if getattr(self._head, "bias", None) is None else self._head.bias.float()
        own = any(module is self._head and name in quantised for name, module in model.named_modules())
        self.logits_dtype = "float32" if not own and self._plain() else str(model.dtype).removeprefix("torch.")

    def _plain(self) -> bool:
        ids = torch.arange(1, 9, device=self._weight.device)[None]
        own = self._model(input_ids=ids, use_cache=False).logits.float()
        ours = self._project(self._body(input_ids=ids, use_cache=False).last_hidden_state)
        scale = own.abs().max().clamp_min(1e-6)
        return bool(((own - ours).abs().max() / scale) < 0.02)

    def _project(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden.float(), self._weight, self._bias)

    def __call__(self, ids: Tensor, mask: Tensor, at: Tensor) -> Tensor:
        """Logits (float32, `len(at)` x vocabulary) at the (row, position) pairs `at` of right-padded `ids`."""
        return torch.cat(list(self.slices(ids, mask, at)))

    def slices(self, ids: Tensor, mask: Tensor, at: Tensor) -> Iterator[Tensor]:
        """The same a slice of `at` after the other, so that a large vocabulary does not fill the memory."""
        if self.logits_dtype == "float32":
            hidden = self._body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            chosen = hidden[at[:, 0], at[:, 1]]
            for part in chosen.split(max(1, SLICE_ELEMENTS // self._weight.shape[0])):
                yield self._project(part)
        else:
            logits: Tensor = self._model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            yield logits[at[:, 0], at[:, 1]].float()
