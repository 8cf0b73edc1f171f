"""The embedded engine: transformers in this process.

Weights are loaded once, in BF16 (the master); every arm of one model is a `precision.apply` context over it. An arm may
name another model, which must read the very same prompts; one model is in memory at a time. A quantised checkpoint is
loaded by `shipped`. What an arm then does is in `session`.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from evalsuite.calibration import read_again
from evalsuite.engines.attention import use_fp32_attention
from evalsuite.engines.folders import FolderEngine
from evalsuite.engines.models import load_master
from evalsuite.engines.own import OwnForward, agrees
from evalsuite.engines.session import Forward, LocalSession
from evalsuite.engines.shipped import load_shipped
from evalsuite.engines.stock import StockForward
from evalsuite.precision import apply
from evalsuite.precision.calibrate import Texts, calibrate
from evalsuite.precision.emulate import Applied, best_kernel
from evalsuite.precision.recipes import is_as_shipped, needs_calibration
from evalsuite.precision.shipped import Shipped
from evalsuite.records import Arm, Calibration, ModelRef, Recipe


class LocalEngine(FolderEngine):
    """Engine over `AutoModelForCausalLM`.

    Options: `threads`, `gemm_mode` (`fast` or `exact`), `execution` (`auto`, the default, `native` or `emulated`; see
    `precision.apply`), `count` (of activations: `blocks`, or `elements`: slower; native arms count nothing), `forward`
    (`auto`: our own where it gives the model's numbers; `transformers`).
    """

    def __init__(self, model: ModelRef, options: dict[str, Any]) -> None:
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        super().__init__(model)
        self._options = options
        if options.get("threads"):
            torch.set_num_threads(int(options["threads"]))
        self._calibrations: dict[tuple[Any, ...], Calibration] = {}
        self._owns = False
        self._kept: tuple[tuple[Path, bool], Any, Shipped | None] | None = None
        self.device = torch.accelerator.current_accelerator() or torch.device("cpu")

    @contextmanager
    def open(self, arm: Arm) -> "Iterator[LocalSession]":
        """Load the arm over its model's weights; they are restored exactly when the context ends."""
        mode = self._options.get("gemm_mode", "fast")
        execution = self._options.get("execution", "auto")
        model, what = self._loaded(arm)
        # Not inference_mode: its tensors have no version, which the shared quantisation of q/k/v and gate/up asks for.
        with apply(model, what, execution, mode) as applied, torch.no_grad():
            applied.count(self._options.get("count", "blocks"))
            session = LocalSession(self, self._forward(model, applied), applied)
            applied.activity()  # the probe of the output head is not the run's
            try:
                yield session
            finally:
                session.close()
        del applied
        gc.collect()  # the arm's forwards refer to each other: without this its operands stay beside the next arm's

    def _forward(self, model: Any, applied: Applied) -> Forward:
        """Our own forward pass where it was proven on this model, which is so for all of its arms or for none."""
        if self._owns:
            return OwnForward(model, applied.realised.modules, applied.kv, applied.activity)
        return StockForward(model, applied.realised.modules, self.tokenizer.pad_token_id or 0)

    def _loaded(self, arm: Arm) -> tuple[Any, Recipe | Shipped]:
        """The arm's model in memory, and what `apply` is to run on it. One model is kept: the last one asked for."""
        folder, shipped = self.folder_of(arm), is_as_shipped(arm.recipe)
        if self._kept is None or self._kept[0] != (folder, shipped):
            self._kept = None
            if shipped:
                exact = self._options.get("gemm_mode") == "exact"
                model, what = load_shipped(self.checkpoint(folder), exact=exact)
            else:
                model, what = load_master(folder), None
            slow = self.device.type == "cpu" and best_kernel(self.device) != "linear-bf16"
            if slow and model.config._attn_implementation == "sdpa":
                use_fp32_attention(model)
            self._kept = (folder, shipped), model.to(self.device).eval().requires_grad_(False), what
            self._owns = self._options.get("forward") != "transformers" and agrees(model)
        _, model, own = self._kept
        return model, own or self._calibrated(arm, model)

    def _calibrated(self, arm: Arm, model: Any) -> Recipe:
        """The arm's recipe, complete: static scales get their calibration, measured on the texts that the arm names."""
        texts = arm.calibration
        if texts is None or not needs_calibration(arm.recipe):
            return arm.recipe
        key = self.folder_of(arm), texts.texts_sha256, arm.recipe.exclude
        if key not in self._calibrations:
            tokens = [self.tokenizer.encode(line)[: self.max_length] for line in read_again(texts)]
            given = Texts(Path(texts.file).name, texts.texts_sha256, tokens)
            self._calibrations[key] = calibrate(model, arm.recipe, given)
        return arm.recipe.model_copy(update={"calibration": self._calibrations[key]})
