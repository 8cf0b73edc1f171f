"""Numbers: what a precision is, and a model that runs in it.

Read in this order: `elements` (formats of elements), `scales` (how a block gets its scale), `formats` (both together:
codes and scales of a tensor), `recipes` (the table of precisions), `coverage` (which layers of a model a recipe
quantises, and what share of the work that is), `fake` (quantise and dequantise activations fast), `layers` (what runs
instead of a model's own layers), `emulate` (`apply`: the model in a recipe, and back).

In: a tensor or a transformers model, and a `Recipe`. Out: codes and scales, or the model running in that recipe with a
`Realised` that says what really ran. Knows nothing of tasks, stores or verdicts.
"""

from evalsuite.precision import formats
from evalsuite.precision.emulate import apply
from evalsuite.precision.recipes import RECIPES

__all__ = ["RECIPES", "apply", "formats"]
