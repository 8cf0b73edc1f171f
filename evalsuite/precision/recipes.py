"""The precisions that evalsuite knows. Adding one is adding one entry here.

A recipe says what its name means and nothing else: numbers of the elements, how scales are made, which elements share a
scale, for weights and for activations, and what stays in BF16 (`records.DEFAULT_EXCLUDE`: embeddings, output head,
norms, routers, towers, MTP heads). All recipes of one model start from the same BF16 master weights. Weights are
quantised once; activations as they come.

`fp8-e4m3` and `fp8-ue8m0` differ in the scale alone, so their comparison is about the scale alone. "UE8M0" without a
rounding rule does not name a precision: libraries and chips use five (see `scales.py`); ours are written out.
"""

from evalsuite.errors import UsageError, did_you_mean
from evalsuite.records import Quant, Recipe

# DeepSeek's blocks: 128x128 for weights, 1x128 (one token, 128 channels) for activations.
_W128_FP32 = Quant(element="e4m3", scale="fp32", rounding="none", block=(128, 128))
_A128_FP32 = Quant(element="e4m3", scale="fp32", rounding="none", block=(1, 128))
_W128_CEIL = Quant(element="e4m3", scale="ue8m0", rounding="ceil", block=(128, 128))
_A128_CEIL = Quant(element="e4m3", scale="ue8m0", rounding="ceil", block=(1, 128))

RECIPES: dict[str, Recipe] = {
    # The baseline: what the model was published in.
    "bf16": Recipe(id="bf16", label="BF16"),
    # The BF16 master's values in FP32 arithmetic throughout: what BF16 arithmetic itself costs.
    "fp32": Recipe(id="fp32", label="FP32 arithmetic on BF16 weights", compute="fp32"),
    # DeepSeek-V3: scales amax/448 in FP32.
    "fp8-e4m3": Recipe(
        id="fp8-e4m3", label="FP8 E4M3, FP32 scales", weights=_W128_FP32, activations=_A128_FP32
    ),
    # DeepSeek-V3.1: the same with scales rounded up to a power of two.
    "fp8-ue8m0": Recipe(
        id="fp8-ue8m0", label="FP8 E4M3, UE8M0 scales", weights=_W128_CEIL, activations=_A128_CEIL
    ),
}
"""Recipe id -> recipe."""


def recipe(recipe_id: str) -> Recipe:
    """The recipe of that id; UsageError, with the nearest known id, if there is none."""
    if recipe_id not in RECIPES:
        raise UsageError(f"Unknown recipe '{recipe_id}'.{did_you_mean(recipe_id, RECIPES)}")
    return RECIPES[recipe_id]
