"""lm-eval's `LM` over an engine: encoding and chat template by lm-eval's own rules, answers from a session.

`prepare` uses it without a session, to encode. With one it can be handed to stock `lm_eval.simple_evaluate`, which is
how the two are held against each other.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any, TypeVar

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, has_bos_prefix, normalize_gen_kwargs

from evalsuite.engines import Engine, GenerateRequest, Generation, Score, ScoreRequest, Session, Unanswered
from evalsuite.errors import CannotRunError, SuiteError, UsageError
from evalsuite.groups import cut
from evalsuite.harness.sharing import share, size_of
from evalsuite.records import Mode

THINK, END_THINK = "<think>", "</think>"
A = TypeVar("A", Generation, Score)


class EngineLM(TemplateLM):  # type: ignore[misc]
    """lm-eval's `LM` over an engine and, once there is one, a session. Encoding follows lm-eval's `hf` model."""

    def __init__(self, engine: Engine, mode: Mode = "direct", session: Session | None = None) -> None:
        super().__init__()
        self.engine, self.mode, self.session = engine, mode, session
        self.tokenizer = engine.tokenizer
        self.max_gen_toks = 256
        self._encode = lru_cache(maxsize=64)(self._tokenise)
        """Tokens of the last texts: an item asks for those of its prompt several times."""

    @property
    def eot_token_id(self) -> int:
        """The first end-of-sequence token."""
        return self.engine.eos[0]

    @property
    def tokenizer_name(self) -> str:
        """Name of the tokenizer, for lm-eval's request cache key (the cache itself is not used)."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids of a text, with the tokenizer's own special tokens unless the text brings its BOS."""
        bos = getattr(self.tokenizer, "bos_token", None)
        special = add_special_tokens if add_special_tokens is not None else not has_bos_prefix(string, bos)
        return list(self._encode(string, special))

    def _tokenise(self, string: str, special: bool) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(string, add_special_tokens=special))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The chat template with `enable_thinking` (DeepSeek: `thinking`) from the mode."""
        thinking = self.mode == "thinking"
        options = {"tokenize": False, "add_generation_prompt": add_generation_prompt,
                   "continue_final_message": not add_generation_prompt,
                   "enable_thinking": thinking, "thinking": thinking}  # fmt: skip
        try:
            return str(self.tokenizer.apply_chat_template(chat_history, **options))
        except Exception:  # noqa: BLE001 - some templates refuse a system turn, with errors of many kinds
            user_only = [turn for turn in chat_history if turn["role"] != "system"]
            return str(self.tokenizer.apply_chat_template(user_only, **options))

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:  # noqa: ARG002 - lm-eval's signature
        """Texts as stock lm-eval wants them: the thought removed, cut at the stop strings."""
        prepared = [self.generate_request(*instance.args) for instance in requests]
        shared = share([(request,) for request in prepared])
        texts = [""] * len(requests)
        for group in cut([size_of(one) for one in shared]):
            for i, made in zip(group, self._live.generate([shared[i][0] for i in group]), strict=True):
                texts[i] = visible(_given(made).text, requests[i].args[0], prepared[i].stop)[0]
        return texts

    def generate_request(self, prompt: str, gen_kwargs: dict[str, Any]) -> GenerateRequest:
        """One lm-eval generation request as token ids, cut from the left where the context is too short."""
        kwargs = normalize_gen_kwargs(gen_kwargs, self.max_gen_toks)
        eos = self.tokenizer.decode([self.eot_token_id], skip_special_tokens=False)
        stop = tuple(s for s in handle_stop_sequences(kwargs.get("until"), eos=eos) if s)
        room = self.engine.max_length - kwargs["max_gen_toks"]
        if room <= 0:
            raise UsageError(f"A budget of {kwargs['max_gen_toks']} tokens leaves no room for the prompt: the model's "
                             f"context is {self.engine.max_length}. Lower `max_gen_toks`.")  # fmt: skip
        after = END_THINK if self.mode == "thinking" else None
        return GenerateRequest(tuple(self.tok_encode(prompt)[-room:]), kwargs["max_gen_toks"], stop, after)

    def score_request(self, context: str, continuation: str) -> ScoreRequest:
        """One lm-eval log-likelihood request as token ids, cut from the left where the context is too short."""
        before, behind = self.encode_pair(context, continuation)
        if not behind:
            raise SuiteError(f"empty continuation {continuation!r} behind {context[-40:]!r}: nothing to score.")
        return self._fitted(before, behind)

    def _fitted(self, before: Sequence[int], behind: Sequence[int]) -> ScoreRequest:
        """Both parts as a request, the context cut from the left to the model's length."""
        length = self.engine.max_length
        if not behind or len(behind) > length:
            raise SuiteError(f"a continuation of {len(behind)} tokens cannot be scored: at least 1, and at most the "
                             f"model's context of {length}.")  # fmt: skip
        return ScoreRequest(tuple(before[max(0, len(before) + len(behind) - length - 1) :]), tuple(behind))

    def encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Token ids of both parts, by lm-eval's rule where tokens merge across the border or the context is empty."""
        if context:
            before, behind = self._encode_pair(context, continuation)
            return before, behind
        ids = self.tok_encode(continuation, add_special_tokens=False)
        return ([self.prefix_token_id], ids) if ids[:1] != [self.prefix_token_id] else (ids[:1], ids[1:])

    def _loglikelihood_tokens(self, requests: list[Any], **_: Any) -> list[tuple[float, bool]]:
        prepared = [self._fitted(c, t) for _, c, t in requests]
        items = [list(asked) for _, asked in groupby(range(len(prepared)), key=lambda i: prepared[i].context)]
        shared = share([[prepared[i] for i in item] for item in items])
        results = [(0.0, False)] * len(prepared)
        for group in cut([size_of(one) for one in shared]):
            made = self._live.score([request for number in group for request in shared[number]])
            for i, score in zip((i for number in group for i in items[number]), made, strict=True):
                results[i] = (_given(score).loglikelihood, _given(score).greedy)
        return results

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:  # noqa: ARG002
        """Refused: UsageError."""
        raise UsageError("Rolling log-likelihoods (perplexity tasks) have no right or wrong item.")

    @property
    def _live(self) -> Session:
        if self.session is None:
            raise UsageError("This EngineLM has no session; open the engine first.")
        return self.session


def _given(answer: A | Unanswered) -> A:
    """The answer; CannotRunError where there is none, since stock lm-eval knows no missing items."""
    if isinstance(answer, Unanswered):
        raise CannotRunError(f"An item was not answered: {answer.kind}: {answer.detail}")
    return answer


def visible(text: str, prompt: str, stop: Sequence[str]) -> tuple[str, bool]:
    """The answer behind the last `</think>`, cut at the first stop string; False if a thought was left open."""
    opened = THINK in text or prompt.rstrip().endswith(THINK)
    if END_THINK in text:
        text = text.rsplit(END_THINK, 1)[1].lstrip()
    elif opened:
        return "", False
    for term in stop:
        text = text.split(term)[0]
    return text, True
