"""Arms behind OpenAI-compatible servers: one URL an arm, a closed loop at a fixed concurrency.

    engine: {name: endpoint, options: {endpoints: {bf16: "http://h:8000", fp8-ue8m0: "http://h:8001"}}}

What a server runs is what it says: `declared`, since nobody looked. It must at least have the model that was asked for
(`/v1/models`), keep answers at the asked-for length (`ignore_eos`), and say how many tokens they had; what it cannot do
is found out when an arm is opened, and recorded in `facts`. Prompts never repeat, so a prefix cache helps nobody.

Each of the workers of a loop sends its next request when its last one has ended; nobody sends any more once the steady
state is long enough. A request that fails ends the window: the caller measures again.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from evalsuite.engines.models import reader_of
from evalsuite.engines.openai import KEY, address, key_of
from evalsuite.errors import CannotRunError, UsageError, did_you_mean
from evalsuite.measure.completions import Answer, Client, FailedError, Server
from evalsuite.measure.latencies import Limits, Loop, Progress, work_of
from evalsuite.measure.loads import Load, Opened, Work
from evalsuite.measure.prompts import Corpus
from evalsuite.records import Arm, ModelRef, Workload

OPTIONS = ("endpoints", "names", "api_key_env", "tokenizer", "timeout_s", "retries", "slo", "ignore_eos")
"""What a suite may set: the URL of each arm; the model's name at each (else the arm's model id); the environment
variable with the key; a folder with the tokenizer; patience; service levels (`ttft_s`, `tpot_s`, `e2el_s`); and whether
answers are kept at their length (default) or end where the model ends them."""
BUSY = 0.9
"""Share of a core from which the client may be what was measured."""
CHARACTERS, SAMPLE = 4, 6
"""A token, to begin with; the server's own count of so many prompts then corrects it."""


