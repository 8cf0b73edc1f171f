"""INT8 weights, BF16 activations, on a processor's own kernel: torch multiplies the codes without widening them first.

The one 8-bit product for which torch has a real kernel on every processor. It computes in BF16 with FP32 sums, so it is
native *mixed*: stored in INT8, computed in another format. The kernel would take scales in BF16, an error of 0.2 % a
channel that the recipe does not have; it is therefore given ones, and the FP32 scale is applied behind it, at the price
of one more rounding to BF16 (SQNR of the product 51 dB, where one rounding leaves 55).

A kernel is believed where it was seen: `works` compares it with the product of the dequantised weight.
"""

from functools import cache

import torch
from torch import Tensor

from evalsuite.errors import CannotRunError
from evalsuite.precision.coverage import Gemm
from evalsuite.precision.layers import Arm, Forward, bias_of, master_weight
from evalsuite.precision.packing import sqnr_db
from evalsuite.records import Recipe

KERNEL = "weight_int8pack_mm"
MINIMUM_DB = 48.0
"""Least agreement with the FP32 product: two roundings to BF16 leave 51 dB."""


def takes(recipe: Recipe) -> bool:
    """Whether a recipe is of the kind that this kernel multiplies: INT8 weights by row, nothing else quantised."""
    weights = recipe.weights
    alone = recipe.activations is None and recipe.kv_cache is None and recipe.weights_via is None
    by_row = weights is not None and (weights.element, weights.scale, weights.block) == ("int8", "fp32", (1, -1))
    return alone and by_row


def product(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None = None) -> Tensor:
    """(..., K) BF16 times INT8 (N, K), scaled by FP32 (N), plus FP32 bias: (..., N) BF16."""
    flat = x.reshape(-1, x.shape[-1])
    made = torch._weight_int8pack_mm(flat, codes, torch.ones(len(codes), dtype=torch.bfloat16)).float() * scales
    if bias is not None:
        made += bias
    return made.to(torch.bfloat16).reshape(*x.shape[:-1], len(codes))


@cache
def works() -> str | None:
    """Why the kernel cannot be used here, or None."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(5, 384, generator=generator).bfloat16()
    codes = torch.randint(-127, 128, (160, 384), generator=generator, dtype=torch.int8)
    scales = torch.rand(160, generator=generator) / 100
    try:
        found = product(x, codes, scales)
    except (RuntimeError, AttributeError, NotImplementedError) as error:
        return f"torch has no such kernel here ({str(error).splitlines()[0]})"
    agreement = sqnr_db(found, x.float() @ (codes.float() * scales[:, None]).t())
    return None if agreement >= MINIMUM_DB else f"its product is {agreement:.1f} dB from the FP32 product"


class WeightOnlyArm(Arm):
    """A recipe of INT8 weights on the processor; unquantised layers are those of `Arm`."""

    def kernel_name(self, found: list[Gemm]) -> str:
        """The kernel, and that of the unquantised layers."""
        return "+".join([KERNEL, *[self.kernel] * any(not gemm.quantised for gemm in found)])

    def _linear(self, gemm: Gemm) -> Forward:
        if not gemm.quantised:
            return super()._linear(gemm)
        (made,) = self._codes(gemm.name, master_weight(gemm))
        codes, scales = made.codes.view(torch.int8).contiguous(), made.scales.reshape(-1)
        bias = bias_of(gemm.module, "bias", torch.float32)

        def forward(input: Tensor) -> Tensor:  # noqa: A002 - nn.Linear's own name for it
            return product(input, codes, scales, bias)

        return forward


def arm(recipe: Recipe, kernel: "str", device: torch.device) -> WeightOnlyArm:
    """The arm of a recipe on the processor.

    Raises:
        CannotRunError: the kernel is not there, or the device is no processor.
    """
    why = works() if device.type == "cpu" else f"the kernel is the processor's, and the model is on {device}"
    if why is not None:
        raise CannotRunError(f"Recipe '{recipe.id}' cannot run natively: {why}. Run it with execution 'emulated'.")
    return WeightOnlyArm(recipe, "fast", kernel, device)  # type: ignore[arg-type]
