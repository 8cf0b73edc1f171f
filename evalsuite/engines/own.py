"""The forward pass of our own for the types that `decoder` knows: each distinct token of a group is computed once.

Requests of a task share a prefix (`shared`): its keys and values are computed once in a session and attended by all.
Requests with one context (the options of a question) become one row, a trunk with branches. Rows are read a few
thousand tokens at a time, which keeps what a layer needs near the processor. Everything depends on the group alone.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from evalsuite.engines import GenerateRequest, ScoreRequest
from evalsuite.engines.cascade import Cache, Prefix, PrefixPass, Reading, Row, TreePass
from evalsuite.engines.decoder import TOLERANCE, Decoder, could_run, shallow_copy
from evalsuite.engines.head import Head
from evalsuite.groups import pieces

PASS_TOKENS = 2048
"""Tokens of one pass; a longer row is a pass of its own."""


class OwnForward:
    """See `session.Forward`. `kv`: how a quantised cache changes keys and values. `uncounted`: drops the counts since
    the last call; a prefix is not counted, since which group computes it depends on where a run was resumed."""

    name = "own-forward-fp32-attention"
    logits_dtype: str

    def __init__(
        self,
        model: Any,
        quantised: tuple[str, ...] = (),
        kv: tuple[Any, Any] | None = None,
        uncounted: Callable[[], object] = lambda: None,
    ) -> None:
        self._uncounted = uncounted
        self._decoder, self._head = Decoder(model), Head(model, quantised)
        keys, values = kv or (Tensor.float, Tensor.float)
        self._reading = Reading(keys, values, self._decoder.scale)
        self._prefix = Prefix()
        self.logits_dtype = str(model.dtype).removeprefix("torch.") if self._head.own else "float32"

    def logits(self, requests: Sequence[ScoreRequest]) -> Iterator[Tensor]:
        """Trunks with branches, pass after pass; a slice of positions after the other."""
        prefix = self._read(requests)
        rows = [_row(list(asked), len(prefix)) for _, asked in groupby(requests, key=lambda r: r.context)]
        for part in passes([row.size for row in rows]):
            chosen, before = rows[part], prefix
            if chosen[0].size > PASS_TOKENS and chosen[0].branches:
                # Its mask would not fit: its trunk becomes a prefix of its own.
                trunk = chosen[0].trunk
                before = self._extended(prefix, trunk[:-1])
                chosen = [Row(trunk[-1:], chosen[0].branches)]
            tree = TreePass(chosen, before, self._reading)
            hidden = self._decoder(tree.ids, tree.positions, tree)
            yield from self._head.slices(hidden[_places(chosen)])

    def decode(self, requests: Sequence[GenerateRequest]) -> "OwnDecoding":
        """Prompts without padding, pass after pass."""
        prefix = self._read(requests)
        rows = [Row(r.prompt[len(prefix) :]) for r in requests]
        cache = Cache([row.size for row in rows], self._decoder.layers, prefix, self._reading)
        last = []
        for part in passes([row.size for row in rows]):
            tree = TreePass(rows[part], prefix, self._reading, cache.filling(part))
            hidden = self._decoder(tree.ids, tree.positions, tree)
            last.append(hidden[torch.tensor(tree.sizes).cumsum(0) - 1])
        return OwnDecoding(self._decoder, self._head.module, cache, torch.cat(last),
                           torch.tensor([len(r.prompt) for r in requests]))  # fmt: skip

    def _read(self, requests: Sequence[ScoreRequest] | Sequence[GenerateRequest]) -> Prefix:
        """The keys and values of the requests' shared prefix; those of the last one asked for are kept."""
        least = min(r.shared for r in requests)
        first = requests[0]
        tokens = (first.context if isinstance(first, ScoreRequest) else first.prompt)[:least]
        if self._prefix.tokens != tokens:
            self._prefix = self._extended(Prefix(), tokens)
            self._uncounted()
        return self._prefix

    def parts(self, requests: Sequence[GenerateRequest]) -> Iterator[slice]:
        """A group is one batch."""
        yield slice(0, len(requests))

    def _extended(self, before: Prefix, tokens: tuple[int, ...]) -> Prefix:
        """A prefix and more tokens behind it."""
        if not tokens:
            return before
        reading = PrefixPass(tokens, self._reading, before)
        self._decoder(reading.ids, reading.positions, reading)
        return reading.found


