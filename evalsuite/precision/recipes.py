"""The precisions that evalsuite knows. Adding one is adding one entry to `RECIPES`.

A recipe says what its name means and nothing else: numbers of the elements, how scales are made, which elements share a
scale, for weights and for activations, and what stays in BF16 (`records.DEFAULT_EXCLUDE`: embeddings, output head,
norms, routers, towers, MTP heads). All recipes of one model start from the same BF16 master weights. Weights are
quantised once; activations as they come.

`fp8-e4m3` and `fp8-ue8m0` differ in the scale alone, so their comparison is about the scale alone. "UE8M0" without a
rounding rule does not name a precision: libraries and chips use five (see `scales.py`); ours are written out. Every
other entry changes something else on purpose and says what.

Recipes with one scale for a whole tensor of activations (`fp8-e4m3-tensor`, `nvfp4`) depend on what shares the batch,
padding included; the others do not. `fp8-e4m3-tensor-static` takes that scale from a calibration (`calibrate.py`),
which the engine adds to the recipe: the table's entry alone cannot run.
"""

from evalsuite.errors import UsageError, did_you_mean
from evalsuite.records import Quant, Recipe

FULL = -1
"""All rows, or all columns, share a scale."""

# Weights (W) share a scale in blocks of rows x columns, activations (A) of one token.
W128_FP32 = Quant(element="e4m3", scale="fp32", rounding="none", block=(128, 128))
A128_FP32 = Quant(element="e4m3", scale="fp32", rounding="none", block=(1, 128))
W128_UE8M0 = Quant(element="e4m3", scale="ue8m0", rounding="ceil", block=(128, 128))
A128_UE8M0 = Quant(element="e4m3", scale="ue8m0", rounding="ceil", block=(1, 128))
A32_UE8M0 = Quant(element="e4m3", scale="ue8m0", rounding="ceil", block=(1, 32))
ROW_FP32 = Quant(element="e4m3", scale="fp32", rounding="none", block=(1, FULL))
TENSOR_FP32 = Quant(element="e4m3", scale="fp32", rounding="none", block=(FULL, FULL))
STATIC_FP32 = Quant(element="e4m3", scale="fp32", rounding="none", block=(FULL, FULL), static=True)
W128_E5M2 = Quant(element="e5m2", scale="fp32", rounding="none", block=(128, 128))
A128_E5M2 = Quant(element="e5m2", scale="fp32", rounding="none", block=(1, 128))
ROW_INT8 = Quant(element="int8", scale="fp32", rounding="none", block=(1, FULL))
ROW_HIF8 = Quant(element="hif8", scale="fp32", rounding="none", block=(1, FULL))
# OCP MX: 32 elements along the reduction dimension share a power of two; it knows no amax floor.
MX8_CEIL = Quant(element="e4m3", scale="ue8m0", rounding="ceil", block=(1, 32), amax_floor=0.0)
MX8_FLOOR = Quant(element="e4m3", scale="ue8m0", rounding="floor", block=(1, 32), amax_floor=0.0)
MX8_EVEN = Quant(element="e4m3", scale="ue8m0", rounding="even", block=(1, 32), amax_floor=0.0)
MX4_FLOOR = Quant(element="e2m1", scale="ue8m0", rounding="floor", block=(1, 32), amax_floor=0.0)
NV4 = Quant(element="e2m1", scale="e4m3", rounding="none", block=(1, 16), amax_floor=0.0)
KV8 = Quant(element="e4m3", scale="unit", rounding="none", block=(1, FULL))