class EndpointRig:
    """Arms of one bench, each behind a URL."""

    def __init__(self, model: ModelRef, options: dict[str, Any]) -> None:
        """UsageError: an option that does not exist or is not what it should be."""
        for name in options:
            if name not in OPTIONS:
                key = f" A key is read from the environment ({KEY})." if "key" in name else ""
                raise UsageError(f"Unknown option '{name}' of engine endpoint.{key}{did_you_mean(name, OPTIONS)}")
        if not options.get("endpoints"):
            raise UsageError("engine endpoint needs `endpoints: {ARM: URL}`, one URL for each arm.")
        self.model = model
        self.facts: dict[str, dict[str, Any]] = {}
        """Arm -> what its server said and can do."""
        self._options = options
        self._limits = _limits(options.get("slo"))
        self._runner = asyncio.Runner()
        self._clients: dict[str, _Arm] = {}
        self._loads: dict[tuple[str, Workload], EndpointLoad] = {}
        self._corpus = Corpus()

    def open(self, arm: Arm) -> Opened:
        """Ask the server of an arm what it has and can do.

        Raises:
            UsageError: the arm has no URL.
            CannotRunError: the server is not there, has another model, or cannot be measured.
        """
        opened = _Arm(arm.id, Client(self._server(arm), key_of(self._options.get("api_key_env")), self._count()))
        self._clients[arm.id] = opened
        try:
            self.facts[arm.id] = self._run(opened.probe(bool(self._options.get("ignore_eos", True))))
        except FailedError as error:
            raise CannotRunError(f"Arm '{arm.id}': {error.kind}: {error.detail}") from None
        return Opened("declared", None, None, None)

    def load(self, arm: Arm, workload: Workload) -> Load:
        """The closed loop of an arm at a concurrency.

        Raises:
            CannotRunError: the server refuses a request of this size, or the workload is not one of whole requests.
        """
        if workload.phase != "whole":
            raise CannotRunError(f"An endpoint is measured by whole requests; '{workload.key}' asks for its "
                                 f"{workload.phase} alone. Use the engine local for that.")  # fmt: skip
        key = (arm.id, workload)
        if key not in self._loads:
            client = self._clients[arm.id]
            loop = Loop(workload.batch, limits=self._limits)
            try:
                size = self._run(client.characters(workload.input_tokens, self._corpus))
            except FailedError as error:
                raise CannotRunError(f"Arm '{arm.id}', {workload.input_tokens} input tokens: {error.kind}: "
                                     f"{error.detail}") from None  # fmt: skip
            prompts = _Prompts(self._corpus, size)
            self._loads[key] = EndpointLoad(client, workload, loop, _Sending(self._runner, prompts))
        return self._loads[key]

    def close(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            self._run(client.client.close())
        self._clients, self._loads = {}, {}
        self._runner.close()

    def _run(self, work: Any) -> Any:
        return self._runner.run(work)

    def _server(self, arm: Arm) -> Server:
        urls = self._options["endpoints"]
        base = arm.id.split("@")[0]  # the null arm is the baseline's server again
        url = urls.get(arm.id, urls.get(base))
        if url is None:
            raise UsageError(f"Arm '{arm.id}' has no URL in `endpoints`.{did_you_mean(arm.id, urls)}")
        names = self._options.get("names", {})
        server = Server(address(str(url)), names.get(arm.id, names.get(base, arm.model.id)))
        patience = {name: self._options[name] for name in ("timeout_s", "retries") if name in self._options}
        return replace(server, **patience)

    def _count(self) -> Callable[[str], int] | None:
        folder = self._options.get("tokenizer")
        if folder is None:
            return None
        tokenizer, _ = reader_of(Path(folder).expanduser())
        return lambda text: len(tokenizer.encode(text, add_special_tokens=False))


@dataclass
class _Arm:
    """A server, and how it must be asked."""

    id: str
    client: Client
    asking: dict[str, Any] = field(default_factory=dict)

    async def probe(self, ignore_eos: bool) -> dict[str, Any]:
        """Find out what the server has and takes; see `EndpointRig.open`."""
        server = self.client.server
        known = await self.client.models()
        if server.model not in known:
            raise FailedError("other_model", f"{server.url} has no model '{server.model}'; it has: {', '.join(known)}. "
                                             "Say its name there with `names: {ARM: NAME}`.")  # fmt: skip
        usage, ids = {"stream_options": {"include_usage": True}}, {"return_token_ids": True}
        length = {"ignore_eos": True} if ignore_eos else {}
        logprobs, found = {"logprobs": 1}, None
        for extra in ({**usage, **ids}, usage, {**usage, **logprobs}, logprobs, {}):
            try:
                answer = await self.client.complete("One, two, three,", {"max_tokens": 4, **length, **extra})
            except FailedError as error:
                if error.kind == "uncounted" or (error.kind == "refused" and extra):
                    continue
                hint = " Does it take `ignore_eos`? Without it, set `ignore_eos: false`." if length else ""
                raise FailedError(error.kind, error.detail + (hint if error.kind == "refused" else "")) from None
            if found is None or answer.counted_by != "text":
                self.asking, found = {**length, **extra}, answer
            if answer.counted_by != "text":
                break
        if found is None:
            raise FailedError("uncounted", f"{server.url} names neither tokens nor their number. Name a folder with "
                                           "the model's tokenizer with `tokenizer: FOLDER`.")  # fmt: skip
        return {"url": server.url, "model": server.model, "models": known, "asked_with": sorted(self.asking),
                "counted_by": found.counted_by}  # fmt: skip

    async def characters(self, tokens: int, corpus: Corpus) -> int:
        """Characters of a prompt of about so many tokens, by the server's own count."""
        size = CHARACTERS * tokens
        for numbers in (range(1), range(SAMPLE)):
            read = 0
            for number in numbers:
                answer = await self.client.complete(corpus.text(number, size), {**self.asking, "max_tokens": 1})
                read += answer.served.input_tokens
            size = max(1, round(size * tokens * len(numbers) / max(1, read)))
        return size


@dataclass
class _Prompts:
    """Prompts of one size that never repeat."""

    corpus: Corpus
    characters: int
    sent: int = 0

    def next(self) -> str:
        """Text that begins with a number of its own: whatever caches prompts by their beginnings finds none."""
        self.sent += 1
        return f"{self.sent} {self.corpus.text(self.sent, self.characters)}"[: self.characters]


@dataclass(frozen=True)
class _Sending:
    runner: asyncio.Runner
    prompts: _Prompts


@dataclass
class _Turn:
    """One window while it runs."""

    seconds: float
    progress: Progress
    answers: list[Answer] = field(default_factory=list)
    failed: FailedError | None = None
    cpu: list[tuple[int, int]] = field(default_factory=list)
    """Moments and the processor time that this process had used by then."""

    def tick(self) -> None:
        """Note the processor time used so far."""
        self.cpu.append((time.perf_counter_ns(), time.process_time_ns()))

    def begun(self, t_ns: int) -> None:
        """A request got its first piece."""
        self.progress.begun(t_ns)
        self.tick()

    def busy(self, start_ns: int, end_ns: int) -> float:
        """Cores that this process used between two moments."""
        at, used = np.array(self.cpu, dtype=np.float64).T
        return float(np.diff(np.interp([start_ns, end_ns], at, used))[0]) / (end_ns - start_ns)


class EndpointLoad:
    """A closed loop: so many requests in flight at any time."""

    def __init__(self, arm: _Arm, workload: Workload, loop: Loop, sending: _Sending) -> None:
        self._arm, self._workload, self._loop, self._sending = arm, workload, loop, sending
        self._body = {**arm.asking, "max_tokens": workload.output_tokens}

    def warm(self, seconds: float) -> None:
        """Run the loop untimed and break it off after this long. What fails here will fail in `run`, which says so."""
        try:
            self._sending.runner.run(asyncio.wait_for(self._go(_Turn(seconds, Progress(self._loop.largest))), seconds))
        except TimeoutError:
            return

    def run(self, seconds: float) -> Work:
        """Run whole requests until the steady state has lasted this long.

        The window is the steady state; it is `endpoint_failed` if a request failed.
        """
        turn = _Turn(seconds, Progress(self._loop.largest))
        before, start = self._arm.client.retried, time.perf_counter_ns()
        self._sending.runner.run(self._go(turn))
        retries = self._arm.client.retried - before
        if turn.failed is not None:
            said = f"{turn.failed.kind}: {turn.failed.detail}"
            return Work(start, time.perf_counter_ns(), 0, 0, 0, len(turn.answers), reasons=("endpoint_failed",),
                        retries=retries, notes=(said,))  # fmt: skip
        work = work_of([answer.served for answer in turn.answers], self._loop)
        reasons, notes = self._doubts(turn, turn.busy(work.start_ns, work.end_ns))
        return replace(work, reasons=(*work.reasons, *reasons), retries=retries, notes=notes)

    def close(self) -> None:
        """Nothing is held between windows."""

    async def _go(self, turn: _Turn) -> None:
        turn.tick()
        workers = [asyncio.create_task(self._worker(turn)) for _ in range(self._loop.largest)]
        try:
            await asyncio.gather(*workers)
        except FailedError as error:
            turn.failed = error
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        turn.tick()

    async def _worker(self, turn: _Turn) -> None:
        # The other workers have a request in flight each: if this one stops, n requests will have been sent in all.
        while turn.progress.seconds(len(turn.answers) + self._loop.largest - 1) < turn.seconds:
            answer = await self._arm.client.complete(self._sending.prompts.next(), self._body, turn.begun)
            turn.answers.append(answer)
            turn.progress.ended(answer.served.last_ns)
            turn.tick()

    def _doubts(self, turn: _Turn, busy: float) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Reason codes of a window, and what to say about them."""
        short = sum(one.served.output_tokens < self._workload.output_tokens for one in turn.answers)
        cached = sum(one.cached_tokens for one in turn.answers)
        found = {
            "client_bound": busy > BUSY and f"the client used {busy:.2f} of a core",
            "prefix_cache_on": cached > 0 and f"the server had {cached} prompt tokens in its cache",
            "length_not_kept": short > 0 and f"{short} of {len(turn.answers)} answers had fewer than "
                                             f"{self._workload.output_tokens} tokens",
            "token_count_retokenised": any(one.counted_by == "text" for one in turn.answers)
                                       and "the server does not say how many tokens its answers had",
        }  # fmt: skip
        return tuple(code for code, said in found.items() if said), tuple(said for said in found.values() if said)


def _limits(slo: dict[str, float] | None) -> Limits | None:
    if slo is None:
        return None
    known = ("ttft_s", "tpot_s", "e2el_s")
    for name in slo:
        if name not in known:
            raise UsageError(f"Unknown service level '{name}'.{did_you_mean(name, known)}")
    return Limits(**slo)
