"""A server of the OpenAI protocol over the embedded engine, for tests: what it answers is what the model answers.

Requests are answered one by one by a `LocalSession`, so an answer depends on its request alone. Faults, the key and the
connections are the fake server's (`evalsuite.measure.fake_server`); `ModelServer.faults` says which requests they hit.
"""

import asyncio
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalsuite.engines import GenerateRequest, TraceRequest
from evalsuite.engines.local import LocalEngine
from evalsuite.measure.fake_server import Behaviour, FakeServer
from evalsuite.precision.recipes import RECIPES
from evalsuite.records import Arm, ModelRef


@dataclass
class Talks:
    """What the server knows of the protocol."""

    ids: bool = True
    scoring: tuple[str, ...] = ("prompt_logprobs",)
    stop_reason: bool = True
    version: str | None = "1.2.3"
    tokenize: Callable[[list[int]], list[int]] | None = lambda ids: ids
    completions: bool = True
    chat: bool = False
    max_model_len: int | None = None
    first_s: float = 0.0
    faults: Callable[[int, dict[str, Any]], str | None] = field(default=lambda number, body: None)
    """Number of a request behind the trial, and the request -> a fault, or none."""


class Model:
    """The tiny model in one recipe, and the thread that computes."""

    def __init__(self, folder: Path, recipe: str) -> None:
        self.engine = LocalEngine(ModelRef(id=str(folder)), {})
        self._stack = ExitStack()
        arm = Arm(id=recipe, model=self.engine.model, recipe=RECIPES[recipe])
        self.thread = ThreadPoolExecutor(1)
        self.session = self.thread.submit(lambda: self._stack.enter_context(self.engine.open(arm))).result()

    def close(self) -> None:
        self.thread.submit(self._stack.close).result()
        self.thread.shutdown()