RECIPES: dict[str, Recipe] = {
    # The baseline: what the model was published in.
    "bf16": Recipe(id="bf16", label="BF16"),
    # The BF16 master's values in FP32 arithmetic throughout: what BF16 arithmetic itself costs.
    "fp32": Recipe(id="fp32", label="FP32 arithmetic on BF16 weights", compute="fp32"),
    # DeepSeek-V3: scales amax/448 in FP32.
    "fp8-e4m3": Recipe(id="fp8-e4m3", label="FP8 E4M3, FP32 scales", weights=W128_FP32, activations=A128_FP32),
    # DeepSeek-V3.1: the same with scales rounded up to a power of two.
    "fp8-ue8m0": Recipe(id="fp8-ue8m0", label="FP8 E4M3, UE8M0 scales", weights=W128_UE8M0, activations=A128_UE8M0),
    # One scale an output channel and one a token: llm-compressor's FP8_DYNAMIC, vLLM's default.
    "fp8-e4m3-row": Recipe(
        id="fp8-e4m3-row", label="FP8 E4M3, FP32 scales per row", weights=ROW_FP32, activations=ROW_FP32
    ),
    # One scale a weight and one an activation tensor.
    "fp8-e4m3-tensor": Recipe(
        id="fp8-e4m3-tensor", label="FP8 E4M3, FP32 scales per tensor", weights=TENSOR_FP32, activations=TENSOR_FP32
    ),
    # The same with activation scales fixed beforehand, from calibration texts: what exceeds them clips.
    "fp8-e4m3-tensor-static": Recipe(
        id="fp8-e4m3-tensor-static",
        label="FP8 E4M3, FP32 scales per tensor, activations calibrated",
        weights=TENSOR_FP32,
        activations=STATIC_FP32,
    ),
    # MXFP8 with scales rounded up: NVIDIA's conversion instruction, torchao's inference default.
    "mxfp8-rceil": Recipe(id="mxfp8-rceil", label="MXFP8, scales rounded up", weights=MX8_CEIL, activations=MX8_CEIL),
    # MXFP8 as OCP wrote it: the largest elements of a fifth of all blocks clip. Default of Ascend and of `to_mx`.
    "mxfp8-floor": Recipe(
        id="mxfp8-floor", label="MXFP8, scales rounded down (OCP)", weights=MX8_FLOOR, activations=MX8_FLOOR
    ),
    # MXFP8 with amax rounded to the element's mantissa first: AMD Quark.
    "mxfp8-even": Recipe(
        id="mxfp8-even", label="MXFP8, scales rounded to even", weights=MX8_EVEN, activations=MX8_EVEN
    ),
    # A DeepSeek checkpoint on a chip that has only MX hardware: weights as shipped, activations in blocks of 32.
    "fp8-ue8m0-w128a32": Recipe(
        id="fp8-ue8m0-w128a32",
        label="FP8 E4M3, UE8M0 scales, activations by 32",
        weights=W128_UE8M0,
        activations=A32_UE8M0,
    ),
    # An FP32-scaled checkpoint converted to UE8M0: weights are rounded twice. What some engines do at load.
    "fp8-ue8m0-requant": Recipe(
        id="fp8-ue8m0-requant",
        label="FP8 E4M3, UE8M0 scales made from an FP32-scaled checkpoint",
        weights=W128_UE8M0,
        weights_via=W128_FP32,
        activations=A128_UE8M0,
    ),
    # Weights only, activations in BF16: what transformers runs, without saying so, where there is no FP8 hardware.
    "w8a16-e4m3": Recipe(id="w8a16-e4m3", label="E4M3 weights, FP32 scales, BF16 activations", weights=W128_FP32),
    "w8a16-ue8m0": Recipe(id="w8a16-ue8m0", label="E4M3 weights, UE8M0 scales, BF16 activations", weights=W128_UE8M0),
    # INT8 weights alone: the 8-bit product that torch has a real kernel for on processors (`weight_only.py`).
    "w8a16-int8": Recipe(id="w8a16-int8", label="INT8 weights per row, BF16 activations", weights=ROW_INT8),
    # KV cache in E4M3 with the constant scale 1 (vLLM's `kv_cache_dtype=fp8` without calibration), alone and on top.
    "bf16-kv8": Recipe(id="bf16-kv8", label="BF16, E4M3 KV cache", kv_cache=KV8),
    "fp8-e4m3-kv8": Recipe(
        id="fp8-e4m3-kv8",
        label="FP8 E4M3, FP32 scales, E4M3 KV cache",
        weights=W128_FP32,
        activations=A128_FP32,
        kv_cache=KV8,
    ),
    "fp8-ue8m0-kv8": Recipe(
        id="fp8-ue8m0-kv8",
        label="FP8 E4M3, UE8M0 scales, E4M3 KV cache",
        weights=W128_UE8M0,
        activations=A128_UE8M0,
        kv_cache=KV8,
    ),
    # E5M2 elements in DeepSeek's blocks: one mantissa bit less, a range that block scales make useless.
    "fp8-e5m2": Recipe(id="fp8-e5m2", label="FP8 E5M2, FP32 scales", weights=W128_E5M2, activations=A128_E5M2),
    # The 8-bit integers that FP8 replaced: an output channel and a token share a scale.
    "int8-row": Recipe(id="int8-row", label="INT8 per row", weights=ROW_INT8, activations=ROW_INT8),
    # Huawei's HiFloat8, scaled by row so that the largest element becomes 15.
    "hif8": Recipe(id="hif8", label="HiFloat8 per row", weights=ROW_HIF8, activations=ROW_HIF8),
    # 4-bit elements, weights and activations: OCP MXFP4 (scales rounded down) and NVIDIA's two-level NVFP4.
    "mxfp4": Recipe(id="mxfp4", label="MXFP4, scales rounded down (OCP)", weights=MX4_FLOOR, activations=MX4_FLOOR),
    "nvfp4": Recipe(id="nvfp4", label="NVFP4, E4M3 and FP32 scales", weights=NV4, activations=NV4),
}
"""Recipe id -> recipe."""

AS_SHIPPED = Recipe(id="as-shipped", label="As shipped")
"""Asks for a checkpoint's own codes and scales, whatever they are: the engine puts the recipe that the tensors show in
its place before anything runs (`checkpoints`). No entry of the table, since the name says nothing of numbers."""


def is_as_shipped(recipe: Recipe) -> bool:
    """Whether a recipe is `as-shipped`, or what a checkpoint's tensors made of it."""
    return recipe.id.split(":")[0] == AS_SHIPPED.id


def recipe(recipe_id: str) -> Recipe:
    """The recipe of that id; any id with `-kv8` behind it is that recipe with an E4M3 KV cache.

    UsageError, with the nearest known id, if there is none.
    """
    base = RECIPES.get(recipe_id.removesuffix("-kv8"))
    if recipe_id in RECIPES:
        return RECIPES[recipe_id]
    if base is None or base.compute == "fp32" or base.kv_cache is not None:
        raise UsageError(f"Unknown recipe '{recipe_id}'.{did_you_mean(recipe_id, RECIPES)}")
    return base.model_copy(update={"id": recipe_id, "label": f"{base.label}, E4M3 KV cache", "kv_cache": KV8})


def needs_calibration(one: Recipe) -> bool:
    """Whether static scales must be measured: a checkpoint as shipped brings its own."""
    return one.static and not is_as_shipped(one)
