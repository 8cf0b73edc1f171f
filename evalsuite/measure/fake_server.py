"""A small server of the OpenAI protocol that answers nonsense, with latencies and faults that were asked for.

    with FakeServer(Behaviour(first_s=0.2, token_s=0.05)) as url: ...
    python -m evalsuite.measure.fake_server --first-s 0.2 --token-s 0.05 --port 8000

It is for tests and rehearsals: no figure measured on it says anything about a model. It is honest about itself: its
latencies are those asked for (as far as the machine wakes it in time), its token counts are right, and it calls itself
`fake`. Knows `GET /v1/models` and `POST /v1/completions`, streaming only.
"""

import argparse
import asyncio
import contextlib
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, fields
from types import TracebackType
from typing import Any, Literal

Fault = Literal["busy", "broken", "garbage", "cut", "other_model", "stall", "error_event", "dies", "html"]
"""`busy`: 429. `broken`: 500. `garbage`: a piece that is no JSON. `cut`: the connection closes within an answer.
`other_model`: answers under another name. `stall`: stops within an answer. `error_event`: an error within an answer.
`dies`: the server goes away within an answer, for good. `html`: 200, and a page of a proxy."""
REASONS = {400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests", 500: "Server Error"}


@dataclass(frozen=True)
class Behaviour:
    """What the server does."""

    model: str = "fake"
    first_s: float = 0.0
    """To the first piece."""
    token_s: float = 0.0
    """Between tokens."""
    piece: int = 1
    """Tokens a piece."""
    token_ids: bool = True
    """Whether it knows `return_token_ids`; ignored otherwise."""
    logprobs: bool = True
    usage: bool = True
    rejects: tuple[str, ...] = ()
    """Fields that it answers with 400."""
    stops_at: int | None = None
    """Answers end after so many tokens, whatever was asked."""
    cached: int = 0
    """Prompt tokens that it says it had cached."""
    key: str | None = None
    """The key that it wants; its refusal repeats the one that it got."""
    fault: Fault | None = None
    after: int = 0
    """Requests that are answered well before the fault."""
    times: int | None = None
    """Requests that the fault hits; None: all from then on."""
    retry_after: str | None = None


class FakeServer:
    """The server in a thread of its own; as a context it gives its URL."""

    def __init__(self, behaviour: Behaviour, port: int = 0) -> None:
        self.behaviour = behaviour
        self.requests: list[dict[str, Any]] = []
        """Bodies of the completion requests, in order."""
        self.port = port
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> str:
        self._thread.start()
        self._ready.wait()
        return self.url

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _serve(self) -> None:
        self._server = self._loop.run_until_complete(asyncio.start_server(self._connection, "127.0.0.1", self.port))
        self.port = self._server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._stop())
        self._loop.close()

    async def _stop(self) -> None:
        assert self._server is not None
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, _GoneError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head.split("\r\n")[1:])}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                await self._answer(_Exchange(head.split(" ")[1], headers, body, writer))
        self._open.discard(writer)
        writer.close()

    async def _answer(self, exchange: "_Exchange") -> None:
        asked = self.behaviour
        got = exchange.headers.get("authorization", "").removeprefix("Bearer ")
        if asked.key is not None and got != asked.key:
            await exchange.document(401, {"error": {"message": f"Incorrect API key provided: {got}"}})
        elif exchange.path == "/v1/models":
            await exchange.document(200, {"object": "list", "data": [{"id": asked.model, "object": "model"}]})
        elif exchange.path != "/v1/completions":
            await exchange.document(404, {"error": {"message": "unknown path"}})
        else:
            body = json.loads(exchange.body)
            number = len(self.requests) - asked.after
            self.requests.append(body)
            hit = number >= 0 and (asked.times is None or number < asked.times)
            await self._complete(exchange, body, asked.fault if hit else None)

    async def _complete(self, exchange: "_Exchange", body: dict[str, Any], fault: Fault | None) -> None:
        asked = self.behaviour
        refused = [name for name in asked.rejects if name in body]
        if refused:
            await exchange.document(400, {"error": {"message": f"unknown field '{refused[0]}'"}})
        elif fault in ("busy", "broken"):
            more = "" if asked.retry_after is None else f"Retry-After: {asked.retry_after}\r\n"
            await exchange.document(429 if fault == "busy" else 500, {"error": {"message": f"{fault}"}}, more)
        elif fault == "html":
            await exchange.start("text/html")
            await exchange.send("<html>Please sign in</html>\n")
            await exchange.end()
        else:
            await self._stream(exchange, body, fault)

    async def _stream(self, exchange: "_Exchange", body: dict[str, Any], fault: Fault | None) -> None:
        asked = self.behaviour
        total = min(int(body["max_tokens"]), asked.stops_at or 10**9)
        name = "another" if fault == "other_model" else asked.model
        await exchange.start("text/event-stream")
        due = asyncio.get_running_loop().time() + asked.first_s
        for at in range(0, total, asked.piece):
            await asyncio.sleep(due - asyncio.get_running_loop().time())
            if at >= total // 2 and fault not in (None, "other_model"):
                await self._fail(exchange, fault)
            tokens = min(asked.piece, total - at)
            last = at + tokens >= total
            choice: dict[str, Any] = {"index": 0, "text": " so" * tokens, "finish_reason": "length" if last else None}
            if asked.token_ids and body.get("return_token_ids"):
                choice["token_ids"] = list(range(at, at + tokens))
            if asked.logprobs and body.get("logprobs") is not None:
                choice["logprobs"] = {"tokens": [" so"] * tokens, "token_logprobs": [-1.0] * tokens}
            await exchange.event({"model": name, "choices": [choice]})
            due += asked.token_s * tokens
        if asked.usage and (body.get("stream_options") or {}).get("include_usage"):
            usage = {"prompt_tokens": len(body["prompt"].split()), "completion_tokens": total,
                     "prompt_tokens_details": {"cached_tokens": asked.cached}}  # fmt: skip
            await exchange.event({"model": name, "choices": [], "usage": usage})
        await exchange.send("data: [DONE]\n\n")
        await exchange.end()

    async def _fail(self, exchange: "_Exchange", fault: Fault | None) -> None:
        if fault == "garbage":
            await exchange.send('data: {"choices": [{"te\n\n')
        elif fault == "error_event":
            await exchange.event({"error": {"message": "engine died", "code": 500}})
        elif fault == "stall":
            await asyncio.sleep(3600)
        elif fault == "cut":
            raise _GoneError
        elif fault == "dies" and self._server is not None:
            self._server.close()
            for writer in self._open:
                writer.transport.abort()
            raise _GoneError


