"""An arm in vLLM: its `LLM`, what of it really runs, and what fits into it. `vllm_offline` drives it."""

import gc
import itertools
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalsuite.errors import CannotRunError
from evalsuite.measure.listening import Listening
from evalsuite.measure.loads import DoesNotFitError
from evalsuite.precision.shards import Shards
from evalsuite.records import Memory, Realised, Recipe, Workload

BIND, SPACE = "VLLM_CPU_OMP_THREADS_BIND", "VLLM_CPU_KVCACHE_SPACE"
"""How vLLM is told on a processor which cores to use, and how many GiB of KV cache to take."""
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
HALF = ("BF16", "F16", "F32")
"""Types of tensors that are loaded in the arm's type; of all others an element is a byte."""


@dataclass(frozen=True)
class Asked:
    """Which weights, computed in which type."""

    folder: Path
    dtype: str


@dataclass
class Live:
    """An arm and its `LLM`."""

    asked: Asked
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
        heard = Listening()
        try:
            with heard:
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
            raise self._refused(error, batch, heard) from None
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
            "threads": threads_of(config),
            BIND: os.environ[BIND],
            SPACE: os.environ[SPACE],
        }
        wanted = {"dtype": self.asked.dtype, "prefix_caching": False, "speculative": False}
        for name, value in wanted.items():
            if found[name] != value:
                raise CannotRunError(f"{self.asked.folder}: asked vLLM for {name} {value}, it runs {found[name]}.")
        return found

    def _refused(self, error: Exception, batch: int, heard: Listening) -> Exception:
        """What to say of an `LLM` that did not start. Its own error is the last of a chain; what began the chain was
        said by the process that failed."""
        said = [line for line in heard.errors() if "Engine core initialization failed" not in line]
        why = (said or [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__])[0]
        if any("out of memory" in line.lower() for line in [str(error), *said]):
            return DoesNotFitError(f"batch {batch}: {why}")
        return CannotRunError(f"vLLM cannot load {self.asked.folder} in {self.asked.dtype}: {why}")


def threads_of(config: Any) -> int:
    """Threads of a worker, as vLLM's own manager of them deals them out."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        from vllm.utils.ompmultiprocessing import OMPProcessManager

        cores = OMPProcessManager(config).cpu_lists
        if cores:
            return len(cores[0])
    return len(os.sched_getaffinity(0))
