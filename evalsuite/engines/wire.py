"""What is sent to a server of the OpenAI protocol, and how its answers are read: plain documents, no connections.

Prompts are token ids, so a server reads exactly what the embedded engine reads; `chat` turns them back into messages
for servers that take nothing else. A server that says which tokens it made (`return_token_ids`) is believed; text of
another is tokenised again. Either way an answer is brought into the embedded engine's form: without its
end-of-sequence token, ended at the first stop string, and in thinking mode only by one behind the thought.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from evalsuite.engines import GenerateRequest, Generation, Score, ScoreRequest
from evalsuite.engines.openai import FailedError

Scoring = Literal["prompt_logprobs", "echo"]
Api = Literal["completions", "chat"]
IDS = {"return_token_ids": True}
NEUTRAL = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
"""A server takes what is not said from the model's `generation_config.json`; the embedded engine does not."""
EXTRAS: tuple[dict[str, Any], ...] = ({**IDS, **NEUTRAL}, IDS, NEUTRAL, {})
"""Fields beyond the protocol, the best first: the first that a server does not refuse are sent."""
ENDED = frozenset({"stop", "eos", "eos_token", "stop_sequence"})
OPEN, CLOSE = "<think>", "</think>"


@dataclass(frozen=True)
class Dialect:
    """How one server is asked."""

    model: str
    api: Api
    extras: dict[str, Any] = field(default_factory=dict)
    ids: bool = False
    """Whether answers come with their token ids."""
    scoring: Scoring | None = None
    """How it gives log-probabilities of a prompt; None: it does not."""

    @property
    def path(self) -> str:
        """Where requests for text go."""
        return "chat/completions" if self.api == "chat" else "completions"


@dataclass(frozen=True)
class Reader:
    """What tokens mean."""

    tokenizer: Any
    eos: tuple[int, ...]

    def text(self, tokens: tuple[int, ...]) -> str:
        """Text of tokens, special ones skipped."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def tokens(self, text: str) -> tuple[int, ...]:
        """Tokens of a text, nothing added."""
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))


def body_of(request: GenerateRequest, dialect: Dialect, asked: dict[str, Any]) -> dict[str, Any]:
    """The request for a text. `asked`: the prompt, as the server's kind of request names it."""
    body = {
        "model": dialect.model, **asked, "max_tokens": request.max_new, "temperature": request.temperature,
        "top_p": request.top_p if request.temperature else 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
        **dialect.extras,
    }  # fmt: skip
    if request.temperature:
        body["seed"] = request.seed
    if request.stop and request.stop_after is None:  # a server would cut the thought: there the client cuts
        body["stop"] = list(request.stop)
    if request.ignore_eos:
        body["ignore_eos"] = True
    return body


def choice_of(document: Any, model: str) -> dict[str, Any]:
    """The one choice of an answer; FailedError if another model gave it."""
    name = document.get("model")
    if name is not None and name != model:
        raise FailedError("other_model", f"'{str(name)[:100]}' answered for '{model}'")
    choice: dict[str, Any] = document["choices"][0]
    return choice


def generation(choice: dict[str, Any], request: GenerateRequest, reader: Reader) -> Generation:
    """The answer, in the embedded engine's form; the errors of a wrong shape if the choice is none."""
    ids = choice.get("token_ids")
    reason = choice["finish_reason"]
    if reason not in ENDED and reason != "length":
        raise FailedError("garbage", f"the answer ended by '{str(reason)[:40]}'")
    if ids is None:
        text = _message(choice["message"], request, reader) if "message" in choice else choice["text"]
        tokens = reader.tokens(text)
    else:
        tokens = tuple(int(i) for i in ids)
        while tokens and tokens[-1] in reader.eos and not request.ignore_eos:
            tokens = tokens[:-1]
        text = reader.text(tokens)
    stopped = isinstance(choice.get("stop_reason", choice.get("matched_stop")), str)
    end = stop_end(text, request)
    if end is not None:
        tokens = tokens[: _needed(tokens, end, reader)]
        return Generation(tokens, reader.text(tokens) if ids is not None else text[:end], "stop")
    return Generation(tokens, text, "length" if reason == "length" else "stop" if stopped else "eos")


def stop_end(text: str, request: GenerateRequest) -> int | None:
    """Where the stop string that comes to its end first has ended; None if there is none that counts."""
    start = 0
    if request.stop_after is not None:
        start = text.find(request.stop_after)
        if start < 0:
            return None
        start += len(request.stop_after)
    ends = [at + len(stop) for stop in request.stop if (at := text.find(stop, start)) >= 0]
    return min(ends, default=None)


def _needed(tokens: tuple[int, ...], end: int, reader: Reader) -> int:
    """Fewest leading tokens whose text has that many characters."""
    low, high = 0, len(tokens)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(reader.text(tokens[:middle])) >= end else (middle + 1, high)
    return low


def _message(message: dict[str, Any], request: GenerateRequest, reader: Reader) -> str:
    """The text of a message, its thought in front as the model would have written it."""
    content = message.get("content") or ""
    thought = message.get("reasoning") or message.get("reasoning_content")
    if not isinstance(content, str) or not isinstance(thought, str | None):
        raise TypeError
    if not thought:
        return content
    opened = str(reader.tokenizer.decode(list(request.prompt))).rstrip().endswith(OPEN)
    return ("" if opened else OPEN) + thought + (f"{CLOSE}{content}" if content else "")


def score_body(request: ScoreRequest, model: str, scoring: Scoring) -> dict[str, Any]:
    """The request for the log-probabilities of a prompt."""
    how = {"prompt_logprobs": 1} if scoring == "prompt_logprobs" else {"echo": True, "logprobs": 1}
    prompt = [*request.context, *request.continuation]
    return {"model": model, "prompt": prompt, "max_tokens": 1, "temperature": 0, **how}


def can_score(choice: dict[str, Any], n: int, scoring: Scoring) -> bool:
    """Whether a choice holds log-probabilities of all `n` tokens of a prompt."""
    if scoring == "prompt_logprobs":
        return len(choice.get("prompt_logprobs") or ()) == n
    return len((choice.get("logprobs") or {}).get("token_logprobs") or ()) in (n, n + 1)


def score(choice: dict[str, Any], request: ScoreRequest, scoring: Scoring) -> Score:
    """The log-likelihood of a continuation; the errors of a wrong shape if the choice holds none."""
    first, end = len(request.context), len(request.context) + len(request.continuation)
    if not can_score(choice, end, scoring):
        raise ValueError
    values, best = [], []
    if scoring == "prompt_logprobs":
        for token, found in zip(request.continuation, choice["prompt_logprobs"][first:end], strict=True):
            values.append(float(found[str(token)]["logprob"]))
            best.append(max(float(one["logprob"]) for one in found.values()))
    else:
        given = choice["logprobs"]
        values = [float(value) for value in given["token_logprobs"][first:end]]
        best = [max(map(float, top.values())) for top in given["top_logprobs"][first:end]]
    return Score(math.fsum(values), all(v >= b for v, b in zip(values, best, strict=True)))
