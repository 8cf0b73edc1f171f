"""An `LLM` of vLLM: started with what was asked for, read back, held against it, and ended.

Accuracy (`engines.vllm`) and speed (`measure.vllm_live`) stand on this page. vLLM runs in processes of its own, which
inherit the environment: a switch that is a variable must be set before they start. What runs is read from the engine's
configuration, and from the lines in which vLLM says which kernels it chose; they stand nowhere else.
"""

import gc
import itertools
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalsuite.engines.listening import Listening
from evalsuite.errors import CannotRunError, UsageError, did_you_mean

BIND, SPACE = "VLLM_CPU_OMP_THREADS_BIND", "VLLM_CPU_KVCACHE_SPACE"
"""How vLLM is told on a processor which cores to use, and how many GiB of KV cache to take."""
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
OPTIONS = ("max_num_seqs", "enforce_eager", "kv_cache_gib", "threads_bind", "llm")
"""What a suite may set: rows of a batch; no compilation and no graphs (default on a processor only); GiB of KV cache
(1 on a processor, else vLLM's choice); cores on a processor (`auto`, `nobind`, or a list like `0-7`); and further
arguments of `LLM`."""
CHOSE = re.compile(r"((?:Selected \S+ for \S+|Using \S+ backend|DeepGEMM E8M0 \w+).*?)\.?$")
"""Lines in which vLLM says what it runs."""
E8M0_ON = "DeepGEMM E8M0 enabled"


class TooLargeError(CannotRunError):
    """There is not enough memory for an `LLM`."""


@dataclass
class Running:
    """An `LLM` that was started."""

    llm: Any
    facts: dict[str, Any]
    """What it runs with, read back."""
    startup_s: float
    chose: tuple[str, ...] = ()
    """What vLLM said it chose."""
    ids: Iterator[int] = field(default_factory=itertools.count)

    @property
    def engine(self) -> Any:
        """vLLM's engine, which takes requests one by one and gives tokens step by step."""
        return self.llm.llm_engine

    def parameters(self, *, streamed: bool, **chosen: Any) -> Any:
        """`SamplingParams`. `streamed`: each output holds the tokens since the last one; else there is one, at the
        end."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        kind = RequestOutputKind.DELTA if streamed else RequestOutputKind.FINAL_ONLY
        return SamplingParams(output_kind=kind, detokenize=False, **chosen)

    def add(self, tokens: list[int], parameters: Any) -> str:
        """Hand over a request; its name, which no request of this engine had."""
        name = str(next(self.ids))
        # vLLM may lengthen the name it is given; it answers under the one given.
        self.engine.add_request(name, {"prompt_token_ids": tokens}, parameters)
        return name

    def step(self) -> list[Any]:
        """Wait for the next outputs; CannotRunError if vLLM's processes have ended."""
        try:
            outputs: list[Any] = self.engine.step()
        except Exception as error:
            if type(error).__name__ != "EngineDeadError":  # vLLM's own; its base class differs between versions
                raise
            self.close()
            raise CannotRunError("vLLM's processes have ended; its own words stand above. Go on with "
                                 "`evalsuite run --resume last`.") from None  # fmt: skip
        return outputs

    def close(self) -> None:
        """End vLLM's processes."""
        if self.llm is not None:
            self.llm.llm_engine.engine_core.shutdown()
            self.llm = None
            gc.collect()


def prepare(options: Mapping[str, Any], own: tuple[str, ...], known: tuple[str, ...] = OPTIONS) -> None:
    """Check a suite's options, and tell vLLM through the environment what it wants to be told there.

    Raises:
        UsageError: an option that does not exist, or an argument of `LLM` that evalsuite sets itself (`own`).
        CannotRunError: vLLM is not installed here.
    """
    for name in options:
        if name not in known:
            raise UsageError(f"Unknown option '{name}' of engine vllm.{did_you_mean(name, known)}")
    taken = [name for name in options.get("llm", {}) if name in own]
    if taken:
        raise UsageError(f"`llm: {{{taken[0]}: ...}}` is set by evalsuite itself. Leave it out.")
    os.environ[BIND] = str(options.get("threads_bind", "auto"))
    os.environ[SPACE] = str(options.get("kv_cache_gib", 1))
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # results are printed on stdout
    try:
        import vllm  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise CannotRunError(f"vLLM is not installed in this environment ({error}). Install evalsuite into vLLM's "
                             "own virtual environment and run it there.") from None  # fmt: skip


