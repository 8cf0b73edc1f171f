"""Any server of the OpenAI protocol as an engine, one server an arm: vLLM, SGLang, TensorRT-LLM, vllm-ascend, ...

    engine: {name: endpoint, options: {endpoints: {bf16: "http://h:8000", fp8-ue8m0: "http://h:8001"}, served_model: m}}

Which numbers a server computes in is what the suite says of it: `declared`. It must at least have the model by name,
read texts as the same tokens (where it says which), and take token ids as prompts. Prompts are built here, with our own
chat template, so that they are those of every other engine. A group is answered with a bounded number of requests in
flight; what is not answered after the retries is missing, never wrong, and `run --resume` asks it again. A server that
goes away fails the cell with what is left; what came before is kept.

The resume key holds the name of the model and what the server says it is (`records.Served`), not its address: a server
that moved is the same arm, one of another version is not.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from evalsuite.engines import (
    GONE,
    UNANSWERED,
    Decoding,
    GenerateRequest,
    Generation,
    IntArray,
    Score,
    ScoreRequest,
    Trace,
    TraceRequest,
    Unanswered,
    wire,
)
from evalsuite.engines.chat import Messages
from evalsuite.engines.looking import Seen, identify, look
from evalsuite.engines.models import eos_ids, locate, reader_of
from evalsuite.engines.openai import FATAL, Client, FailedError, Patience, address, key_of
from evalsuite.errors import CannotRunError, UsageError, did_you_mean
from evalsuite.precision.recipes import is_as_shipped
from evalsuite.records import Arm, Finding, ModelRef, Realised

CONCURRENCY = 32
APIS = ("completions", "chat")
SCORING_TAKES = 2
"""Tokens of a context that scoring cannot use: a server reads the last token too, and must generate one."""

R = TypeVar("R", GenerateRequest, ScoreRequest)
A = TypeVar("A", Generation, Score)


class EndpointEngine:
    """Arms behind URLs.

    Options: `endpoints` (arm -> URL) or `base_url` (of all arms), `served_model` (a name, or arm -> name; default the
    arm's model id), `tokenizer` (folder or hub id; default the suite's model; no weights are needed), `api`
    (`completions`, or `chat` for servers that take messages only), `concurrency`, `timeout_s` (longest wait for one
    answer), `retries`, `api_key_env`, `group_tokens`.
    """

    def __init__(self, model: ModelRef, options: dict[str, Any]) -> None:
        self.model = model
        self.options = options
        if not options.get("endpoints") and not options.get("base_url"):
            raise UsageError("engine endpoint needs `endpoints: {ARM: URL}`, or `base_url: URL`.")
        for url in (options.get("base_url"), *dict(options.get("endpoints") or {}).values()):
            if url is not None:
                address(str(url))
        self.api: wire.Api = options.get("api", "completions")
        if self.api not in APIS:
            raise UsageError(f"engine endpoint has no api '{self.api}'.{did_you_mean(str(self.api), APIS)}")
        self.concurrency = int(_number(options, "concurrency", CONCURRENCY, 1))
        self.patience = Patience(_number(options, "timeout_s", 600.0, 0), int(_number(options, "retries", 5, 0)))
        self.key = key_of(options.get("api_key_env"))
        source = options.get("tokenizer")
        folder = locate(model if source is None else ModelRef(id=str(source)), weights=False)
        self.tokenizer, self.config = reader_of(folder)
        self.eos = eos_ids(folder, self.tokenizer)
        self.max_length = self._longest = int(self.config.max_position_embeddings)
        self._seen: dict[tuple[str, str], Seen] = {}
        self._users: dict[tuple[str, str], str] = {}

    @property
    def reader(self) -> wire.Reader:
        """What tokens mean."""
        return wire.Reader(self.tokenizer, self.eos)

    def where(self, arm: Arm) -> tuple[str, str]:
        """Address of an arm's server, and the model's name there; UsageError if the suite names none."""
        base = _base(arm)  # the noise floor asks the baseline's server
        urls = dict(self.options.get("endpoints") or {})
        url = urls.get(arm.id, urls.get(base, self.options.get("base_url")))
        if url is None:
            raise UsageError(f"Arm '{base}' has no URL in `endpoints`.{did_you_mean(base, urls)}")
        names = self.options.get("served_model")
        if isinstance(names, dict):
            names = names.get(arm.id, names.get(base))
        return address(str(url)), str(names or arm.model.id)

    def cannot_run(self, arm: Arm, *, scores: bool = False) -> str | None:
        """Its server must be there, have the model, and be no other arm's; with `scores`, give log-probabilities."""
        where = self.where(arm)
        first = self._users.setdefault(where, _base(arm))
        if first != _base(arm):
            return (f"arms '{first}' and '{arm.id}' ask the same server for the same model: it would be compared with "
                    "itself. Give each a server in `endpoints`, or a name in `served_model`")  # fmt: skip
        try:
            if where not in self._seen:
                self._seen[where] = asyncio.run(self._look(where))
        except FailedError as error:
            return f"arm '{arm.id}': {error.kind}: {error.detail.rstrip('.')}"
        seen = self._seen[where]
        self._longest = min(self._longest, seen.served.max_length or self._longest)
        self.max_length = self._longest - (SCORING_TAKES if scores else 0)
        if scores and seen.dialect.scoring is None:
            return (f"arm '{arm.id}': the suite has multiple-choice tasks, and {where[0]} gives no log-probabilities "
                    "of prompts (neither `prompt_logprobs` nor `echo`). Leave those tasks out, or take another "
                    "server")  # fmt: skip
        return None

    def resolve(self, arm: Arm) -> tuple[Arm, tuple[Finding, ...]]:
        """The arm with what its server says it is; nobody sees its weights."""
        served = self._seen[self.where(arm)].served
        return arm.model_copy(update={"served": served}), ()

    @contextmanager
    def open(self, arm: Arm) -> "Iterator[EndpointSession]":
        """Connect; CannotRunError if the server went away or became another one."""
        with asyncio.Runner() as runner:
            session = EndpointSession(self, arm, (self._seen[self.where(arm)], runner))
            try:
                session.check()
                yield session
            finally:
                session.close()

    def client(self, url: str) -> Client:
        """A connection pool to one server."""
        return Client(url, self.key, self.patience)

    async def _look(self, where: tuple[str, str]) -> Seen:
        client = self.client(where[0])
        try:
            return await look(client, (where[1], self.api), self.reader)
        finally:
            await client.close()


