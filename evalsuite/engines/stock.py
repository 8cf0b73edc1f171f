"""The forward pass of any transformers model: padded rows, transformers' own cache.

Logits for scoring are the FP32 head's where the architecture's head is a plain linear layer. A model that scales or
caps its logits is recognised by a probe (its own logits are not `hidden @ W`); its own logits are then used, widened to
FP32, and `logits_dtype` says so. So are those of a head that is itself quantised.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from evalsuite.engines import GenerateRequest, ScoreRequest
from evalsuite.engines.head import Head
from evalsuite.groups import GROUP_TOKENS, pieces


class StockForward:
    """See `session.Forward`."""

    def __init__(self, model: Any, quantised: tuple[str, ...], pad: int) -> None:
        self._model, self._body, self._pad = model, model.get_decoder(), pad
        self._device = next(model.parameters()).device
        self._head = Head(model, quantised)
        plain = not self._head.own and self._is_plain()
        self.logits_dtype = "float32" if plain else str(model.dtype).removeprefix("torch.")
        self.name: str = model.config._attn_implementation

    def _is_plain(self) -> bool:
        ids = torch.arange(1, 9, device=self._device)[None]
        own = self._model(input_ids=ids, use_cache=False).logits.float()
        ours = self._head.project(self._body(input_ids=ids, use_cache=False).last_hidden_state)
        scale = own.abs().max().clamp_min(1e-6)
        return bool(((own - ours).abs().max() / scale) < 0.02)

    def logits(self, requests: Sequence[ScoreRequest]) -> Iterator[Tensor]:
        """Padded passes of at most a group's tokens; a slice of positions after the other."""
        for part in pieces([len(r.context) + len(r.continuation) for r in requests], GROUP_TOKENS):
            yield from self._pass(requests[part])

    def _pass(self, requests: Sequence[ScoreRequest]) -> Iterator[Tensor]:
        ids, mask = (t.to(self._device) for t in padded([(*r.context, *r.continuation[:-1]) for r in requests]))
        at = [(i, len(r.context) - 1 + j) for i, r in enumerate(requests) for j in range(len(r.continuation))]
        rows, columns = torch.tensor(at, device=self._device).unbind(1)
        if self.logits_dtype == "float32":
            hidden = self._body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            yield from self._head.slices(hidden[rows, columns])
        else:
            logits: Tensor = self._model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            yield logits[rows, columns].float()

    def parts(self, requests: Sequence[GenerateRequest]) -> Iterator[slice]:
        """Groups are cut by what is not shared; here every row holds its whole prompt, so a group may be several."""
        return pieces([len(r.prompt) + r.max_new for r in requests], GROUP_TOKENS)

    def decode(self, requests: Sequence[GenerateRequest]) -> "StockDecoding":
        """Prompts padded on the left, once."""
        return StockDecoding(self._model, *(t.to(self._device) for t in padded(
            [r.prompt for r in requests], self._pad, left=True)))  # fmt: skip


class StockDecoding:
    """See `engines.Decoding`."""

    def __init__(self, model: Any, ids: Tensor, mask: Tensor) -> None:
        from transformers import DynamicCache

        self._model, self._mask, self._ids = model, mask, ids
        self._cache = DynamicCache(config=model.config)
        self._positions = (mask.cumsum(-1) - 1).clamp_min(0)
        self._first: Tensor | None = None
        """Logits behind the prompts: reading them again would store them twice."""
        self._start = self._mask, self._positions

    def next(self, token: Tensor | None) -> Tensor:
        """Logits of every row's next token."""
        if token is None and self._first is not None:
            return self._first
        if token is not None:
            self._ids, self._mask = token[:, None], F.pad(self._mask, (0, 1), value=1)
            self._positions = self._positions[:, -1:] + 1
        logits: Tensor = self._model(
            input_ids=self._ids, attention_mask=self._mask, position_ids=self._positions,
            past_key_values=self._cache, use_cache=True, logits_to_keep=1,
        ).logits  # fmt: skip
        if self._first is None:
            self._first = logits[:, -1]
        return logits[:, -1]

    def rewind(self) -> None:
        """Back behind the prompts."""
        self._mask, self._positions = self._start
        self._cache.crop(self._mask.shape[1] - self._cache.get_seq_length())  # a negative number: so many are dropped

    def select(self, index: Tensor) -> None:
        """Keep these rows."""
        self._cache.batch_select_indices(index)
        self._mask, self._positions = self._mask[index], self._positions[index]


def padded(rows: Sequence[Sequence[int]], pad: int = 0, *, left: bool = False) -> tuple[Tensor, Tensor]:
    """Ids and mask of rows padded on one side."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, place] = torch.tensor(row)
        mask[i, place] = 1
    return ids, mask
