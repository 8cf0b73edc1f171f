"""An arm in vLLM that is timed: its `LLM` at a batch, and what fits into it. `vllm_offline` drives it."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalsuite.engines.vllm_llm import BYTES, Running, TooLargeError, start
from evalsuite.errors import CannotRunError
from evalsuite.measure.loads import DoesNotFitError
from evalsuite.precision.shards import Shards
from evalsuite.records import Memory, Realised, Recipe, Workload

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
    running: Running | None = None
    shape: tuple[int, int] | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """What the `LLM` runs with."""
        assert self.running is not None
        return self.running.facts

    @property
    def llm(self) -> Any:
        """The `LLM`."""
        assert self.running is not None
        return self.running.llm

    def load(self, batch: int, devices: int) -> None:
        """Have an `LLM` of this batch on so many devices."""
        if self.shape == (batch, devices):
            return
        self.close()
        asked = {"dtype": self.asked.dtype, "max_num_seqs": batch, "enable_prefix_caching": False,
                 "tensor_parallel_size": devices}  # fmt: skip
        expected = {"dtype": self.asked.dtype, "prefix_caching": False, "speculative": False}
        try:
            self.running = start(self.asked.folder, self.options, asked, expected)
        except TooLargeError as error:
            raise DoesNotFitError(f"batch {batch}: {error}") from None
        self.shape = (batch, devices)

    def close(self) -> None:
        """End the `LLM`'s processes; what it ran with stays known."""
        if self.running is not None:
            self.running.close()
            self.shape = None

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
