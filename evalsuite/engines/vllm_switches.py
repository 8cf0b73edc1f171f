"""Recipe -> the switches that make vLLM run it, every one of them set; and what it does not run, with the reason.

Left to itself vLLM decides by what it finds: where DeepGEMM is installed, an FP8 arm "with FP32 scales" gets UE8M0
scales (weights are rounded again at load, activations as they come), and two arms that should differ are the same.
So `VLLM_USE_DEEP_GEMM` and `VLLM_USE_DEEP_GEMM_E8M0` are set for every arm, and what vLLM says of it is checked.

vLLM's own quantisation at load makes scales amax/448 in FP32. With E8M0 on it then rounds those, which is the recipe
`fp8-ue8m0-requant` and not `fp8-ue8m0`. What has no row here runs from a checkpoint that `evalsuite quantize` wrote.
None of the rows with a `quantization` has been seen running: they are for NVIDIA GPUs, and count as `native-unproven`.
"""

from dataclasses import dataclass, replace

from evalsuite.precision.recipes import is_as_shipped
from evalsuite.records import Recipe

KV8 = "fp8_e4m3"


@dataclass(frozen=True)
class Switches:
    """Everything that decides in which numbers vLLM computes."""

    dtype: str
    quantization: str | None = None
    """At load, from a BF16 master; None: what the folder's configuration says."""
    kv_cache: str = "auto"
    """`auto` is the arm's `dtype`, or what a checkpoint's own configuration says."""
    deep_gemm: bool = False
    e8m0: bool = False
    """Scales of DeepGEMM are powers of two: of activations, and of weights, which are rounded for it."""
    batch_invariant: bool = False

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables, which vLLM's processes inherit."""
        return {
            "VLLM_USE_DEEP_GEMM": str(int(self.deep_gemm)),
            "VLLM_USE_DEEP_GEMM_E8M0": str(int(self.e8m0)),
            "VLLM_BATCH_INVARIANT": str(int(self.batch_invariant)),
        }

    @property
    def arguments(self) -> dict[str, str | None]:
        """Arguments of `LLM`."""
        return {"dtype": self.dtype, "quantization": self.quantization, "kv_cache_dtype": self.kv_cache}

    @property
    def written(self) -> dict[str, str]:
        """All of them, as a result carries them."""
        return {**self.variables, **{name: str(value) for name, value in self.arguments.items()}}


TABLE: dict[str, Switches] = {
    "bf16": Switches("bfloat16"),
    "fp32": Switches("float32"),
    "fp8-e4m3": Switches("bfloat16", "fp8_per_block", deep_gemm=True),
    "fp8-ue8m0-requant": Switches("bfloat16", "fp8_per_block", deep_gemm=True, e8m0=True),
    "fp8-e4m3-row": Switches("bfloat16", "fp8_per_channel"),
}
"""Recipe id -> switches; any of them with `-kv8` behind it, `fp32` apart, has an E4M3 KV cache as well."""
AT_LOAD = {
    "fp8-ue8m0": "vLLM quantises at load with FP32 scales and rounds those to powers of two afterwards (that is "
                 "`fp8-ue8m0-requant`)",
}  # fmt: skip
"""Recipes that vLLM seems to have."""


def switches(recipe: Recipe) -> Switches | None:
    """How vLLM runs a recipe, or a checkpoint that was found to be in it; None if it has no way to."""
    if is_as_shipped(recipe):
        scaled = recipe.weights is not None and recipe.weights.scale == "ue8m0"
        return Switches("bfloat16", deep_gemm=recipe.weights is not None, e8m0=scaled)
    found = TABLE.get(recipe.id.removesuffix("-kv8"))
    if found is None or recipe.kv_cache is None:
        return found
    return replace(found, kv_cache=KV8) if found.dtype == "bfloat16" else None


def refusal(recipe: Recipe, device: str) -> str | None:
    """Why vLLM does not run a recipe on a kind of device (`cpu`, `cuda`), with the way out; None if it does."""
    if is_as_shipped(recipe):
        return None  # whether there is a kernel only loading tells
    found = switches(recipe)
    if found is None:
        why = AT_LOAD.get(recipe.id.removesuffix("-kv8"), "vLLM has nothing that makes these numbers from BF16 weights")
    elif device != "cuda" and (found.quantization is not None or found.kv_cache == KV8):
        why = f"vLLM runs it on NVIDIA GPUs; this is a {device}"
    else:
        return None
    return (f"recipe '{recipe.id}': {why}. Write its checkpoint with `evalsuite quantize MODEL --recipe "
            f"{recipe.id.removesuffix('-kv8')} --out FOLDER` and make it an arm, `{{id: shipped, model: FOLDER, "
            "recipe: as-shipped}` (the label says which it is), or use the engine local")  # fmt: skip
