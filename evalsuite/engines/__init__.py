"""Engines answer requests; this page is the seam. An engine knows a model and token ids, nothing of tasks or scores.

`Engine.open(arm)` yields a `Session` that runs one arm and reports what really ran (`Session.realised`). Requests come
in groups (see `harness`): a session answers one group as one batch, so that its bits depend on the group alone.
A new engine is one class in a module of its own and one line in `ENGINES`.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from evalsuite.records import Arm, Finding, ModelRef, Realised

BATCH, HALVED = "batch", "halved_groups"
"""Under what names `Session.activity` counts groups that were not answered whole."""
UNANSWERED, GONE = "unanswered", "gone"
"""Under what name `Session.activity` counts items that were not answered, by kind of failure; of the kind `GONE` are
those that were not asked any more because the engine is no longer there: their cell fails."""
IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """Continue `prompt` for at most `max_new` tokens, greedily unless `temperature` says otherwise."""

    prompt: tuple[int, ...]
    """Token ids."""
    max_new: int
    stop: tuple[str, ...]
    """Strings that end the answer (the text keeps what precedes the first one)."""
    stop_after: str | None = None
    """Stop strings count only behind the last occurrence of this text (`</think>`): a thought is not cut by them."""
    temperature: float = 0.0
    """0 takes the most likely token; above, tokens are drawn from softmax(logits / temperature)."""
    top_p: float = 1.0
    """Drawn only among the most likely tokens that together have this probability."""
    seed: int = 0
    """Of the draws, which depend on it and on the model's probabilities alone, not on the batch."""
    shared: int = 0
    """Leading tokens of the prompt that the requests of its task have in common; fewer than the prompt has."""
    ignore_eos: bool = False
    """Go on to `max_new` tokens whatever is generated: for measuring speed at a given length."""


@dataclass(frozen=True, slots=True)
class Generation:
    """The answer to a `GenerateRequest`."""

    tokens: tuple[int, ...]
    """Generated token ids, the end-of-sequence token excluded."""
    text: str
    """Their text (special tokens skipped), not yet cut at a stop string."""
    finish_reason: Literal["eos", "stop", "length"]


@dataclass(frozen=True, slots=True)
class Unanswered:
    """What stands in place of an answer that an engine could not give: the item is missing, not wrong."""

    kind: str
    detail: str


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Score `continuation` behind `context`; both non-empty token ids, together within the context length."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]
    shared: int = 0
    """Leading tokens of the context that the requests of its task have in common; fewer than the context has."""


@dataclass(frozen=True, slots=True)
class Score:
    """The answer to a `ScoreRequest`."""

    loglikelihood: float
    """Sum of log-probabilities of the continuation, in nats, from an FP32 log-softmax."""
    greedy: bool
    """True if every token of the continuation was the most likely one."""


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """Read `continuation` behind `prompt` (token ids, both non-empty) and report every next-token distribution."""

    prompt: tuple[int, ...]
    continuation: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Trace:
    """The answer to a `TraceRequest`: one distribution for each of the T tokens of the continuation, in FP32."""

    tokens: IntArray
    """(T, K): the tokens that are reported one by one, likeliest first."""
    logprobs: FloatArray
    """(T, K): their log-probabilities, in nats."""
    rest: FloatArray
    """(T,): log-probability of all other tokens together; -inf where there are none."""
    top: IntArray
    """(T,): the likeliest token."""
    chosen: FloatArray
    """(T,): log-probability of the continuation's own token."""


class Decoding(Protocol):
    """Rows under way behind their prompts."""

    def next(self, token: Any) -> Any:
        """The model's own logits (tensor, rows x vocabulary) behind one more token a row (tensor, int64); None: behind
        the prompts."""

    def select(self, index: Any) -> None:
        """Keep these rows (tensor, int64)."""

    def rewind(self) -> None:
        """Go back behind the prompts; only before the first `select`."""