class _GoneError(Exception):
    """The connection is closed within an answer."""


@dataclass
class _Exchange:
    """One request and the way to answer it."""

    path: str
    headers: dict[str, str]
    body: bytes
    writer: asyncio.StreamWriter

    async def document(self, status: int, document: dict[str, Any], more: str = "") -> None:
        """Answer with a JSON document."""
        data = json.dumps(document).encode()
        head = f"HTTP/1.1 {status} {REASONS.get(status, 'OK')}\r\nContent-Type: application/json\r\n{more}"
        self.writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        await self.writer.drain()

    async def start(self, kind: str) -> None:
        """Begin an answer in pieces."""
        self.writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        await self.writer.drain()

    async def event(self, event: dict[str, Any]) -> None:
        """Send one event."""
        await self.send(f"data: {json.dumps(event)}\n\n")

    async def send(self, text: str) -> None:
        """Send one piece."""
        data = text.encode()
        self.writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        await self.writer.drain()

    async def end(self) -> None:
        """End an answer in pieces."""
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, default=8000)
    for one in fields(Behaviour):
        if one.name in ("model", "first_s", "token_s", "piece", "fault", "after", "times"):
            kind = {"model": str, "fault": str, "first_s": float, "token_s": float}.get(one.name, int)
            parser.add_argument(f"--{one.name.replace('_', '-')}", type=kind, default=one.default)
    asked = vars(parser.parse_args(arguments))
    server = FakeServer(port=asked.pop("port"), behaviour=Behaviour(**asked))
    with server as url, contextlib.suppress(KeyboardInterrupt):
        print(f"{url}/v1 answers as '{server.behaviour.model}'", flush=True)  # noqa: T201 - a program of its own
        threading.Event().wait()


if __name__ == "__main__":
    main()
