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

import gc
import itertools
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from evalsuite.engines.models import locate
from evalsuite.errors import CannotRunError, UsageError, did_you_mean
from evalsuite.measure.latencies import Loop, Progress, Served, work_of
from evalsuite.measure.loads import DoesNotFitError, Load, Opened, Work
from evalsuite.measure.prompts import Corpus
from evalsuite.precision.checkpoints import is_quantized
from evalsuite.precision.recipes import is_as_shipped
from evalsuite.precision.shards import Shards
from evalsuite.records import Arm, Memory, ModelRef, Realised, Recipe, Workload

OPTIONS = ("max_num_seqs", "enforce_eager", "kv_cache_gib", "threads_bind", "llm")
"""What a suite may set: the batch that arms are first loaded for (1); no compilation and no graphs (default on a
processor only); GiB of KV cache, the same for every arm (1 on a processor, else vLLM's choice); cores on a processor
(`auto`, `nobind`, or a list like `0-7`); and further arguments of `LLM`."""
OWN = ("model", "dtype", "max_num_seqs", "enable_prefix_caching", "enforce_eager", "tensor_parallel_size", "seed")
"""Arguments of `LLM` that are not for the suite to set."""
BIND, SPACE = "VLLM_CPU_OMP_THREADS_BIND", "VLLM_CPU_KVCACHE_SPACE"
"""How vLLM is told on a processor which cores to use, and how many GiB of KV cache to take."""
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
HALF = ("BF16", "F16", "F32")
"""Types of tensors that are loaded in the arm's type; of all others an element is a byte."""


