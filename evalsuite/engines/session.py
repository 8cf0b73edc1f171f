"""One arm, loaded: generation, scoring and traces over a forward pass, transformers' (`stock`) or our own (`own`).

One group is one batch. Rows that finish leave it (none enters), and stop strings are looked at only when the newest
token can end one. Scoring takes hidden states at the needed positions only, the output head on FP32 operands and an
FP32 log-softmax: lm-eval's stock path takes the log-softmax in the model's own type, and its BF16 log-likelihoods are
multiples of 1/16 or coarser.

A group that does not fit in memory is answered in halves, and none of that size is tried again; groups that were not
answered whole are counted by `activity`, under `BATCH`, so that a record says it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from evalsuite.engines import (
    BATCH,
    HALVED,
    Decoding,
    GenerateRequest,
    Generation,
    IntArray,
    Score,
    ScoreRequest,
    Trace,
    TraceRequest,
)
from evalsuite.engines.batch import Batch
from evalsuite.engines.head import distribution
from evalsuite.engines.stops import Stops
from evalsuite.errors import CannotRunError
from evalsuite.precision.activity import total
from evalsuite.precision.emulate import Applied

if TYPE_CHECKING:
    from evalsuite.engines.local import LocalEngine

COMPACT_AT = 0.75
"""The batch is compacted when this share of its rows or less is still running: less copying than at every exit."""


T = TypeVar("T")
R = TypeVar("R", GenerateRequest, ScoreRequest)


class Forward(Protocol):
    """How token ids become logits in one arm."""

    name: str
    logits_dtype: str

    def logits(self, requests: Sequence[ScoreRequest]) -> Iterator[Tensor]:
        """Logits (float32, positions x vocabulary) that predict each token of each continuation, in order, in slices
        of positions."""

    def parts(self, requests: Sequence[GenerateRequest]) -> Iterator[slice]:
        """The batches that a group is generated in; they depend on the group alone."""

    def decode(self, requests: Sequence[GenerateRequest]) -> Decoding:
        """Read the prompts of one batch."""


class LocalSession:
    """One arm, loaded; see `engines.Session`."""

    def __init__(self, engine: "LocalEngine", forward: Forward, applied: Applied) -> None:
        self._forward, self._applied = forward, applied
        self._failed: int | None = None
        """Tokens of the smallest group that did not fit; None while every one has."""
        self._pending: dict[str, dict[str, int]] = {}
        realised = applied.realised
        self._tokenizer = engine.tokenizer
        self._eos = torch.tensor(engine.eos, device=engine.device)
        self._device = engine.device
        self._stops = Stops(engine.tokenizer)
        self.realised = realised.model_copy(
            update={"logits_dtype": forward.logits_dtype, "kernel": f"{realised.kernel}, {forward.name}"}
        )

    def activity(self) -> dict[str, dict[str, int]]:
        """Counts since the last call; see `engines.Session`."""
        self._keep_counts()
        counts, self._pending = self._pending, {}
        return counts

    def close(self) -> None:
        """Let go of the model: whoever still holds the session holds no weights."""
        self._forward = self._applied = None  # type: ignore[assignment]

    def _keep_counts(self) -> None:
        for module, found in self._applied.activity().items():
            self._pending[module] = total((self._pending.get(module, {}), found))

    def _fitting(self, requests: list[R], answer: Callable[[list[R]], list[T]]) -> list[T]:
        """What `answer` makes of a group, or of its halves where the whole is too large for the memory.

        Raises:
            CannotRunError: a single request is too large.
        """
        made, whole = self._tried(requests, answer)
        if not whole:
            self._pending[BATCH] = total((self._pending.get(BATCH, {}), {HALVED: 1}))
        return made

    def _tried(self, requests: list[R], answer: Callable[[list[R]], list[T]]) -> tuple[list[T], bool]:
        """Answers, and whether they came in one piece. A size that failed once is not tried again."""
        tokens = sum(_tokens(request) for request in requests)
        if self._failed is None or tokens < self._failed or len(requests) == 1:
            self._keep_counts()
            try:
                return answer(requests), True
            except (MemoryError, RuntimeError) as error:
                if not _is_memory(error):
                    raise
                if len(requests) == 1:
                    raise CannotRunError(f"One item of {tokens} tokens does not fit in memory ({error}). Give it "
                                         "more memory, or run it on another engine.") from None  # fmt: skip
            self._applied.activity()  # what the failed attempt saw is seen again by the halves
            self._failed = tokens
        half = len(requests) // 2
        return self._tried(requests[:half], answer)[0] + self._tried(requests[half:], answer)[0], False

    # ------------------------------------------------------------------------------------------------- generation

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Generation]:
        """Continuations of one group, in order."""
        parts = [list(requests[part]) for part in self._forward.parts(requests)]
        return [made for part in parts for made in self._fitting(part, self._generate)]

    def decoding(self, requests: Sequence[GenerateRequest]) -> Decoding:
        """Rows behind their prompts, to be continued step by step."""
        return self._forward.decode(requests)

    def _generate(self, requests: Sequence[GenerateRequest]) -> list[Generation]:
        batch, token = Batch(requests), None
        decoding = self._forward.decode(requests)
        while True:
            token = batch.choose(decoding.next(token))
            keep = self._step(batch, token)
            if not keep:
                return batch.answers(self._tokenizer)
            if len(keep) < len(batch.rows):
                index = torch.tensor(keep, device=self._device, dtype=torch.long)
                batch.rows = [batch.rows[i] for i in keep]
                decoding.select(index)
                token = token[index]

    def _step(self, batch: "Batch", token: Tensor) -> list[int]:
        """Record one token a row; return the rows of the batch to keep (all of them, unless compaction pays)."""
        ended = torch.isin(token, self._eos).tolist()
        for i, (row, value) in enumerate(zip(batch.rows, token.tolist(), strict=True)):
            if batch.reason[row] is not None:
                continue
            if ended[i] and not batch.requests[row].ignore_eos:
                batch.reason[row] = "eos"
                continue
            batch.tokens[row].append(value)
            if self._stops.reached(batch.requests[row], batch.tokens[row]):
                batch.reason[row] = "stop"
            elif len(batch.tokens[row]) >= batch.requests[row].max_new:
                batch.reason[row] = "length"
        alive = [i for i, row in enumerate(batch.rows) if batch.reason[row] is None]
        return alive if len(alive) <= COMPACT_AT * len(batch.rows) else list(range(len(batch.rows)))

    # ---------------------------------------------------------------------------------------------------- scoring

    def score(self, requests: Sequence[ScoreRequest]) -> list[Score]:
        """Log-likelihoods of one group, in order."""
        return self._fitting(list(requests), self._score)

    def _score(self, requests: Sequence[ScoreRequest]) -> list[Score]:
        targets = torch.tensor([t for r in requests for t in r.continuation], device=self._device)
        chosen: list[float] = []
        greedy: list[bool] = []
        for logits in self._forward.logits(requests):
            wanted = targets[len(chosen) : len(chosen) + len(logits)]
            greedy += (logits.argmax(-1) == wanted).tolist()
            chosen += torch.log_softmax(logits, -1).gather(-1, wanted[:, None])[:, 0].double().tolist()
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
        """Distributions along given texts, a slice of positions at a time."""
        written = torch.tensor([t for r in requests for t in r.continuation], device=self._device)
        wanted = None if support is None else torch.from_numpy(np.concatenate(support)).to(self._device)
        parts, start = [], 0
        for logits in self._forward.logits([ScoreRequest(r.prompt, r.continuation) for r in requests]):
            end = start + len(logits)
            tokens = logits.topk(min(top_k, logits.shape[-1])).indices if wanted is None else wanted[start:end]
            parts.append(distribution(torch.log_softmax(logits, -1), tokens, written[start:end]))
            start = end
        joined = [torch.cat(columns).cpu().numpy() for columns in zip(*parts, strict=True)]
        ends = np.cumsum([len(r.continuation) for r in requests])[:-1]
        return [Trace(*columns) for columns in zip(*(np.split(column, ends) for column in joined), strict=True)]


def _tokens(request: GenerateRequest | ScoreRequest) -> int:
    """What a request takes in memory: tokens behind the shared prefix."""
    if isinstance(request, GenerateRequest):
        return len(request.prompt) - request.shared + request.max_new
    return len(request.context) - request.shared + len(request.continuation)


def _is_memory(error: Exception) -> bool:
    """Whether an error says that memory is short; torch's allocator on the CPU has no type of its own for it."""
    said = str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in said
