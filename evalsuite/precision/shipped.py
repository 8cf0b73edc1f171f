"""What `emulate.apply` needs to run a checkpoint's own codes instead of quantising a master.

The model holds the dequantised weights (code x scale, rounded to its BF16). `Shipped` names the layers that they belong
to, so that exactly these run on quantised operands, and carries what BF16 cannot: the same weights in FP32 for the
`exact` mode, and constant scales of activations.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from evalsuite.precision.elements import ELEMENTS
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
    """Name -> the constant scale of the layer's activations (E4M3); empty where scales are made as activations come."""


class StaticScale:
    """Activations by one constant scale: BF16 (..., K) -> float32, code x scale. Elements beyond 448 x scale clip."""

    def __init__(self, scale: float, device: torch.device) -> None:
        self._scale = torch.tensor(scale, dtype=torch.float32, device=device)
        self._element = ELEMENTS["e4m3"]

    def __call__(self, x: Tensor) -> Tensor:
        """The numbers that the codes of *x* stand for; NaN stays NaN."""
        v = (x.float() / self._scale).clamp(-self._element.max, self._element.max)
        return self._element.round(v) * self._scale