def _base(arm: Arm) -> str:
    """The arm whose server answers: the noise floor is the baseline again."""
    return arm.id.removesuffix("@aa")


def _number(options: dict[str, Any], name: str, default: float, least: float) -> float:
    value = options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= least:
        raise UsageError(f"engine endpoint: `{name}` must be a number of at least {least:g} (found: {value!r}).")
    return value


class EndpointSession:
    """One arm's server; see `engines.Session`."""

    def __init__(self, engine: EndpointEngine, arm: Arm, opened: tuple[Seen, asyncio.Runner]) -> None:
        self._arm, (self._seen, self._runner) = arm, opened
        self._reader, self._concurrency = engine.reader, engine.concurrency
        self._client = engine.client(engine.where(arm)[0])
        self._messages = Messages(engine.tokenizer) if engine.api == "chat" else None
        self._gone: FailedError | None = None
        self._lost: Counter[str] = Counter()
        served = self._seen.served
        self.realised = Realised(
            recipe=arm.recipe.id, execution="declared", gemm_mode="none", logits_dtype="unknown", device="server",
            kernel=f"{served.software or 'server'} {served.version or '(no version)'}", threads=None, modules=(),
            params_quantised=None, macs_quantised=None,
            facts={**self._seen.facts, "model": served.model,
                   **({"recipe": "as the checkpoint says"} if is_as_shipped(arm.recipe) else {})},
        )  # fmt: skip

    def check(self) -> None:
        """CannotRunError if the server is not the one that was looked at, or is not there."""
        try:
            served, _ = self._runner.run(identify(self._client, self._seen.served.model))
        except FailedError as error:
            raise CannotRunError(f"arm '{self._arm.id}': {error}") from None
        if served != self._seen.served:
            raise CannotRunError(f"arm '{self._arm.id}': {self._client.url} is another server than when the run began: "
                                 f"{_said(served)}, then {_said(self._seen.served)}. Resume the run.")  # fmt: skip

    def close(self) -> None:
        """Close all connections."""
        self._runner.run(self._client.close())

    def activity(self) -> dict[str, dict[str, int]]:
        """What was not answered since the last call, by kind of failure."""
        lost, self._lost = self._lost, Counter()
        return {UNANSWERED: dict(lost)} if lost else {}

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Generation | Unanswered]:
        """Answers of one group, in order."""
        return self._group(requests, self._generate)

    def score(self, requests: Sequence[ScoreRequest]) -> list[Score | Unanswered]:
        """Log-likelihoods of one group, in order, as the server computes them."""
        if self._seen.dialect.scoring is None:
            raise CannotRunError(f"arm '{self._arm.id}': its server gives no log-probabilities of prompts.")
        return self._group(requests, self._score)

    def trace(
        self, requests: Sequence[TraceRequest], top_k: int, support: Sequence[IntArray] | None = None  # noqa: ARG002
    ) -> list[Trace]:
        """Refused: CannotRunError."""
        raise CannotRunError("an endpoint gives no next-token distributions; `divergence: {tokens: 0}` asks for none")

    def decoding(self, requests: Sequence[GenerateRequest]) -> Decoding:  # noqa: ARG002 - it is refused
        """Refused: CannotRunError."""
        raise CannotRunError("an endpoint is not continued token by token.")

    # ---------------------------------------------------------------------------------------------------- requests

    async def _generate(self, request: GenerateRequest) -> Generation:
        dialect = self._seen.dialect
        prompt = {"prompt": list(request.prompt)} if self._messages is None else self._messages.of(request.prompt)
        return await self._ask(dialect.path, wire.body_of(request, dialect, prompt),
                               lambda choice: wire.generation(choice, request, self._reader))  # fmt: skip

    async def _score(self, request: ScoreRequest) -> Score:
        dialect = self._seen.dialect
        assert dialect.scoring is not None
        scoring = dialect.scoring
        return await self._ask("completions", wire.score_body(request, dialect.model, scoring),
                               lambda choice: wire.score(choice, request, scoring))  # fmt: skip

    async def _ask(self, path: str, body: dict[str, Any], read: Callable[[dict[str, Any]], A]) -> A:
        model = self._seen.dialect.model
        return await self._client.ask(path, body, lambda document: read(wire.choice_of(document, model)),
                                      lambda _: self._gone is not None)  # fmt: skip

    def _group(self, requests: Sequence[R], ask: Callable[[R], Awaitable[A]]) -> list[A | Unanswered]:
        """All answers of a group; CannotRunError if the server was gone before, and still is."""
        if self._gone is not None:
            self.check()
            self._gone = None
        made = self._runner.run(self._all(requests, ask))
        self._lost.update(one.kind for one in made if isinstance(one, Unanswered))
        return made

    async def _all(self, requests: Sequence[R], ask: Callable[[R], Awaitable[A]]) -> list[A | Unanswered]:
        places = asyncio.Semaphore(self._concurrency)
        tasks = [asyncio.create_task(self._one(request, ask, places)) for request in requests]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(
        self, request: R, ask: Callable[[R], Awaitable[A]], places: asyncio.Semaphore
    ) -> A | Unanswered:
        async with places:
            if self._gone is not None:
                return Unanswered(GONE, self._gone.detail)
            try:
                return await ask(request)
            except FailedError as error:
                if error.kind in FATAL:
                    raise CannotRunError(f"arm '{self._arm.id}': {error}") from None
                if error.kind == "unreachable" and await self._is_gone(error):
                    return Unanswered(GONE, error.detail)
                return Unanswered(error.kind, error.detail)

    async def _is_gone(self, error: FailedError) -> bool:
        """Whether the server does not even tell its models any more; then nothing else is asked."""
        if self._gone is None:
            try:
                await self._client.ask("models", None, lambda document: document, lambda _: True)
            except FailedError as again:
                if again.kind in ("unreachable", "timeout"):
                    self._gone = error
        return self._gone is not None


def _said(served: Any) -> str:
    parts = [served.software, served.version, None if served.max_length is None else f"context {served.max_length}"]
    return " ".join(part for part in parts if part) or "nothing known"