class ModelServer(FakeServer):
    """The server; as a context it gives its URL."""

    def __init__(self, model: Model, talks: Talks | None = None, key: str | None = None, port: int = 0) -> None:
        super().__init__(Behaviour(model="tiny", key=key), port)
        self.model, self.talks = model, talks or Talks()
        self.looking = True
        self.looks = 0
        self.now = self.most = 0
        """Requests in flight, and the most there ever were."""
        self.lock = threading.Lock()

    async def _answer(self, exchange: Any) -> None:
        path, talks = exchange.path, self.talks
        asked = json.loads(exchange.body) if exchange.body else {}
        key = self.behaviour.key
        if key is not None and exchange.headers.get("authorization") != f"Bearer {key}":
            got = exchange.headers.get("authorization", "").removeprefix("Bearer ")
            await exchange.document(401, {"error": {"message": f"Incorrect API key provided: {got}"}})
        elif path == "/v1/models":
            card = {"id": "tiny", "owned_by": "tests"}
            more = {} if talks.max_model_len is None else {"max_model_len": talks.max_model_len}
            await exchange.document(200, {"data": [{**card, **more}]})
        elif path == "/version" and talks.version is not None:
            await exchange.document(200, {"version": talks.version})
        elif path == "/tokenize" and talks.tokenize is not None:
            ids = self.model.engine.tokenizer.encode(asked["prompt"], add_special_tokens=False)
            await exchange.document(200, {"tokens": talks.tokenize(ids)})
        elif (path == "/v1/completions" and talks.completions) or (path == "/v1/chat/completions" and talks.chat):
            await self._complete(exchange, asked, None)
        else:
            await exchange.document(404, {"detail": "Not Found"})

    async def _complete(self, exchange: Any, body: dict[str, Any], fault: Any) -> None:
        trial = self._is_trial(body)
        if not trial:
            self.requests.append(body)
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            fault = None if trial else self.talks.faults(len(self.requests) - 1, body)
            if not trial and self.talks.first_s:
                await asyncio.sleep(self.talks.first_s)
            if fault is not None and await self._faulty(exchange, fault):
                return
            refused = [name for name in self.behaviour.rejects if name in body]
            if refused:
                await exchange.document(400, {"error": {"message": f"unknown field '{refused[0]}'"}})
                return
            loop = asyncio.get_running_loop()
            choice = await loop.run_in_executor(self.model.thread, self._choice, body)
            name = "another" if fault == "other_model" else "tiny"
            await exchange.document(200, {"model": name, "choices": [choice]})
        finally:
            self.now -= not trial

    def _is_trial(self, body: dict[str, Any]) -> bool:
        trial = "One, two, three,"
        if "messages" in body:
            return body["messages"][-1]["content"] == trial
        return body["prompt"] == self.model.engine.tokenizer.encode(trial, add_special_tokens=False)

    async def _faulty(self, exchange: Any, fault: str) -> bool:
        """Do what was asked for; False if the answer is to be given after all."""
        if fault in ("busy", "broken"):
            await exchange.document(429 if fault == "busy" else 500, {"error": {"message": fault}},
                                    "Retry-After: 0\r\n" if fault == "busy" else "")  # fmt: skip
        elif fault == "html":
            await self._raw(exchange, b"<html>Please sign in</html>", 0)
        elif fault == "garbage":
            await self._raw(exchange, b'{"choices": [{"te', 0)
        elif fault == "shape":
            await exchange.document(200, {"model": "tiny", "choices": []})
        elif fault == "error":
            await exchange.document(200, {"error": {"message": "engine died", "code": 500}})
        elif fault == "too_long":
            await exchange.document(400, {"error": {"message": "the prompt is too long"}})
        elif fault == "cut":
            await self._raw(exchange, b'{"choices": [{"te', 100)
            exchange.writer.transport.abort()
        elif fault == "stall":
            await asyncio.sleep(30)
        elif fault == "dies":
            assert self._server is not None
            self._server.close()
            for writer in self._open:
                writer.transport.abort()
        else:
            return False
        return True

    async def _raw(self, exchange: Any, data: bytes, missing: int) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(data) + missing}\r\n\r\n"
        exchange.writer.write(head.encode() + data)
        await exchange.writer.drain()

    # ------------------------------------------------------------------------------------------------- the model

    def _choice(self, body: dict[str, Any]) -> dict[str, Any]:
        if body.get("prompt_logprobs") or body.get("echo"):
            return self._scored(body)
        tokenizer = self.model.engine.tokenizer
        if "messages" in body:
            prompt = tokenizer.apply_chat_template(
                body["messages"], tokenize=True, add_generation_prompt=True, return_dict=False,
                **body.get("chat_template_kwargs", {}),
            )  # fmt: skip
        else:
            prompt = body["prompt"]
        request = GenerateRequest(
            tuple(prompt), body["max_tokens"], tuple(body.get("stop") or ()), None, body["temperature"], body["top_p"],
            body.get("seed", 0),
        )  # fmt: skip
        made = self.model.session.generate([request])[0]
        choice: dict[str, Any] = {"finish_reason": "length" if made.finish_reason == "length" else "stop"}
        end = min((made.text.find(stop) for stop in request.stop if stop in made.text), default=len(made.text))
        said = made.text[:end]
        if "messages" in body:
            thought, closed, rest = said.partition("</think>")
            choice["message"] = {"content": rest, "reasoning_content": thought.removeprefix("<think>")}
            if not closed:
                choice["message"] = {"content": said}
        else:
            choice["text"] = said
        if self.talks.stop_reason:
            choice["stop_reason"] = "a stop string" if made.finish_reason == "stop" else None
        if self.talks.ids and body.get("return_token_ids"):
            end_of_text = [self.model.engine.eos[0]] if made.finish_reason == "eos" else []
            choice["token_ids"] = [*made.tokens, *end_of_text]
        return choice

    def _scored(self, body: dict[str, Any]) -> dict[str, Any]:
        ids = body["prompt"]
        how = "prompt_logprobs" if body.get("prompt_logprobs") else "echo"
        choice: dict[str, Any] = {"text": "", "finish_reason": "length"}
        if how not in self.talks.scoring:
            return choice
        traced = self.model.session.trace([TraceRequest(tuple(ids[:1]), tuple(ids[1:]))], 1)[0]
        values, best = traced.chosen.tolist(), traced.logprobs[:, 0].tolist()
        if how == "echo":
            tops = [{"x": value} for value in best]
            logprobs = {"token_logprobs": [None, *values, -1.0], "top_logprobs": [None, *tops, {"y": -1.0}]}
            return {**choice, "logprobs": logprobs}
        rows: list[dict[str, Any] | None] = [None]
        for token, at, own, most in zip(ids[1:], traced.top.tolist(), values, best, strict=True):
            rows.append({str(token): {"logprob": own}, str(at): {"logprob": most, "rank": 1}})
        return {**choice, "prompt_logprobs": rows}
