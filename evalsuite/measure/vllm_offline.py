"""Arms in vLLM, offline: one `vllm.LLM` an arm, side by side in this process, all requests queued.

This runs in the virtual environment of vLLM, with evalsuite installed into it. vLLM starts processes of its own for
each `LLM`; one that has nothing to do sleeps, so arms can take turns. `max_num_seqs` is the workload's batch: another
batch is another `LLM`, which takes the place of the arm's last one.

A load keeps the queue filled and reads tokens as vLLM's steps give them (`RequestOutput.outputs[0].token_ids`). Once
the steady state is long enough it stops filling, and runs dry. What really runs is read back from the engine's
configuration: an arm is refused if that is not what was asked for.

FP8 arms: checkpoints as shipped, where vLLM has an FP8 kernel for the machine. Recipes that only evalsuite has are not
run here; write their checkpoint with `quantize`. On what the kernels of a device do nobody looked: `kernel_unproven`.
"""

import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from evalsuite.engines.models import locate
from evalsuite.engines.vllm_llm import prepare
from evalsuite.errors import CannotRunError
from evalsuite.measure.latencies import Loop, Progress, Served, work_of
from evalsuite.measure.loads import Load, Opened, Work
from evalsuite.measure.prompts import Corpus
from evalsuite.measure.vllm_live import Asked, Live
from evalsuite.precision.checkpoints import is_quantized
from evalsuite.precision.recipes import is_as_shipped
from evalsuite.records import Arm, ModelRef, Workload

OWN = ("model", "dtype", "max_num_seqs", "enable_prefix_caching", "enforce_eager", "tensor_parallel_size", "seed")
"""Arguments of `LLM` that are not for the suite to set."""


class VllmRig:
    """Arms of one bench in vLLM."""

    def __init__(self, model: ModelRef, options: dict[str, Any]) -> None:
        """UsageError: an option that does not exist. CannotRunError: vLLM is not installed here."""
        prepare(options, OWN)
        self.model = model
        self.facts: dict[str, dict[str, Any]] = {}
        """Arm -> what vLLM runs it with, read from its configuration."""
        self._options = options
        self._arms: dict[str, Live] = {}
        self._corpus = Corpus()

    def open(self, arm: Arm) -> Opened:
        """Load an arm beside the others; an arm that runs what another one runs (the null arm) shares its `LLM`.

        Raises:
            CannotRunError: vLLM does not run this format here, or runs something else.
        """
        asked = self._asked(arm)
        same = next((live for live in self._arms.values() if live.asked == asked), None)
        if same is None:
            same = Live(asked, self._options)
            same.load(int(self._options.get("max_num_seqs", 1)), 1)
        self._arms[arm.id] = same
        self.facts[arm.id] = same.facts
        quantised = arm.recipe.weights is not None or same.facts["quantization"] is not None
        return Opened(
            execution="declared" if quantised else "native",
            realised=same.realised(arm.recipe),
            memory=same.memory(),
            startup_s=same.running.startup_s if same.running else None,
            reasons=("kernel_unproven",) if quantised else (),
        )

    def load(self, arm: Arm, workload: Workload) -> Load:
        """The queue of an arm at a batch. A batch other than the last one loads the arm anew.

        Raises:
            DoesNotFitError: the KV cache does not hold the batch.
            CannotRunError: requests are longer than the model's context, or the workload is not of whole requests.
        """
        if workload.phase != "whole":
            raise CannotRunError(f"vLLM is measured by whole requests; '{workload.key}' asks for its {workload.phase} "
                                 "alone. Use the engine local for that.")  # fmt: skip
        live = self._arms[arm.id]
        live.check(workload)  # before minutes go into loading ...
        live.load(workload.batch, workload.devices)
        self.facts[arm.id] = live.facts
        live.check(workload)  # ... and after it, since a larger batch may leave less memory for the cache
        return VllmLoad(live, workload, self._corpus)

    def llm_of(self, arm: Arm) -> Any:
        """The `LLM` of an open arm, to be driven otherwise."""
        return self._arms[arm.id].llm

    def close(self) -> None:
        """End all processes of vLLM."""
        for live in self._arms.values():
            live.close()
        self._arms = {}

    def _asked(self, arm: Arm) -> Asked:
        recipe, folder = arm.recipe, locate(arm.model)
        if recipe.kv_cache is not None:
            raise CannotRunError(f"Arm '{arm.id}': KV caches in '{recipe.id}' are not driven through vLLM yet. "
                                 "Use the engine local.")  # fmt: skip
        if is_as_shipped(recipe):
            return Asked(folder, "bfloat16")
        if recipe.weights is not None or recipe.activations is not None:
            raise CannotRunError(f"Arm '{arm.id}': vLLM has no recipe '{recipe.id}'. Write its checkpoint with "
                                 "`evalsuite quantize` and name that folder as an arm, recipe as-shipped.")  # fmt: skip
        if is_quantized(folder):
            raise CannotRunError(f"Arm '{arm.id}': {folder} is quantised. Use the recipe as-shipped.")
        return Asked(folder, "float32" if recipe.compute == "fp32" else "bfloat16")