class OwnDecoding:
    """See `engines.Decoding`."""

    def __init__(self, decoder: Decoder, head: Any, cache: Cache, last: Tensor, positions: Tensor) -> None:
        self._decoder, self._head, self._cache = decoder, head, cache
        self._last, self._positions = last, positions
        self._start = last, positions, cache.length

    def next(self, token: Tensor | None) -> Tensor:
        """Logits of every row's next token."""
        if token is not None:
            self._cache.grow()
            self._last = self._decoder(token, self._positions, self._cache)
            self._positions = self._positions + 1
        logits: Tensor = self._head(self._last)
        return logits

    def select(self, index: Tensor) -> None:
        """Keep these rows."""
        self._cache.select(index)
        self._positions = self._positions[index]

    def rewind(self) -> None:
        """Back behind the prompts: what was stored since is written over."""
        self._last, self._positions, self._cache.length = self._start


def passes(sizes: Sequence[int]) -> Iterator[slice]:
    """Consecutive rows of together at most `PASS_TOKENS` tokens, counted with the padding that attention sees."""
    return pieces(sizes, PASS_TOKENS)


def _row(requests: Sequence[ScoreRequest], shared: int) -> Row:
    first = requests[0]
    if len(requests) == 1:  # no branch: a long text needs no mask of its own
        return Row((*first.context[shared:], *first.continuation[:-1]), asked=len(first.continuation))
    return Row(first.context[shared:], tuple(r.continuation[:-1] for r in requests))


def _places(rows: Sequence[Row]) -> Tensor:
    """Packed places whose hidden states predict the tokens of each branch and the one behind it, in order."""
    found: list[int] = []
    start = 0
    for row in rows:
        branch = start + len(row.trunk)
        if not row.branches:
            found += range(branch - row.asked, branch)
        for tokens in row.branches:
            found += [start + len(row.trunk) - 1, *range(branch, branch + len(tokens))]
            branch += len(tokens)
        start = branch
    return torch.tensor(found)


def agrees(model: Any) -> bool:
    """Whether our passes give transformers' FP32 logits on this model's own weights: prefix, branches and cache."""
    if not could_run(model) or next(model.parameters()).device.type != "cpu":
        return False
    try:
        return _difference(model) <= TOLERANCE
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return False  # a torch or a transformers that lays something out in another way


@torch.no_grad()
def _difference(model: Any) -> float:
    """Largest difference of logits, in units of the largest logit or of 1."""
    probe = shallow_copy(model)
    high = min(probe.config.vocab_size, 1 << 15)
    ids = [(7 * i + i * i) % (high - 1) + 1 for i in range(24)]
    ours, shared = OwnForward(probe), 6
    requests = [ScoreRequest(tuple(ids[:12]), tuple(ids[12 + b : 16 + 2 * b]), shared) for b in range(3)]
    requests.append(ScoreRequest(tuple(ids[:9]), tuple(ids[9:14]), shared))
    made = torch.cat(list(ours.logits(requests)))
    real = [probe(input_ids=torch.tensor([r.context + r.continuation[:-1]])).logits[0, len(r.context) - 1 :]
            for r in requests]  # fmt: skip
    decoding = ours.decode([GenerateRequest(tuple(ids[:n]), 3, (), shared=shared) for n in (9, 14)])
    steps = [decoding.next(None), decoding.next(torch.tensor([ids[9], ids[14]]))]
    decoding.select(torch.tensor([1]))
    steps.append(decoding.next(torch.tensor([ids[15]])))
    rows = [probe(input_ids=torch.tensor([ids[:n]])).logits[0] for n in (10, 16)]
    real += [torch.stack((rows[0][8], rows[1][13])), torch.stack((rows[0][9], rows[1][14])), rows[1][15:16]]
    expected, found = torch.cat(real), torch.cat((made, *steps))
    return float((expected - found).abs().max() / expected.abs().max().clamp_min(1.0))
