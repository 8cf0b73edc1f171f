"""vLLM, in its own environment: accuracy measured by the engine that serves.

`vllm_switches` says how a recipe becomes vLLM's switches, `vllm_llm` starts an `LLM` and reads back what runs,
`vllm_session` asks it. An `LLM` outlives the context of its arm, since the noise floor runs what the baseline runs; it
ends when another arm is loaded, or with the process. On a processor an arm's two `LLM`s (texts, scores) stand side by
side; on an accelerator one takes the place of the other.

vLLM makes its batches itself, as requests come and go, so BF16 bits differ from run to run and a resumed run has the
same items but not the same bits. Where its kernels do not depend on the batch (`VLLM_BATCH_INVARIANT`: NVIDIA GPUs from
Hopper on) they are used; `Realised.batch_invariant` says it.
"""

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evalsuite.engines import vllm_llm
from evalsuite.engines.folders import FolderEngine
from evalsuite.engines.shipped import skeleton, targets
from evalsuite.engines.vllm_llm import Running
from evalsuite.engines.vllm_session import Purpose, VllmSession
from evalsuite.engines.vllm_switches import KV8, Switches, refusal, switches
from evalsuite.errors import CannotRunError
from evalsuite.precision.coverage import gemms, shares
from evalsuite.precision.recipes import is_as_shipped
from evalsuite.records import Arm, ModelRef, Realised

OWN = ("model", "dtype", "quantization", "kv_cache_dtype", "max_num_seqs", "enable_prefix_caching", "enforce_eager",
       "hf_overrides", "max_logprobs", "logprobs_mode", "generation_config", "seed")  # fmt: skip
"""Arguments of `LLM` that are not for the suite to set."""
ROWS = 256
"""Rows of a batch, at most."""
MARGIN = 2
"""Tokens of the context that vLLM needs for itself: a scored text may exceed lm-eval's length by one, and vLLM wants
to write one more."""


@dataclass(frozen=True)
class Asked:
    """What is loaded."""

    folder: Path
    switches: Switches
    quantised: bool
    """A checkpoint whose configuration says how."""


class VllmEngine(FolderEngine):
    """Engine over `vllm.LLM`. Options: `vllm_llm.OPTIONS` and `group_tokens`."""

    def __init__(self, model: ModelRef, options: dict[str, Any]) -> None:
        vllm_llm.prepare(options, OWN, (*vllm_llm.OPTIONS, "group_tokens"))
        from vllm.platforms import current_platform

        super().__init__(model)
        self._options = options
        self._device = str(current_platform.device_type)
        self._invariant = current_platform.is_cuda() and bool(current_platform.has_device_capability(90))
        longest = options.get("llm", {}).get("max_model_len", self.max_length)
        self.max_length = min(self.max_length, int(longest)) - MARGIN
        self._asked: Asked | None = None
        self._running: dict[str, Running] = {}
        atexit.register(self.close)

    def cannot_run(self, arm: Arm, *, scores: bool = False) -> str | None:
        """What every engine over folders refuses, and recipes that vLLM has no switches for."""
        why = super().cannot_run(arm, scores=scores)
        return why or refusal(arm.recipe, self._device)

    @contextmanager
    def open(self, arm: Arm) -> "Iterator[VllmSession]":
        """Load the arm, unless it is what runs already; it stays loaded."""
        asked = self._what(arm)
        if asked != self._asked:
            self.close()
            self._asked = asked
        realised = self._realised(arm, asked, self._llm("texts"))
        yield VllmSession(realised, self.tokenizer, self.eos, self._llm)

    def close(self) -> None:
        """End vLLM's processes."""
        for running in self._running.values():
            running.close()
        self._running = {}

    def _what(self, arm: Arm) -> Asked:
        found = switches(arm.recipe)
        if found is None:
            raise CannotRunError(f"Arm '{arm.id}': {refusal(arm.recipe, self._device)}.")
        shipped = is_as_shipped(arm.recipe) and arm.recipe.weights is not None
        return Asked(self.folder_of(arm), replace(found, batch_invariant=self._invariant), shipped)

    def _llm(self, purpose: Purpose) -> Running:
        """The `LLM` of the arm for a purpose."""
        asked = self._asked
        assert asked is not None
        head = "float32" if purpose == "scores" else asked.switches.dtype
        here = self._running.get(head)
        if here is None or here.llm is None:
            if self._device != "cpu":
                self.close()
            self._running[head] = here = self._start(asked, head)
        return here

    def _start(self, asked: Asked, head: str) -> Running:
        own = asked.switches
        os.environ.update(own.variables)
        arguments = {
            **own.arguments, "max_num_seqs": int(self._options.get("max_num_seqs", ROWS)),
            "enable_prefix_caching": True, "hf_overrides": {"head_dtype": head}, "max_logprobs": -1,
            "logprobs_mode": "raw_logprobs", "generation_config": "vllm",
        }  # fmt: skip
        expected: dict[str, Any] = {
            "dtype": own.dtype, "head_dtype": head, "prefix_caching": True, "speculative": False,
            "batch_invariant": own.batch_invariant,
        }  # fmt: skip
        if not asked.quantised:
            expected["quantization"] = own.quantization
            expected["kv_dtype"] = own.kv_cache if own.kv_cache == KV8 else own.dtype
        running = vllm_llm.start(asked.folder, self._options, arguments, expected)
        powers = any(vllm_llm.E8M0_ON in line for line in running.chose)
        if powers != own.e8m0 and (powers or asked.switches.quantization is not None):
            running.close()
            raise CannotRunError(f"{asked.folder}: asked vLLM for UE8M0 scales in DeepGEMM: {own.e8m0}; it says: "
                                 f"{powers}. FP32 and UE8M0 arms would be the same.")  # fmt: skip
        if asked.quantised and running.facts["quantization"] is None:
            running.close()
            raise CannotRunError(f"{asked.folder} is quantised, and vLLM loaded it as if it were not.")
        return running

    def _realised(self, arm: Arm, asked: Asked, running: Running) -> Realised:
        facts, own = running.facts, asked.switches
        names: tuple[str, ...] = ()
        params = macs = 0.0
        if arm.recipe.weights is not None:
            quantised = set(targets(self.checkpoint(asked.folder)).values()) if asked.quantised else None
            model = skeleton(asked.folder)
            found = gemms(model, arm.recipe, quantised)
            names = tuple(gemm.name for gemm in found if gemm.quantised)
            params, macs = shares(model, found, arm.recipe)
        plain = arm.recipe.weights is None and arm.recipe.kv_cache is None
        return Realised(
            recipe=arm.recipe.id, execution="native" if plain else "native-unproven",
            kernel=", ".join([f"vllm {facts['vllm']}", facts["dtype"], *running.chose]), gemm_mode="none",
            logits_dtype="float32", device=facts["device"], threads=facts["threads"], modules=names,
            params_quantised=params, macs_quantised=macs, batch_invariant=facts["batch_invariant"],
            switches=own.written,
        )  # fmt: skip
