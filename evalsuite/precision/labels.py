"""The names of what checkpoints hold: the entry of the table of recipes that does the same, or a description."""

from evalsuite.precision.dialects import TENSOR, Block
from evalsuite.precision.recipes import KV8, RECIPES
from evalsuite.precision.recipes import recipe as recipe_of
from evalsuite.records import Quant, Recipe


def mirrored(block: Block) -> Block:
    """The block of activations that goes with a block of weights: of one token, except for one scale a tensor."""
    return block if block == TENSOR else (1, block[1])


def plain(block: Block, *, static: bool = False) -> Quant:
    """E4M3 with FP32 scales in that block."""
    return Quant(element="e4m3", scale="fp32", rounding="none", block=block, static=static)


def named(made: Recipe) -> tuple[str, str]:
    """Id and label of the recipe in the table that does the same, else a description."""
    for recipe in RECIPES.values():
        same = (recipe.weights, recipe.activations, recipe.kv_cache) == (made.weights, made.activations, made.kv_cache)
        if same and recipe.weights_via is None and recipe.compute == "bf16":
            return recipe.id, recipe.label
    if made.kv_cache == KV8:  # any recipe may have an E4M3 KV cache on top
        bare, _ = named(made.model_copy(update={"kv_cache": None}))
        if bare in RECIPES:
            return f"{bare}-kv8", recipe_of(f"{bare}-kv8").label
    parts = [("w", made.weights), ("a", made.activations), ("kv", made.kv_cache)]
    text = " ".join(f"{letter}={_scheme(quant)}" for letter, quant in parts if quant is not None)
    return f"e4m3({text})", "E4M3, a scheme that no recipe names"


def _scheme(quant: Quant) -> str:
    rounding = f"-{quant.rounding}" if quant.scale == "ue8m0" else ""
    return f"{quant.scale}{rounding}-{_size(quant.block)}{'-static' if quant.static else ''}"


def _size(block: Block) -> str:
    return "x".join("all" if size == -1 else str(size) for size in block)


def words(block: Block) -> str:
    """A block, for a sentence."""
    if block == (-1, -1):
        return "a whole weight"
    return "a row" if block == (1, -1) else f"{block[0]}x{block[1]} elements"