def start(
    folder: Path, options: Mapping[str, Any], arguments: Mapping[str, Any], expected: Mapping[str, Any]
) -> Running:
    """An `LLM` over a model's folder. `arguments`: of `LLM`, beside those in the suite's options. `expected`: facts
    that must hold.

    Raises:
        TooLargeError: it does not fit in memory.
        CannotRunError: vLLM does not run this here, or runs something else.
    """
    from vllm import LLM
    from vllm.platforms import current_platform

    cpu = current_platform.is_cpu()
    further = dict(options.get("llm", {}))
    if not cpu and "kv_cache_gib" in options:
        further["kv_cache_memory_bytes"] = int(options["kv_cache_gib"] * 2**30)
    began = time.perf_counter()
    heard = Listening()
    try:
        with heard:
            llm = LLM(
                model=str(folder), enforce_eager=bool(options.get("enforce_eager", cpu)), seed=0, **arguments, **further
            )
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise _refused(error, f"{folder} in {arguments['dtype']}", heard) from None
    made = Running(llm, look(llm), time.perf_counter() - began, tuple(heard.lines(CHOSE)))
    for name, value in expected.items():
        if made.facts[name] != value:
            made.close()
            raise CannotRunError(f"{folder}: asked vLLM for {name} {value}, it runs {made.facts[name]}.")
    return made


def look(llm: Any) -> dict[str, Any]:
    """Read back what runs."""
    import vllm
    from vllm import envs
    from vllm.platforms import current_platform

    config = llm.llm_engine.vllm_config
    model, cache, scheduler = config.model_config, config.cache_config, config.scheduler_config
    dtype = str(model.dtype).removeprefix("torch.")
    layers = model.get_num_layers(config.parallel_config)
    row = 2 * layers * model.get_num_kv_heads(config.parallel_config) * model.get_head_size()
    auto = cache.cache_dtype == "auto"
    return {
        "vllm": vllm.__version__,
        "device": current_platform.device_type,
        "dtype": dtype,
        "head_dtype": str(model.head_dtype).removeprefix("torch."),
        "quantization": model.quantization,
        "enforce_eager": model.enforce_eager,
        "prefix_caching": cache.enable_prefix_caching,
        "chunked_prefill": scheduler.enable_chunked_prefill,
        "max_num_seqs": scheduler.max_num_seqs,
        "max_num_batched_tokens": scheduler.max_num_batched_tokens,
        "max_model_len": model.max_model_len,
        "vocabulary": model.get_vocab_size(),
        "kv_dtype": dtype if auto else str(cache.cache_dtype),
        "kv_blocks": cache.num_gpu_blocks,
        "kv_block_tokens": cache.block_size,
        "kv_bytes_per_token": None if model.use_mla or not auto else row * BYTES[dtype],
        "speculative": config.speculative_config is not None,
        "tensor_parallel": config.parallel_config.tensor_parallel_size,
        "executor": str(config.parallel_config.distributed_executor_backend),
        "threads": threads_of(config),
        "batch_invariant": bool(envs.VLLM_BATCH_INVARIANT),
        BIND: os.environ[BIND],
        SPACE: os.environ[SPACE],
    }


def threads_of(config: Any) -> int:
    """Threads of a worker, as vLLM's own manager of them deals them out."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        from vllm.utils.ompmultiprocessing import OMPProcessManager

        cores = OMPProcessManager(config).cpu_lists
        if cores:
            return len(cores[0])
    return len(os.sched_getaffinity(0))


def _refused(error: Exception, what: str, heard: Listening) -> CannotRunError:
    """What to say of an `LLM` that did not start. Its own error is the last of a chain; what began the chain was said
    by the process that failed."""
    said = [line for line in heard.errors() if "Engine core initialization failed" not in line]
    why = (said or [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__])[0]
    short = any("out of memory" in line.lower() for line in [str(error), *said])
    return (TooLargeError if short else CannotRunError)(f"vLLM cannot load {what}: {why}")
