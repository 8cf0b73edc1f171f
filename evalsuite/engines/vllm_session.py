"""One arm in vLLM: requests of the seam into vLLM's, and its outputs back.

Texts. Requests of a group are handed over at once, token ids as prompts, and tokens are read step by step. Only the
model's end-of-sequence tokens end an answer inside vLLM; stop strings are looked for here, by the rule of the embedded
engine (`stops`), and a row that reached one is taken back. vLLM's own `stop` knows no `stop_after`: it would cut a
thought at a blank line. One way for all requests makes both engines cut alike.

Scores. Context and continuation are one prompt, cut where lm-eval cuts; `prompt_logprobs` gives each token's
log-probability and rank. An `LLM` of its own does this, with the output head on FP32 operands (`head_dtype`), as scores
are made everywhere here; texts come from the model's own head, as a server would write them. vLLM leaves its prefix
cache aside for such requests.

Traces. Same, for the whole vocabulary, since vLLM hands over the likeliest tokens but not chosen ones; they arrive as
Python numbers, so a vocabulary of more than `WHOLE` tokens is refused.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch

from evalsuite.engines import (
    Decoding,
    GenerateRequest,
    Generation,
    IntArray,
    Score,
    ScoreRequest,
    Trace,
    TraceRequest,
)
from evalsuite.engines.head import distribution
from evalsuite.engines.stops import Stops
from evalsuite.engines.vllm_llm import Running
from evalsuite.errors import CannotRunError
from evalsuite.records import Realised

WHOLE = 16_384
"""Vocabulary up to which traces are made."""
AT_ONCE = 2**24
"""Log-probabilities (positions x vocabulary) that are asked for at once."""
Purpose = Literal["texts", "scores"]


class VllmSession:
    """See `engines.Session`. `llm` gives the `LLM` for a purpose, loading it if need be."""

    def __init__(
        self, realised: Realised, tokenizer: Any, eos: tuple[int, ...], llm: Callable[[Purpose], Running]
    ) -> None:
        self.realised = realised
        self._tokenizer, self._eos, self._llm = tokenizer, eos, llm
        self._stops = Stops(tokenizer)

    def activity(self) -> dict[str, dict[str, int]]:
        """Nothing: vLLM counts nothing."""
        return {}

    def decoding(self, requests: Sequence[GenerateRequest]) -> Decoding:
        """Refused: vLLM makes its steps itself."""
        raise CannotRunError(f"vLLM makes its steps itself; {len(requests)} rows cannot be continued from outside. "
                             "Use the engine local.")  # fmt: skip

    # ------------------------------------------------------------------------------------------------- generation

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Generation]:
        """Continuations of one group, in order."""
        running = self._llm("texts")
        growing = [_Growing(request) for request in requests]
        under_way = {
            running.add(list(one.request.prompt), self._sampling(running, one.request)): one for one in growing
        }
        while under_way:
            for output in running.step():
                one = under_way.get(output.request_id)
                if one is None:
                    continue  # taken back while vLLM was a step ahead
                self._grow(one, output.outputs[0].token_ids)
                if one.reason is not None or output.finished:
                    del under_way[output.request_id]
                    if not output.finished:
                        running.engine.abort_request([output.request_id])
        texts = self._tokenizer.batch_decode([one.tokens for one in growing], skip_special_tokens=True)
        return [
            Generation(tuple(one.tokens), text, one.ended()) for one, text in zip(growing, texts, strict=True)
        ]  # fmt: skip

    def _sampling(self, running: Running, request: GenerateRequest) -> Any:
        ends = [] if request.ignore_eos else list(self._eos)
        return running.parameters(
            streamed=True, temperature=request.temperature, top_p=request.top_p, max_tokens=request.max_new,
            seed=request.seed if request.temperature > 0 else None,
            ignore_eos=True, stop_token_ids=ends,  # our ends, not those of vLLM's reading of the configuration
        )  # fmt: skip

    def _grow(self, one: "_Growing", tokens: Sequence[int]) -> None:
        for token in tokens:
            if one.reason is not None:
                return
            if token in self._eos and not one.request.ignore_eos:
                one.reason = "eos"
                return
            one.tokens.append(token)
            if self._stops.reached(one.request, one.tokens):
                one.reason = "stop"
            elif len(one.tokens) >= one.request.max_new:
                one.reason = "length"

    # ---------------------------------------------------------------------------------------------------- scoring

    def score(self, requests: Sequence[ScoreRequest]) -> list[Score]:
        """Log-likelihoods of one group, in order."""
        running = self._llm("scores")
        # The likeliest token as well: where the continuation's own is as likely, only it tells which would be taken.
        asked = running.parameters(streamed=False, temperature=0.0, max_tokens=1, prompt_logprobs=1)
        prompts = [[*request.context, *request.continuation] for request in requests]
        found = _whole(running, prompts, [asked] * len(prompts))
        return [_score(request, made.prompt_logprobs) for request, made in zip(requests, found, strict=True)]

    # ----------------------------------------------------------------------------------------------------- traces

    def trace(
        self, requests: Sequence[TraceRequest], top_k: int, support: Sequence[IntArray] | None = None
    ) -> list[Trace]:
        """Distributions along given texts; CannotRunError for a vocabulary of more than `WHOLE` tokens."""
        running = self._llm("scores")
        vocabulary = running.facts["vocabulary"]
        if vocabulary > WHOLE:
            raise CannotRunError("vLLM hands over whole distributions as Python numbers, too slowly for a "
                                 f"vocabulary of {vocabulary:,} tokens (at most {WHOLE:,}). Use the engine local "
                                 "for divergence, or set `divergence: {tokens: 0}`.")  # fmt: skip
        asked = running.parameters(
            streamed=False, temperature=0.0, max_tokens=1, prompt_logprobs=-1, flat_logprobs=True
        )
        made: list[Trace] = []
        for i, request in enumerate(requests):  # one by one: what comes back is large
            prompt = [*request.prompt, *request.continuation]
            if len(prompt) * vocabulary > AT_ONCE:
                raise CannotRunError(f"A text of {len(prompt)} tokens is too long to be traced through vLLM (at most "
                                     f"{AT_ONCE // vocabulary} with a vocabulary of {vocabulary:,}).")  # fmt: skip
            (found,) = _whole(running, [prompt], [asked])
            logp = torch.from_numpy(_dense(found.prompt_logprobs, vocabulary)[-len(request.continuation) :])
            tokens = logp.topk(min(top_k, vocabulary)).indices if support is None else torch.from_numpy(support[i])
            columns = distribution(logp, tokens, torch.tensor(request.continuation))
            made.append(Trace(*(column.numpy() for column in columns)))
        return made


class _Growing:
    """An answer under way."""

    def __init__(self, request: GenerateRequest) -> None:
        self.request = request
        self.tokens: list[int] = []
        self.reason: Literal["eos", "stop", "length"] | None = None

    def ended(self) -> Literal["eos", "stop", "length"]:
        """Why it ended; CannotRunError if vLLM ended it for a reason that is none of ours."""
        if self.reason is None:
            raise CannotRunError(f"vLLM ended an answer after {len(self.tokens)} of {self.request.max_new} tokens, and "
                                 "not at an end-of-sequence token.")  # fmt: skip
        return self.reason


def _whole(running: Running, prompts: Sequence[list[int]], parameters: Sequence[Any]) -> list[Any]:
    """Finished outputs of requests, in order."""
    names = [running.add(prompt, one) for prompt, one in zip(prompts, parameters, strict=True)]
    found: dict[str, Any] = {}
    while len(found) < len(names):
        found.update({output.request_id: output for output in running.step() if output.finished})
    return [found[name] for name in names]


def _score(request: ScoreRequest, positions: Sequence[Any]) -> Score:
    """`positions`: for each token of the prompt, token -> log-probability and rank."""
    behind = positions[len(request.context) :]
    chosen = [position[token] for position, token in zip(behind, request.continuation, strict=True)]
    return Score(float(sum(one.logprob for one in chosen)), all(one.rank == 1 for one in chosen))


def _dense(flat: Any, vocabulary: int) -> np.ndarray:
    """float32 (positions, vocabulary) from vLLM's flat lists. At each position the text's own token stands first and
    once more in its place; the first position has none."""
    ids = np.asarray(flat.token_ids, dtype=np.int64).reshape(-1, vocabulary + 1)
    values = np.asarray(flat.logprobs, dtype=np.float32).reshape(-1, vocabulary + 1)
    dense = np.empty((len(ids), vocabulary), dtype=np.float32)
    np.put_along_axis(dense, ids[:, 1:], values[:, 1:], axis=1)
    return dense
