"""How a recipe is written down in a checkpoint: names of the scale tensors, and the `quantization_config` beside them.

Two layouts that loaders agree on. `deepseek` is what transformers, vLLM and SGLang read as `quant_method: fp8` with
blocks. One scale a row or a weight has no such form there (transformers and vLLM want different names), so it is
written as compressed-tensors: llm-compressor's FP8_DYNAMIC for rows, and one scale a tensor, made as it comes. A recipe
is held by structure: its weights and its activations must both be what a loader makes of the configuration, or it is
refused.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from evalsuite.errors import UsageError
from evalsuite.precision.recipes import (
    A128_FP32,
    A128_UE8M0,
    RECIPES,
    ROW_FP32,
    TENSOR_FP32,
    W128_FP32,
    W128_UE8M0,
)
from evalsuite.records import Quant, Recipe


@dataclass(frozen=True)
class Layout:
    """One way to store codes and scales."""

    name: str
    suffix: str
    """What replaces `weight` in the name of a weight's scales."""
    weights: Quant
    activations: Quant
    config: Callable[["Layout", tuple[str, ...]], dict[str, Any]]
    """(layout, names of the modules left in BF16) -> `quantization_config`."""

    def shaped(self, scales: Tensor) -> Tensor:
        """Scales in the shape that loaders expect: (row blocks, column blocks), or (1,) for one a weight."""
        return scales.reshape(1) if self.weights.block == TENSOR_FP32.block else scales

    def holds(self, recipe: Recipe) -> bool:
        """Whether a loader makes exactly this recipe of it."""
        same = (recipe.weights, recipe.activations) == (self.weights, self.activations)
        return same and recipe.kv_cache is None and recipe.compute == "bf16"


def _deepseek(layout: Layout, left: tuple[str, ...]) -> dict[str, Any]:
    config: dict[str, Any] = {
        "quant_method": "fp8", "fmt": "e4m3", "weight_block_size": list(layout.weights.block),
        "activation_scheme": "dynamic",
    }  # fmt: skip
    if layout.weights.scale == "ue8m0":
        config["scale_fmt"] = "ue8m0"
    return {**config, "modules_to_not_convert": list(left)}


def _compressed_tensors(layout: Layout, left: tuple[str, ...]) -> dict[str, Any]:
    row = layout.weights.block == ROW_FP32.block
    numbers = {"num_bits": 8, "type": "float", "symmetric": True}
    return {
        "quant_method": "compressed-tensors", "format": "float-quantized", "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {**numbers, "strategy": "channel" if row else "tensor", "dynamic": False},
                "input_activations": {**numbers, "strategy": "token" if row else "tensor", "dynamic": True},
            }
        },
        "ignore": list(left), "kv_cache_scheme": None,
    }  # fmt: skip


LAYOUTS = (
    Layout("deepseek", "weight_scale_inv", W128_FP32, A128_FP32, _deepseek),
    Layout("deepseek", "weight_scale_inv", W128_UE8M0, A128_UE8M0, _deepseek),
    Layout("compressed-tensors", "weight_scale", ROW_FP32, ROW_FP32, _compressed_tensors),
    Layout("compressed-tensors", "weight_scale", TENSOR_FP32, TENSOR_FP32, _compressed_tensors),
)


def layout_of(recipe: Recipe) -> Layout:
    """The layout that holds a recipe; UsageError, with those that can be written, if there is none."""
    for layout in LAYOUTS:
        if layout.holds(recipe):
            return layout
    can = [known.id for known in RECIPES.values() if any(layout.holds(known) for layout in LAYOUTS)]
    raise UsageError(
        f"Recipe '{recipe.id}' has no checkpoint layout that loaders agree on. Recipes that can be written: "
        f"{', '.join(can)}."
    )
