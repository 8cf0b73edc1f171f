"""What `emulate.apply` needs to run a checkpoint's own codes instead of quantising a master.

The model holds the dequantised weights (code x scale, rounded to its BF16). `Shipped` names the layers that they belong
to, so that exactly these run on quantised operands, and carries what BF16 cannot: the same weights in FP32 for the
`exact` mode, and constant scales of activations.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from evalsuite.records import Recipe


@dataclass(frozen=True)
class Shipped:
    """Quantised layers of a loaded checkpoint, by the names of `coverage.Gemm`."""

    recipe: Recipe
    """The checkpoint's label. Its weights are not quantised again."""
    names: frozenset[str]
    exact: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    """Name -> float32 weight as the model holds it; filled for `gemm_mode: exact` only."""
    input_scales: Mapping[str, float] = field(default_factory=dict)
    """Name -> the constant scale of the layer's activations; empty unless the recipe's activations are `static`. A
    calibration of ours gives an amax instead, from which the scale is made (`scales.static_scale`)."""
