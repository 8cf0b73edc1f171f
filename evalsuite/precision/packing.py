"""What scaled matrix multiplications of a chip want their operands to look like in memory.

A scaled kernel multiplies 8-bit codes and applies the scales itself. Which scales it takes is its *scheme*; a wrong
stride or a missing row of padding gives wrong numbers, not an error, so all of that is in this module and nowhere else:

    block    activations 1x128, weights 128x128, FP32 scales. Scales of activations column-major, (M, K/128) with
             strides (1, M), M a multiple of 4. Scales of weights (K/128 rounded up to 4, N/128), column-major too.
    row      one FP32 scale a token and one an output channel: (M, 1) and (1, N)
    tensor   one FP32 scale each
    mx       32 elements along K share an E8M0 byte; bytes in tiles of 128 rows x 4 blocks (cuBLAS: 32x4x4 swizzle)

UE8M0 scales go through `block` as FP32 powers of two: the same kernel for both arms, so they differ in the numbers
alone. Weights in 128x128 blocks of powers of two are also MX weights: each scale is repeated for 128 rows and 4 blocks.

`Operand` holds codes and scales twice: as the recipe sees the scales, and packed for the kernel. `reference_product`
multiplies from the packed form as a kernel would, in FP32: the oracle of all probes, and of tests without hardware.

Source: pytorch aten/src/ATen/native/cuda/ScaledBlas.cpp; cuBLAS manual, "1D block scaling factors layout".
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from evalsuite.precision.elements import ELEMENTS
from evalsuite.precision.scales import decode_ue8m0, encode_ue8m0
from evalsuite.records import Quant, Recipe


@dataclass(frozen=True)
class Scheme:
    """One way of giving scales to a kernel."""

    name: str
    scaling: tuple[str, str]
    """Names in `torch.nn.functional.ScalingType`, of activations and of weights."""
    rows: int
    """Tokens are padded with zeros to a multiple of this."""
    columns: int
    """K and N are padded with zeros to a multiple of this."""
    scale_storage: Literal["fp32", "e8m0"]

    @property
    def label(self) -> str:
        """For `Realised.kernel`."""
        return " x ".join(self.scaling)


SCHEMES: dict[str, Scheme] = {
    "block": Scheme("block", ("BlockWise1x128", "BlockWise128x128"), rows=4, columns=128, scale_storage="fp32"),
    "row": Scheme("row", ("RowWise", "RowWise"), rows=1, columns=16, scale_storage="fp32"),
    "tensor": Scheme("tensor", ("TensorWise", "TensorWise"), rows=1, columns=16, scale_storage="fp32"),
    "mx": Scheme("mx", ("BlockWise1x32", "BlockWise1x32"), rows=32, columns=32, scale_storage="e8m0"),
}
"""Scheme name -> scheme."""

_BLOCKS = {
    ((128, 128), (1, 128)): "block",
    ((1, -1), (1, -1)): "row",
    ((-1, -1), (-1, -1)): "tensor",
    ((1, 32), (1, 32)): "mx",
    ((128, 128), (1, 32)): "mx",
}
"""(block of weights, block of activations) -> scheme."""


def scheme_of(recipe: Recipe) -> Scheme | None:
    """The scheme that multiplies what this recipe quantises; None where no kernel takes it."""
    weights, activations = recipe.weights, recipe.activations
    if weights is None or activations is None or {weights.element, activations.element} != {"e4m3"}:
        return None
    name = _BLOCKS.get((weights.block, activations.block))
    if name is None or {weights.scale, activations.scale} - {"fp32", "ue8m0"}:
        return None
    if name == "mx" and {weights.scale, activations.scale} != {"ue8m0"}:
        return None
    return SCHEMES[name]


class Operand(NamedTuple):
    """One side of a scaled multiplication."""

    codes: Tensor
    """float8_e4m3fn (rows, K), padded with code 0."""
    scales: Tensor
    """float32, one a block, as the recipe sees them: (rows, K blocks), or (row blocks, K blocks) of a weight."""
    packed: Tensor
    """The same as the kernel wants them."""

    @property
    def bits(self) -> Tensor:
        """The codes as uint8."""
        return self.codes.view(torch.uint8)


def round_up(size: int, multiple: int) -> int:
    """The smallest multiple that is not below *size*."""
    return -(-size // multiple) * multiple


def pad(x: Tensor, rows: int, columns: int) -> Tensor:
    """(M, K) padded with zeros to multiples of *rows* and *columns*; the same tensor where nothing is missing."""
    missing = -x.shape[0] % rows, -x.shape[1] % columns
    return F.pad(x, (0, missing[1], 0, missing[0])) if any(missing) else x


def pack_activation(codes: Tensor, scales: Tensor, scheme: Scheme) -> Operand:
    """Activations for a scheme. *codes* float8 (M, K), *scales* float32 (M, blocks) or (1, 1); both padded already."""
    if scheme.name == "block":
        packed = scales.t().contiguous().t()
    elif scheme.name == "mx":
        packed = swizzled(scales)
    else:
        packed = scales.contiguous() if scheme.name == "row" else scales.reshape(())
    return Operand(codes, scales, packed)


def pack_weight(codes: Tensor, scales: Tensor, quant: Quant, scheme: Scheme) -> Operand:
    """A weight for a scheme. *codes* float8 (N, K), *scales* float32 (row blocks, K blocks); both padded already."""
    if scheme.name == "block":
        missing = -scales.shape[1] % 4
        packed = F.pad(scales, (0, missing)).contiguous().t()
    elif scheme.name == "mx":
        packed = swizzled(_repeated(scales, quant, codes.shape))
    else:
        packed = scales.reshape(1, -1).contiguous() if scheme.name == "row" else scales.reshape(())
    return Operand(codes, scales, packed)


def _repeated(scales: Tensor, quant: Quant, shape: torch.Size) -> Tensor:
    """Scales of any blocks as scales of 1x32 blocks: (N, K/32). Lossless."""
    rows, columns = quant.block
    fine = scales.repeat_interleave(rows, 0).repeat_interleave(columns // 32, 1)
    return fine[: shape[0], : shape[1] // 32]


def swizzled(scales: Tensor) -> Tensor:
    """Powers of two (rows, blocks) as E8M0 bytes in tiles of 128 x 4: float8_e8m0fnu, flat, zero-padded."""
    codes = encode_ue8m0(scales)
    codes = F.pad(codes, (0, -codes.shape[1] % 4, 0, -codes.shape[0] % 128))
    tiles = codes.view(codes.shape[0] // 128, 4, 32, codes.shape[1] // 4, 4)
    return tiles.permute(0, 3, 2, 1, 4).contiguous().flatten().view(torch.float8_e8m0fnu)


def unswizzled(packed: Tensor, rows: int, blocks: int) -> Tensor:
    """The inverse of `swizzled`: float32 (rows, blocks)."""
    tiles = packed.view(torch.uint8).view(round_up(rows, 128) // 128, round_up(blocks, 4) // 4, 32, 4, 4)
    codes = tiles.permute(0, 3, 2, 1, 4).reshape(round_up(rows, 128), round_up(blocks, 4))
    return decode_ue8m0(codes[:rows, :blocks].contiguous())


def reference_product(a: Operand, b: Operand, scheme: Scheme, bias: Tensor | None = None) -> Tensor:
    """The product of two operands, read from their packed form as a kernel reads them; float32 (M, N).

    Raises:
        ValueError: shape or strides of the packed scales are not those that the kernel checks.
    """
    left = numbers_of(a) * scale_map(a, scheme, weight=False)
    product = F.linear(left, numbers_of(b) * scale_map(b, scheme, weight=True))
    return product if bias is None else product + bias.float()


def numbers_of(operand: Operand, element: str = "e4m3") -> Tensor:
    """What the codes of an operand stand for, without scales: float32 (rows, K)."""
    return ELEMENTS[element].table.to(operand.codes.device)[operand.bits.int()]


def scale_map(operand: Operand, scheme: Scheme, *, weight: bool) -> Tensor:
    """The scale of each element, read from the packed form: float32 (rows, K)."""
    rows, k = operand.codes.shape
    packed = operand.packed
    if scheme.name in ("row", "tensor"):
        return packed.reshape(-1, 1).expand(rows, k)
    if scheme.name == "mx":
        return unswizzled(packed, rows, k // 32).repeat_interleave(32, 1)
    blocks = k // 128
    expected = (round_up(blocks, 4), rows // 128) if weight else (rows, blocks)
    if packed.shape != expected or packed.stride(0) != 1 or (expected[1] > 1 and packed.stride(1) != expected[0]):
        raise ValueError(
            f"scales of a {'weight' if weight else 'activation'} must be {expected}, column-major; "
            f"got {tuple(packed.shape)} with strides {packed.stride()}"
        )
    grid = packed.t()[:, :blocks].repeat_interleave(128, 0) if weight else packed
    return grid.repeat_interleave(128, 1)


def sqnr_db(actual: Tensor, expected: Tensor) -> float:
    """Signal to noise of *actual* against *expected*, dB; infinite where they are equal, -inf where not finite."""
    noise = (actual.double() - expected.double()).square().sum()
    if not bool(noise.isfinite()):
        return float("-inf")
    return float(10 * torch.log10(expected.double().square().sum() / noise))
