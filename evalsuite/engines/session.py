"""One arm, loaded: generation, scoring and traces over a transformers model.

One group is one batch. Generation keeps its own loop: prompts are padded on the left once, rows that finish leave the
batch (none enters), and stop strings are looked at only when the newest token can end one. Scoring takes hidden states
at the needed positions only, the output head on FP32 operands and an FP32 log-softmax: lm-eval's stock path takes the
log-softmax in the model's own type, and its BF16 log-likelihoods are multiples of 1/16 or coarser.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from evalsuite.engines import (
    GenerateRequest,
    Generation,
    IntArray,
    Score,
    ScoreRequest,
    Trace,
    TraceRequest,
)
from evalsuite.engines.batch import Batch
from evalsuite.engines.head import FP32Head, distribution, padded
from evalsuite.records import Realised

if TYPE_CHECKING:
    from evalsuite.engines.local import LocalEngine

COMPACT_AT = 0.75
"""The batch is compacted when this share of its rows or less is still running: less copying than at every exit."""


class LocalSession:
    """One arm, loaded; see `engines.Session`."""

    activity: Callable[[], dict[str, dict[str, int]]]
    """Counts over quantised activations since the last call; see `precision.emulate.Applied`."""

    def __init__(self, engine: "LocalEngine", model: Any, realised: Realised) -> None:
        self._model = model
        self._tokenizer = engine.tokenizer
        self._eos = torch.tensor(engine.eos, device=engine.device)
        self._device = engine.device
        self._head = FP32Head(model, realised.modules)
        self._enders: dict[str, frozenset[int]] = {}
        attention = model.config._attn_implementation
        self.realised = realised.model_copy(
            update={"logits_dtype": self._head.logits_dtype, "kernel": f"{realised.kernel}, {attention}"}
        )

    # ------------------------------------------------------------------------------------------------- generation

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Generation]:
        """Continuations of one group, in order."""
        from transformers import DynamicCache

        batch = Batch(requests, self._tokenizer.pad_token_id or 0, self._device)
        cache = DynamicCache(config=self._model.config)
        ids, positions = batch.ids, batch.positions
        while batch.rows:
            out = self._model(
                input_ids=ids, attention_mask=batch.mask, position_ids=positions, past_key_values=cache,
                use_cache=True, logits_to_keep=1,
            )  # fmt: skip
            token = batch.choose(out.logits[:, -1])
            keep = self._step(batch, token)
            if len(keep) < len(batch.rows):
                index = torch.tensor(keep, device=self._device, dtype=torch.long)
                batch.select(keep, index)
                cache.batch_select_indices(index)
                token = token[index]
            ids, positions = batch.extend(token)
        return batch.answers(self._tokenizer)

    def _step(self, batch: "Batch", token: Tensor) -> list[int]:
        """Record one token a row; return the rows of the batch to keep (all of them, unless compaction pays)."""
        ended = torch.isin(token, self._eos).tolist()
        for i, (row, value) in enumerate(zip(batch.rows, token.tolist(), strict=True)):
            if batch.reason[row] is not None:
                continue
            if ended[i]:
                batch.reason[row] = "eos"
                continue
            batch.tokens[row].append(value)
            if self._stopped(batch.requests[row], batch.tokens[row]):
                batch.reason[row] = "stop"
            elif len(batch.tokens[row]) >= batch.requests[row].max_new:
                batch.reason[row] = "length"
        alive = [i for i, row in enumerate(batch.rows) if batch.reason[row] is None]
        return alive if len(alive) <= COMPACT_AT * len(batch.rows) else list(range(len(batch.rows)))

    def _stopped(self, request: GenerateRequest, tokens: list[int]) -> bool:
        for stop in request.stop:
            if tokens[-1] in self._can_end(stop):
                # A stop string of n bytes lies within the last n tokens; one more for the token that it begins in.
                text = self._tokenizer.decode(tokens[-len(stop.encode()) - 1 :], skip_special_tokens=True)
                if stop in text and self._counts(request, tokens, stop):
                    return True
        return False

    def _counts(self, request: GenerateRequest, tokens: list[int], stop: str) -> bool:
        if request.stop_after is None:
            return True
        text = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return request.stop_after in text and stop in text.rsplit(request.stop_after, 1)[1]

    def _can_end(self, stop: str) -> frozenset[int]:
        """Tokens in whose text the last character of `stop` occurs: only they can complete it."""
        if stop not in self._enders:
            texts = self._tokenizer.batch_decode([[i] for i in range(len(self._tokenizer))])
            last = stop[-1]
            self._enders[stop] = frozenset(i for i, text in enumerate(texts) if last in text or "\ufffd" in text)
        return self._enders[stop]

    # ---------------------------------------------------------------------------------------------------- scoring

    def score(self, requests: Sequence[ScoreRequest]) -> list[Score]:
        """Log-likelihoods of one group, in order: one padded forward pass."""
        ids, mask = padded([(*r.context, *r.continuation[:-1]) for r in requests])
        where = [(i, len(r.context) - 1 + j) for i, r in enumerate(requests) for j in range(len(r.continuation))]
        targets = torch.tensor([t for r in requests for t in r.continuation], device=self._device)
        at = torch.tensor(where, device=self._device)
        logits = self._head(ids.to(self._device), mask.to(self._device), at)
        logp = torch.log_softmax(logits, -1)
        chosen = logp.gather(-1, targets[:, None])[:, 0].double().tolist()
        greedy = (logits.argmax(-1) == targets).tolist()
        scores, start = [], 0
        for request in requests:
            end = start + len(request.continuation)
            scores.append(Score(sum(chosen[start:end]), all(greedy[start:end])))
            start = end
        return scores


    # ---------------------------------------------------------------------------------------------------- traces

    def trace(
        self, requests: Sequence[TraceRequest], top_k: int, support: Sequence[IntArray] | None = None
    ) -> list[Trace]:
        """Distributions along given texts: one padded forward pass, the output head a slice of positions at a time."""
        rows = [(*r.prompt, *r.continuation[:-1]) for r in requests]
        ids, mask = padded(rows)
        where = [(i, len(r.prompt) - 1 + j) for i, r in enumerate(requests) for j in range(len(r.continuation))]
        written = torch.tensor([t for r in requests for t in r.continuation], device=self._device)
        wanted = None if support is None else torch.from_numpy(np.concatenate(support)).to(self._device)
        at = torch.tensor(where, device=self._device)
        parts, start = [], 0
        for logits in self._head.slices(ids.to(self._device), mask.to(self._device), at):
            end = start + len(logits)
            tokens = logits.topk(min(top_k, logits.shape[-1])).indices if wanted is None else wanted[start:end]
            parts.append(distribution(torch.log_softmax(logits, -1), tokens, written[start:end]))
            start = end
        joined = [torch.cat(columns).cpu().numpy() for columns in zip(*parts, strict=True)]
        ends = np.cumsum([len(r.continuation) for r in requests])[:-1]
        return [Trace(*columns) for columns in zip(*(np.split(column, ends) for column in joined), strict=True)]
