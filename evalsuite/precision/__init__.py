"""Numbers: what a precision is, and a model that runs in it.

Read in this order: `elements` (formats of elements), `scales` (how a block gets its scale), `formats` (both together:
codes and scales of a tensor), `recipes` (the table of precisions), `coverage` (which layers of a model a recipe
quantises, and what share of the work that is), `fake` (quantise and dequantise activations fast), `activity` (counts of
what that does to them), `layers` (what runs instead of a model's own layers), `emulate` (`apply`: the model in a
recipe, and back), `calibrate` (where static scales come from), `kv` (an FP8 KV cache). Checkpoints are a side room:
`dialects` (what a configuration claims), `shards` and `blocks` (what lies in the files), `checkpoints` (both together:
the label), `layouts` and `writing` (the checkpoint of an arm).

In: a tensor or a transformers model, and a `Recipe`. Out: codes and scales, or the model running in that recipe with a
`Realised` that says what really ran. Knows nothing of tasks, stores or verdicts.

The table of recipes needs no torch, so `apply` and `formats` are imported when they are first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from evalsuite.precision.recipes import RECIPES

if TYPE_CHECKING:
    from evalsuite.precision import formats
    from evalsuite.precision.emulate import apply

__all__ = ["RECIPES", "apply", "formats"]


def __getattr__(name: str) -> Any:
    if name == "apply":
        return import_module("evalsuite.precision.emulate").apply
    if name == "formats":
        return import_module("evalsuite.precision.formats")
    raise AttributeError(f"module 'evalsuite.precision' has no attribute '{name}'")
