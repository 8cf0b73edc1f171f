"""One streamed request to an OpenAI-compatible server, `POST /v1/completions`, and the times at which its pieces came.

Tokens are counted by the server: by `token_ids` (which vLLM sends when asked with `return_token_ids`), else by the
tokens under `logprobs`, else in all by `usage`. Only where it says nothing of that are they counted from text, with a
tokenizer that was named, and the answer says so.

A busy server (429, 5xx) is asked again after the time it names, or after a wait that doubles; everything else that goes
wrong is a `FailedError` of a kind from `KINDS`. The key for the server is read from the environment, is sent to the
server, and stands nowhere else: what a server says is cleaned of it.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

from evalsuite.engines.openai import wait_of
from evalsuite.measure.latencies import Served

KINDS = {
    "unreachable": "no connection, or it broke before an answer",
    "timeout": "nothing came for too long",
    "rate_limited": "429, however often it was asked",
    "server_error": "5xx, however often it was asked, or an error within the answer",
    "refused": "another status than 200",
    "garbage": "the answer is not what the protocol says",
    "cut": "the answer broke off",
    "other_model": "another model answered",
    "uncounted": "nothing says how many tokens there were",
}
"""Kinds of failure."""
EXCERPT = 200
"""Characters of a server's words that are repeated."""


class FailedError(Exception):
    """A request that did not succeed."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind, self.detail = kind, detail


class _BusyError(Exception):
    """A status after which the request may be sent again."""

    def __init__(self, status: int, detail: str, after_s: float | None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.after_s = status, detail, after_s


@dataclass(frozen=True, slots=True)
class Server:
    """Where requests go, and how patiently."""

    url: str
    """With `/v1`, without a slash at the end."""
    model: str
    timeout_s: float = 120.0
    """Longest silence; also the longest wait that a busy server may ask for."""
    retries: int = 4
    backoff_s: float = 0.25
    """First wait; doubles."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answered request."""

    served: Served
    counted_by: str
    """`token_ids`, `logprobs`, `usage` or `text`."""
    cached_tokens: int = 0
    """Prompt tokens that the server says it had cached."""


@dataclass
class _Stream:
    """What came of one answer so far."""

    times: list[int] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    ids: list[int | None] = field(default_factory=list)
    logprobs: list[int | None] = field(default_factory=list)
    usage: dict[str, Any] | None = None
    ended: bool = False