class VllmLoad:
    """A queue that never runs dry, in front of a batch."""

    def __init__(self, live: Live, workload: Workload, corpus: Corpus) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        self._live, self._workload, self._corpus = live, workload, corpus
        self._loop = Loop(workload.batch, queued=True)
        self._params = SamplingParams(temperature=0.0, max_tokens=workload.output_tokens, ignore_eos=True,
                                      output_kind=RequestOutputKind.DELTA)  # fmt: skip
        tokenizer = live.llm.get_tokenizer()
        self._encode = lambda text: tokenizer.encode(text, add_special_tokens=False)
        self._prompts: list[list[int]] = []

    def prompt(self, number: int) -> list[int]:
        """Token ids of the request of that number in a window: the same in every window, and for every arm."""
        while len(self._prompts) <= min(number, len(self._corpus.texts) - 1):
            tokens = self._corpus.tokens(len(self._prompts), self._workload.input_tokens, self._encode)
            self._prompts.append(tokens)
        return self._prompts[number % len(self._corpus.texts)]

    def warm(self, seconds: float) -> None:
        """Run the same untimed; what is still queued after this long is taken back."""
        queue = _Queue(self)
        end = time.perf_counter() + seconds
        queue.fill(2 * self._loop.largest)
        while queue.open and time.perf_counter() < end:
            queue.step()
            queue.fill(2 * self._loop.largest)
        self.engine.abort_request(list(queue.open))

    def run(self, seconds: float) -> Work:
        """Run until the steady state has lasted this long, and on until the queue is empty. The window is the steady
        state."""
        batch = self._loop.largest
        # An answer of few tokens may end while the engine is a step ahead of us: the queue must outlast that.
        waiting = batch if self._workload.output_tokens >= 8 else 2 * batch
        queue = _Queue(self)
        queue.fill(2 * batch + 1 + waiting)
        while not queue.lasted(seconds):
            queue.step()
            queue.fill(batch + waiting)
        while queue.open:
            queue.step()
        work = work_of(queue.served, self._loop)
        short = sum(one.output_tokens < self._workload.output_tokens for one in queue.served)
        return replace(work, reasons=(*work.reasons, *(("length_not_kept",) if short else ())))

    @property
    def engine(self) -> Any:
        """vLLM's engine, which takes requests one by one and gives tokens step by step."""
        return self._live.llm.llm_engine

    @property
    def sampling(self) -> Any:
        """How answers are made."""
        return self._params

    @property
    def batch(self) -> int:
        """Rows of the batch."""
        return self._loop.largest

    def request_id(self) -> str:
        """A name that no request of this engine had."""
        assert self._live.running is not None
        return str(next(self._live.running.ids))

    def close(self) -> None:
        """Let go of the prompts."""
        self._prompts = []


class _Queue:
    """The requests of one window."""

    def __init__(self, load: VllmLoad) -> None:
        self._load = load
        self.progress = Progress(load.batch)
        self.sent = 0
        self.served: list[Served] = []
        self.open: dict[str, _Growing] = {}

    def lasted(self, seconds: float) -> bool:
        """Whether the steady state is this long: what is queued makes it a little longer."""
        start = self.progress.start_ns
        return start is not None and time.perf_counter_ns() - start >= seconds * 1e9

    def fill(self, upto: int) -> None:
        """Hand over requests until so many are unfinished."""
        while len(self.open) < upto:
            tokens = self._load.prompt(self.sent)
            name = self._load.request_id()
            # vLLM may lengthen the name it is given; it answers under the one given.
            self._load.engine.add_request(name, {"prompt_token_ids": tokens}, self._load.sampling)
            self.open[name] = _Growing(time.perf_counter_ns(), len(tokens))
            self.sent += 1

    def step(self) -> None:
        """Wait for the next tokens and note when they came."""
        outputs = self._load.engine.step()
        now = time.perf_counter_ns()
        for output in outputs:
            one = self.open[output.request_id]
            made = len(output.outputs[0].token_ids)
            if made:
                if not one.times:
                    self.progress.begun(now)
                one.times.append(now)
                one.tokens.append(made)
            if output.finished:
                del self.open[output.request_id]
                self.served.append(one.served())
                self.progress.ended(now)


@dataclass
class _Growing:
    """A request that is being answered."""

    sent_ns: int
    input_tokens: int
    times: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    def served(self) -> Served:
        """It has ended."""
        times, tokens = np.array(self.times, dtype=np.int64), np.array(self.tokens, dtype=np.int64)
        return Served(self.sent_ns, times, tokens, self.input_tokens, int(tokens.sum()))