class VllmRig:
    """Arms of one bench in vLLM."""

    def __init__(self, model: ModelRef, options: dict[str, Any]) -> None:
        """UsageError: an option that does not exist. CannotRunError: vLLM is not installed here."""
        for name in options:
            if name not in OPTIONS:
                raise UsageError(f"Unknown option '{name}' of engine vllm.{did_you_mean(name, OPTIONS)}")
        taken = [name for name in options.get("llm", {}) if name in OWN]
        if taken:
            raise UsageError(f"`llm: {{{taken[0]}: ...}}` is set by the bench itself. Leave it out.")
        os.environ[BIND] = str(options.get("threads_bind", "auto"))
        os.environ[SPACE] = str(options.get("kv_cache_gib", 1))
        os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # results are printed on stdout
        try:
            import vllm  # noqa: F401 - only whether it is there
        except ImportError as error:
            raise CannotRunError(f"vLLM is not installed in this environment ({error}). Install evalsuite into vLLM's "
                                 "own virtual environment and run the bench there.") from None  # fmt: skip
        self.model = model
        self.facts: dict[str, dict[str, Any]] = {}
        """Arm -> what vLLM runs it with, read from its configuration."""
        self._options = options
        self._arms: dict[str, _Live] = {}
        self._corpus = Corpus()

    def open(self, arm: Arm) -> Opened:
        """Load an arm beside the others; an arm that runs what another one runs (the null arm) shares its `LLM`.

        Raises:
            CannotRunError: vLLM does not run this format here, or runs something else.
        """
        asked = self._asked(arm)
        same = next((live for live in self._arms.values() if live.asked == asked), None)
        if same is None:
            same = _Live(asked, self._options)
            same.load(int(self._options.get("max_num_seqs", 1)), 1)
        self._arms[arm.id] = same
        self.facts[arm.id] = same.facts
        quantised = arm.recipe.weights is not None or same.facts["quantization"] is not None
        return Opened(
            execution="declared" if quantised else "native",
            realised=same.realised(arm.recipe),
            memory=same.memory(),
            startup_s=same.startup_s,
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

    def _asked(self, arm: Arm) -> "_Asked":
        recipe, folder = arm.recipe, locate(arm.model)
        if recipe.kv_cache is not None:
            raise CannotRunError(f"Arm '{arm.id}': KV caches in '{recipe.id}' are not driven through vLLM yet. "
                                 "Use the engine local.")  # fmt: skip
        if is_as_shipped(recipe):
            return _Asked(folder, "bfloat16")
        if recipe.weights is not None or recipe.activations is not None:
            raise CannotRunError(f"Arm '{arm.id}': vLLM has no recipe '{recipe.id}'. Write its checkpoint with "
                                 "`evalsuite quantize` and name that folder as an arm, recipe as-shipped.")  # fmt: skip
        if is_quantized(folder):
            raise CannotRunError(f"Arm '{arm.id}': {folder} is quantised. Use the recipe as-shipped.")
        return _Asked(folder, "float32" if recipe.compute == "fp32" else "bfloat16")


@dataclass(frozen=True)
class _Asked:
    """Which weights, computed in which type."""

    folder: Path
    dtype: str


@dataclass
class _Live:
    """An arm and its `LLM`."""

    asked: _Asked
    options: dict[str, Any]
    llm: Any = None
    facts: dict[str, Any] = field(default_factory=dict)
    startup_s: float = 0.0
    ids: Iterator[int] = field(default_factory=itertools.count)
    shape: tuple[int, int] | None = None

    def load(self, batch: int, devices: int) -> None:
        """Have an `LLM` of this batch on so many devices."""
        if self.shape == (batch, devices):
            return
        self.close()
        from vllm import LLM
        from vllm.platforms import current_platform

        cpu = current_platform.is_cpu()
        further = dict(self.options.get("llm", {}))
        if not cpu and "kv_cache_gib" in self.options:
            further["kv_cache_memory_bytes"] = int(self.options["kv_cache_gib"] * 2**30)
        start = time.perf_counter()
        try:
            self.llm = LLM(
                model=str(self.asked.folder),
                dtype=self.asked.dtype,
                max_num_seqs=batch,
                enable_prefix_caching=False,
                enforce_eager=bool(self.options.get("enforce_eager", cpu)),
                tensor_parallel_size=devices,
                seed=0,
                **further,
            )
        except (RuntimeError, ValueError, NotImplementedError) as error:
            raise self._refused(error, batch) from None
        self.startup_s, self.shape = time.perf_counter() - start, (batch, devices)
        self.facts = self._look()

    def close(self) -> None:
        """End the `LLM`'s processes."""
        if self.llm is not None:
            self.llm.llm_engine.engine_core.shutdown()
            self.llm, self.shape = None, None
            gc.collect()

    def check(self, workload: Workload) -> None:
        """Whether requests fit; see `VllmRig.load`."""
        length = workload.input_tokens + workload.output_tokens
        if length > self.facts["max_model_len"]:
            most = self.facts["max_model_len"]
            raise CannotRunError(f"'{workload.key}' needs {length} tokens; the model's context is {most}.")
        blocks, block = self.facts["kv_blocks"], self.facts["kv_block_tokens"]
        if blocks is not None and math.ceil(length / block) * workload.batch > blocks:
            raise DoesNotFitError(f"'{workload.key}' needs {workload.batch} x {math.ceil(length / block)} blocks of KV "
                                  f"cache, there are {blocks}")  # fmt: skip

    def realised(self, recipe: Recipe) -> Realised | None:
        """What runs, in the suite's words; what only vLLM has stands in `facts`. None for quantised weights, of which
        vLLM does not say which run how."""
        if self.facts["quantization"] is not None:
            return None
        return Realised(
            recipe=recipe.id, execution="native", kernel=f"vllm {self.facts['vllm']}, {self.facts['dtype']}",
            gemm_mode="none", logits_dtype="float32", device=self.facts["device"], threads=self.facts["threads"],
            modules=(), params_quantised=0.0, macs_quantised=0.0,
        )  # fmt: skip

    def memory(self) -> Memory:
        """Bytes of the weights as loaded, and of the KV cache by token."""
        width = BYTES[self.asked.dtype]
        tensors = Shards(self.asked.folder).entries.values()
        held = sum(math.prod(one.shape) * (width if one.dtype in HALF else 1) for one in tensors)
        return Memory(weights_bytes=held, resident_bytes=None, kv_bytes_per_token=self.facts["kv_bytes_per_token"])

    def _look(self) -> dict[str, Any]:
        """Read back what runs; CannotRunError if it is not what was asked for."""
        import vllm
        from vllm.platforms import current_platform

        config = self.llm.llm_engine.vllm_config
        model, cache, scheduler = config.model_config, config.cache_config, config.scheduler_config
        dtype = str(model.dtype).removeprefix("torch.")
        layers = model.get_num_layers(config.parallel_config)
        row = 2 * layers * model.get_num_kv_heads(config.parallel_config) * model.get_head_size()
        auto = cache.cache_dtype == "auto"
        found = {
            "vllm": vllm.__version__,
            "device": current_platform.device_type,
            "dtype": dtype,
            "quantization": model.quantization,
            "enforce_eager": model.enforce_eager,
            "prefix_caching": cache.enable_prefix_caching,
            "chunked_prefill": scheduler.enable_chunked_prefill,
            "max_num_seqs": scheduler.max_num_seqs,
            "max_num_batched_tokens": scheduler.max_num_batched_tokens,
            "max_model_len": model.max_model_len,
            "kv_dtype": dtype if auto else str(cache.cache_dtype),
            "kv_blocks": cache.num_gpu_blocks,
            "kv_block_tokens": cache.block_size,
            "kv_bytes_per_token": None if model.use_mla or not auto else row * BYTES[dtype],
            "speculative": config.speculative_config is not None,
            "tensor_parallel": config.parallel_config.tensor_parallel_size,
            "executor": str(config.parallel_config.distributed_executor_backend),
            "threads": _threads(config),
            BIND: os.environ[BIND],
            SPACE: os.environ[SPACE],
        }
        wanted = {"dtype": self.asked.dtype, "prefix_caching": False, "speculative": False}
        for name, value in wanted.items():
            if found[name] != value:
                raise CannotRunError(f"{self.asked.folder}: asked vLLM for {name} {value}, it runs {found[name]}.")
        return found

    def _refused(self, error: Exception, batch: int) -> Exception:
        why = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if "out of memory" in str(error).lower():
            return DoesNotFitError(f"batch {batch}: {why}")
        return CannotRunError(f"vLLM cannot load {self.asked.folder} in {self.asked.dtype}: {why}")


def _threads(config: Any) -> int:
    """Threads of a worker, as vLLM's own manager of them deals them out."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        from vllm.utils.ompmultiprocessing import OMPProcessManager

        cores = OMPProcessManager(config).cpu_lists
        if cores:
            return len(cores[0])
    return len(os.sched_getaffinity(0))


class VllmLoad:
    """A queue that never runs dry, in front of a batch."""

    def __init__(self, live: _Live, workload: Workload, corpus: Corpus) -> None:
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
        return str(next(self._live.ids))

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
