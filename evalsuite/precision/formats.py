"""Quantise and dequantise: what the codes and scales of a recipe are, bit for bit.

    q = quantize(x, element="e4m3", scale="ue8m0", block=(1, 128), rounding="ceil")
    q.codes, q.scales, q.scale_codes, q.counts
    dequantize(q)

The arithmetic, canonical for everything else in evalsuite (emulation, native kernels, checkpoints, conformance):

    a = max |v| over the block                in FP32, never in BF16 (2.8 % of codes would change)
    s = scale_of(a)                           `scales.py`
    q = clamp(v / s, -max, max)               IEEE division, not v * (1/s): those differ for FP32 scales
    code = encode(round(q))                   `elements.py`; clamped first, so a cast never decides overflow
    dequantised = table[code] * s             in FP32, rounded once if another dtype is asked for

The last dimension of a tensor is the one a matrix multiplication reduces over; `block` is (rows, columns) of the last
two dimensions, -1 means all. Leading dimensions are a batch of matrices, each with its own blocks, except that (-1, -1)
is one scale for the whole tensor. A shape that is no multiple of the block is padded with zeros, quantised and
cropped; nothing is ever skipped. A block that holds NaN or Inf becomes NaN throughout and is counted.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from evalsuite.errors import UsageError, did_you_mean
from evalsuite.precision.elements import ELEMENTS, Element
from evalsuite.precision.scales import KINDS, RULES, scales_of
from evalsuite.records import Quant

Block = tuple[int, int]

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
ONE_ROUNDING = 1.0 + 2.0**-22
"""FP32 scales make the largest element max * (1 +- 2^-24): rounding of the division, not clipping."""


@dataclass(frozen=True)
class Quantized:
    """A quantised tensor."""

    codes: Tensor
    """uint8, shape of the tensor. One code a byte, also for formats of fewer bits."""
    scales: Tensor
    """float32, one per block: (..., row blocks, column blocks); NaN for a block that held NaN or Inf."""
    scale_codes: Tensor | None
    """uint8 codes of `scales`, same shape: E8M0, or E4M3 beside `tensor_scale`; None for FP32 scales."""
    tensor_scale: Tensor | None
    """float32 without dimensions, only with E4M3 scales: `scales` = number of the code x this."""
    quant: Quant
    """How it was done."""
    counts: dict[str, int]
    """`clipped` (elements beyond the largest number), `zero_flushed` (non-zero elements that became 0), each among
    finite blocks, and `nonfinite_blocks`."""


def quantize(
    x: Tensor,
    element: str = "e4m3",
    scale: str = "ue8m0",
    block: Block = (1, 128),
    rounding: str = "ceil",
    amax_floor: float = 1e-4,
) -> Quantized:
    """Quantise a tensor.

    Args:
        x: float32, bfloat16 or float16; any shape with at least one dimension, contiguous or not.
        element: a name in `ELEMENTS`.
        scale: `fp32`, `ue8m0`, `e4m3` or `unit` (`scales.py`).
        block: rows and columns that share a scale, -1 for all; see the module docstring.
        rounding: how amax becomes a power of two (`scales.py`); ignored unless the scale is UE8M0.
        amax_floor: smallest amax used for a scale.

    Raises:
        UsageError: an unknown name, a block that is not positive or -1, or a dtype that is not listed.
    """
    if element not in ELEMENTS:
        raise UsageError(f"Unknown element format '{element}'.{did_you_mean(element, ELEMENTS)}")
    if scale not in KINDS:
        raise UsageError(f"Unknown scale format '{scale}'.{did_you_mean(scale, KINDS)}")
    if scale == "ue8m0" and rounding not in RULES[1:]:
        raise UsageError(f"Unknown rounding '{rounding}' of a UE8M0 scale.{did_you_mean(rounding, RULES[1:])}")
    rule = rounding if scale == "ue8m0" else "none"
    return quantize_as(x, Quant(element=element, scale=scale, rounding=rule, block=block, amax_floor=amax_floor))


def quantize_as(x: Tensor, quant: Quant, constant: float | None = None) -> Quantized:
    """`quantize`, with everything that names the format in one noun; a static scale is the *constant*."""
    if x.dtype not in FLOATS:
        raise UsageError(f"Cannot quantise a tensor of {x.dtype}; allowed: {', '.join(map(str, FLOATS))}.")
    fmt = ELEMENTS[quant.element]
    block = block_of(quant)
    v, crop = _to_blocks(x.detach(), block)
    scale, scale_codes, tensor_scale = scales_of(v.abs().amax(dim=(-3, -1), keepdim=True), quant, constant)
    q = v / scale
    rounded = fmt.round(q.clamp(-fmt.max, fmt.max))
    shape = _scales_shape(x, block)
    return Quantized(
        codes=_from_blocks(fmt.encode(rounded), x, crop),
        scales=scale.reshape(shape),
        scale_codes=None if scale_codes is None else scale_codes.reshape(shape),
        tensor_scale=tensor_scale,
        quant=quant,
        counts=_counts(v, q, rounded, fmt) | {"nonfinite_blocks": int(scale.isnan().sum())},
    )


def dequantize(q: Quantized, dtype: torch.dtype = torch.float32) -> Tensor:
    """The numbers that codes and scales stand for: code x scale in FP32, rounded once to *dtype*. Shape as the codes.

    Non-finite blocks are NaN.
    """
    table = ELEMENTS[q.quant.element].table.to(q.codes.device)
    v, crop = _to_blocks(q.codes, block_of(q.quant))
    scale = q.scales.reshape(*v.shape[:-4], v.shape[-4], 1, v.shape[-2], 1)
    return _from_blocks(table[v.int()] * scale, q.codes, crop).to(dtype)


def block_of(quant: Quant) -> Block:
    """Rows and columns that are quantised together. A static scale for the whole tensor does not depend on its content,
    so a NaN spoils its own row (token) and no other."""
    return (1, -1) if quant.static and quant.block == (-1, -1) else quant.block


def _counts(v: Tensor, q: Tensor, rounded: Tensor, fmt: Element) -> dict[str, int]:
    """Elements that lost everything; comparisons with NaN are false, so non-finite blocks do not count."""
    clipped = q.abs() > fmt.max * ONE_ROUNDING
    flushed = (rounded == 0) & (v != 0)
    return {"clipped": int(clipped.sum()), "zero_flushed": int(flushed.sum())}


def _matrix_shape(x: Tensor, block: Block) -> tuple[int, ...]:
    """(..., rows, columns) of the matrices that blocks are cut from."""
    if x.dim() == 0 or any(size == 0 or size < -1 for size in block):
        raise UsageError(
            f"Cannot quantise a tensor of shape {tuple(x.shape)} in blocks {block}: rows and columns must be positive, "
            "or -1 for all, and the tensor needs a dimension."
        )
    if block == (-1, -1):
        return (1, x.numel())
    return tuple(x.shape) if x.dim() > 1 else (1, x.shape[0])


def _sizes(shape: tuple[int, ...], block: Block) -> Block:
    """Block sizes with -1 replaced; at least 1, so that empty tensors pass."""
    rows, columns = (full if size == -1 else size for size, full in zip(block, shape[-2:], strict=True))
    return max(rows, 1), max(columns, 1)


def _to_blocks(x: Tensor, block: Block) -> tuple[Tensor, tuple[int, int]]:
    """View of shape (..., row blocks, rows, column blocks, columns), zero-padded, and the size to crop to.

    Floats come back as float32; codes keep their dtype.
    """
    shape = _matrix_shape(x, block)
    rows, columns = _sizes(shape, block)
    matrix = x.reshape(shape)
    matrix = matrix.float() if matrix.is_floating_point() else matrix
    n, k = shape[-2:]
    if n % rows or k % columns:
        matrix = F.pad(matrix, (0, -k % columns, 0, -n % rows))
    blocks = matrix.reshape(*shape[:-2], -(-n // rows), rows, -(-k // columns), columns)
    return blocks, (n, k)


def _from_blocks(blocks: Tensor, like: Tensor, crop: tuple[int, int]) -> Tensor:
    """Undoes `_to_blocks`: joins, crops, and gives the shape of *like*."""
    *lead, row_blocks, rows, column_blocks, columns = blocks.shape
    matrix = blocks.reshape(*lead, row_blocks * rows, column_blocks * columns)
    return matrix[..., : crop[0], : crop[1]].reshape(like.shape)


def _scales_shape(x: Tensor, block: Block) -> tuple[int, ...]:
    """One scale per block, with as many dimensions as the tensor."""
    shape = _matrix_shape(x, block)
    rows, columns = _sizes(shape, block)
    grid = (*shape[:-2], -(-shape[-2] // rows), -(-shape[-1] // columns))
    return grid[-x.dim() :] if x.dim() <= len(grid) else (1,) * x.dim()