class Session(Protocol):
    """One arm, loaded."""

    realised: Realised

    def generate(self, requests: Sequence[GenerateRequest]) -> Sequence[Generation | Unanswered]:
        """Answer one group, in order."""

    def score(self, requests: Sequence[ScoreRequest]) -> Sequence[Score | Unanswered]:
        """Score one group, in order."""

    def trace(
        self, requests: Sequence[TraceRequest], top_k: int, support: Sequence[IntArray] | None = None
    ) -> list[Trace]:
        """Distributions along given texts, in order. `support`: the tokens (T, K) to report, else the likeliest."""

    def decoding(self, requests: Sequence[GenerateRequest]) -> "Decoding":
        """Read the prompts of one batch, to be continued step by step; nothing is shared or halved."""

    def activity(self) -> dict[str, dict[str, int]]:
        """Counts over quantised activations since the last call, by module (`records.Activity`); under `batch`
        those of groups that had to be halved, under `unanswered` what was not answered. Empty if there is nothing to
        say."""


class Engine(Protocol):
    """A model on one engine. Opening is cheap; weights are loaded by the first `open`."""

    model: ModelRef
    """With `weights_sha256` filled in."""
    tokenizer: Any
    """A transformers tokenizer (or one with its `encode`, `decode`, `apply_chat_template`, `chat_template`)."""
    eos: tuple[int, ...]
    """Token ids that end a generation; never empty."""
    max_length: int
    """Context length in tokens."""

    def cannot_run(self, arm: Arm, *, scores: bool = False) -> str | None:
        """Why this engine cannot run the arm, or None. `scores`: log-likelihoods will be asked for."""

    def resolve(self, arm: Arm) -> tuple[Arm, tuple[Finding, ...]]:
        """The arm with what only its weights can tell (their hash; the recipe of an `as-shipped` arm), and what they
        give reason to distrust."""

    def open(self, arm: Arm) -> AbstractContextManager[Session]:
        """Load the arm; the model is as before when the context ends."""


def _local(model: ModelRef, options: dict[str, Any]) -> Engine:
    from evalsuite.engines.local import LocalEngine

    return LocalEngine(model, options)


def _endpoint(model: ModelRef, options: dict[str, Any]) -> Engine:
    from evalsuite.engines.endpoint import EndpointEngine

    return EndpointEngine(model, options)


def _vllm(model: ModelRef, options: dict[str, Any]) -> Engine:
    from evalsuite.engines.vllm import VllmEngine

    return VllmEngine(model, options)


ENGINES: dict[str, Callable[[ModelRef, dict[str, Any]], Engine]] = {
    "local": _local,  # transformers in this process, on the CPU or torch's accelerator
    "vllm": _vllm,  # vLLM in this process, in its own environment
    "endpoint": _endpoint,  # servers of the OpenAI protocol, one an arm
}
"""Engine name -> constructor from a model and the suite's engine options."""
OPTIONS: dict[str, tuple[str, ...]] = {
    "local": ("threads", "group_tokens", "gemm_mode", "execution", "count", "forward"),
    "vllm": ("max_num_seqs", "enforce_eager", "kv_cache_gib", "threads_bind", "llm", "group_tokens"),
    "endpoint": ("base_url", "endpoints", "served_model", "tokenizer", "api", "concurrency", "timeout_s", "retries",
                 "api_key_env", "group_tokens"),
}  # fmt: skip
"""Engine name -> the options that a suite may set."""
UNSEEN: dict[str, frozenset[str]] = {
    "endpoint": frozenset({"base_url", "endpoints", "concurrency", "timeout_s", "retries", "api_key_env"}),
}
"""Engine name -> options that answers do not depend on: where, how fast and how patiently it is asked. They are not in
the resume key: a server that moved is the same arm."""
GROUP_TOKENS: dict[str, int] = {"endpoint": 1_048_576}
"""Engine name -> token budget of a group, where it is not `groups.GROUP_TOKENS`. A server makes its batches itself; a
group is only what the journal keeps at once, and must be large enough to keep the server busy."""