class Client:
    """A connection pool to one server. All methods run in one event loop."""

    def __init__(self, server: Server, key: str | None, count: Callable[[str], int] | None = None) -> None:
        """*key* is the server's; *count* tells tokens of a text where the server does not."""
        self.server = server
        self.retried = 0
        self._key, self._count = key, count
        self._http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(server.timeout_s, connect=min(10.0, server.timeout_s)),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=600),
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def models(self) -> list[str]:
        """Names of the models that the server says it has; FailedError if it does not say."""
        try:
            response = await self._http.get(f"{self.server.url}/models")
        except httpx.HTTPError as error:
            raise self._failed(error) from None
        if response.status_code != 200:
            raise FailedError("refused", f"GET {self.server.url}/models: {response.status_code} "
                                         f"{self._clean(response.text)}")  # fmt: skip
        try:
            return [str(one["id"]) for one in response.json()["data"]]
        except (ValueError, KeyError, TypeError):
            raise FailedError("garbage", f"GET {self.server.url}/models: {self._clean(response.text)}") from None

    async def complete(self, prompt: str, body: dict[str, Any], seen: Callable[[int], None] | None = None) -> Answer:
        """Send a request and read its answer to the end.

        Args:
            prompt: the text to continue.
            body: the request's other fields (`max_tokens`, `ignore_eos`, ...).
            seen: is told when the first piece came.

        Raises:
            FailedError: it did not succeed, however often it was sent.
        """
        sent = time.perf_counter_ns()
        wait = self.server.backoff_s
        whole = {"model": self.server.model, "prompt": prompt, "stream": True, "temperature": 0, **body}
        for left in range(self.server.retries, -1, -1):
            try:
                return self._answer(prompt, sent, await self._read(whole, seen))
            except _BusyError as busy:
                kind = "rate_limited" if busy.status == 429 else "server_error"
                pause = wait if busy.after_s is None else busy.after_s
                if not left or pause > self.server.timeout_s:
                    asked = "" if busy.after_s is None else f", asks to wait {busy.after_s:g} s"
                    raise FailedError(kind, f"{busy.status}{asked}: {busy.detail}") from None
                self.retried += 1
                await asyncio.sleep(pause)
                wait *= 2
        raise AssertionError("the last attempt returns or raises")

    async def _read(self, body: dict[str, Any], seen: Callable[[int], None] | None) -> _Stream:
        stream = _Stream()
        try:
            async with self._http.stream("POST", f"{self.server.url}/completions", json=body) as response:
                if response.status_code != 200:
                    await self._refuse(response)
                kind = response.headers.get("content-type", "")
                if "event-stream" not in kind:
                    raise FailedError("garbage", f"expected a stream of events, got '{self._clean(kind)}'")
                async for line, t_ns in _lines(response):
                    if not line.startswith(b"data:"):
                        continue
                    before = len(stream.times)
                    self._take(line[5:].strip(), t_ns, stream)
                    if seen is not None and not before and stream.times:
                        seen(t_ns)
        except httpx.HTTPError as error:
            raise self._failed(error, cut=bool(stream.times)) from None
        if not stream.ended:
            raise FailedError("cut", f"the answer broke off behind piece {len(stream.times)}")
        if not stream.times:
            raise FailedError("garbage", "the answer has no piece")
        return stream

    async def _refuse(self, response: httpx.Response) -> None:
        said = self._clean((await response.aread()).decode("utf-8", errors="replace"))
        if response.status_code == 429 or response.status_code >= 500:
            raise _BusyError(response.status_code, said, wait_of(response.headers.get("retry-after")))
        raise FailedError("refused", f"{response.status_code}: {said}")

    def _take(self, data: bytes, t_ns: int, stream: _Stream) -> None:
        """Add one event to what came so far."""
        if data == b"[DONE]":
            stream.ended = True
            return
        try:
            event = json.loads(data)
            if "error" in event:
                raise FailedError("server_error", self._clean(json.dumps(event["error"])))
            name, choices = event.get("model"), event.get("choices") or []
            stream.usage = event.get("usage") or stream.usage
            if name is not None and name != self.server.model:
                raise FailedError("other_model", f"'{self._clean(str(name))}' answered for '{self.server.model}'")
            for choice in choices:
                text, ids = choice.get("text") or "", choice.get("token_ids")
                logprobs = (choice.get("logprobs") or {}).get("tokens")
                if text or ids:
                    stream.times.append(t_ns)
                    stream.text.append(text)
                    stream.ids.append(None if ids is None else len(ids))
                    stream.logprobs.append(None if logprobs is None else len(logprobs))
                stream.ended = stream.ended or choice.get("finish_reason") is not None
        except (ValueError, AttributeError, TypeError):
            raise FailedError("garbage", self._clean(data.decode("utf-8", errors="replace"))) from None

    def _answer(self, prompt: str, sent: int, stream: _Stream) -> Answer:
        usage = stream.usage or {}
        tokens: list[int] | None
        if None not in stream.ids:
            by, tokens = "token_ids", [int(n or 0) for n in stream.ids]
        elif None not in stream.logprobs:
            by, tokens = "logprobs", [int(n or 0) for n in stream.logprobs]
        else:
            by, tokens = ("usage", None) if usage.get("completion_tokens") is not None else ("text", None)
        read = usage.get("prompt_tokens")
        if (by == "text" or read is None) and self._count is None:
            raise FailedError("uncounted", "the server names neither tokens nor their number")
        if self._count is not None:
            read = self._count(prompt) if read is None else read
        if tokens is not None:
            output = sum(tokens)
        elif by == "usage" or self._count is None:
            output = int(usage["completion_tokens"])
        else:
            output = self._count("".join(stream.text))
        each = None if tokens is None else np.array(tokens, dtype=np.int64)
        served = Served(sent, np.array(stream.times, dtype=np.int64), each, int(read or 0), output)
        return Answer(served, by, int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0))

    def _failed(self, error: httpx.HTTPError, cut: bool = False) -> FailedError:
        said = f"{self.server.url}: {self._clean(str(error) or type(error).__name__)}"
        if isinstance(error, httpx.TimeoutException):
            return FailedError("timeout", f"{said}: nothing for {self.server.timeout_s:g} s")
        broke = cut or (isinstance(error, httpx.RemoteProtocolError) and "incomplete" in str(error))
        return FailedError("cut" if broke else "unreachable", said)

    def _clean(self, text: str) -> str:
        """The beginning of what a server said, on one line, without the key."""
        text = " ".join(text.split())
        return (text.replace(self._key, "***") if self._key else text)[:EXCERPT]


async def _lines(response: httpx.Response) -> AsyncIterator[tuple[bytes, int]]:
    """Lines of an answer, each with the moment at which its last bytes came."""
    rest = b""
    async for piece in response.aiter_bytes():
        t_ns = time.perf_counter_ns()
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line, t_ns
    if rest:
        yield rest, time.perf_counter_ns()
