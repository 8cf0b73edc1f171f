"""Scales: from a block's largest magnitude to the one number that the block shares.

A block is quantised as q = v / s. With `a` the largest magnitude in the block, M the element's target (448 for E4M3)
and emax its largest exponent (8), the rules are

    none           FP32 scale a / M: the largest element becomes exactly M                        DeepSeek-V3
    ceil           2^ceil(log2(a / M)): never clips; torchao and NVIDIA say RCEIL                 DeepSeek-V3.1
    floor          2^(floor(log2 a) - emax): clips where the mantissa of a exceeds M's            OCP MX v1.0
    even           a rounded to the element's mantissa bits, then floor                           AMD Quark
    ceil-element   2^(ceil(log2 a) - emax): never clips, may waste a binade; torchao's CEIL
    floor-x2       twice floor: never clips                                                       AWS Trainium

All but the first are UE8M0 scales: 8 exponent bits, no sign, no mantissa, code = exponent + 127, code 255 = NaN.
The same two words "UE8M0 scale" so stand for five different numbers, and a fifth of all blocks shows it.

Scales are built from the bits of the FP32 number. `log2` errs one ulp above 448 * 2^k, and `.to(float8_e8m0fnu)`
rounds to *nearest*: 58 % of the blocks would get too small a scale, and 0 would become 2^-127. Finite blocks never get
code 0 or 255: 2^-127 is subnormal in FP32 (some devices flush it), 255 is NaN. FP32 scales stay normal likewise.

Two more kinds of scale: `e4m3`, NVFP4's pair (an FP32 scale a tensor makes the largest block scale 448; block scales
are rounded to the nearest E4M3 number, so elements may clip), and `unit`, the constant 1 of an uncalibrated KV cache.

A static scale is a constant, shipped with a checkpoint or made from a calibrated amax; elements beyond it clip.

A block that holds NaN or Inf has no scale. It gets NaN (UE8M0 code 255), so it dequantises to NaN and is counted: it
must show, and the plain bit trick would hide an Inf behind the scale 2^127.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from evalsuite.errors import UsageError, did_you_mean
from evalsuite.precision.elements import ELEMENTS, Element
from evalsuite.records import Quant

RULES = ("none", "ceil", "floor", "even", "ceil-element", "floor-x2")
"""Values of `Quant.rounding`."""
NEVER_CLIPS = ("none", "ceil", "ceil-element", "floor-x2")
"""Rules under which no |v / s| exceeds the element's largest number by more than the rounding of the division."""
KINDS = ("fp32", "ue8m0", "e4m3", "unit")
"""Values of `Quant.scale`."""
SMALLEST = 2.0**-126
"""Smallest scale: the smallest normal FP32 number, UE8M0 code 1. Reached only with an amax floor below 448 * 2^-126."""


class Scales(NamedTuple):
    """The scales of one tensor's blocks; all of the blocks' shape but `tensor`."""

    values: Tensor
    """float32, what elements are divided by; NaN for a block that holds NaN or Inf."""
    codes: Tensor | None
    """uint8 codes of UE8M0 or E4M3 scales, None for others."""
    tensor: Tensor | None = None
    """The FP32 scale of the whole tensor, beside E4M3 block scales: value = number of the code x this."""


def scales_of(amax: Tensor, quant: Quant, constant: float | None = None) -> Scales:
    """Scales of all blocks of one tensor from their largest magnitudes (float32, any shape).

    A static scale is the *constant* instead; UsageError without one.
    """
    element, finite = ELEMENTS[quant.element], amax.isfinite()
    if quant.static:
        if constant is None:
            raise UsageError("A static scale needs its constant; see `static_scale` and `precision.calibrate`.")
        values = torch.where(finite, constant, float("nan"))
        return Scales(values, encode_ue8m0(values) if quant.scale == "ue8m0" else None)
    if quant.scale == "e4m3":
        return _two_levels(amax, element, quant.amax_floor)
    if quant.scale == "unit":
        return Scales(torch.where(finite, 1.0, float("nan")), None)
    values = scale_of(amax, element, quant.rounding, quant.amax_floor)
    return Scales(values, encode_ue8m0(values) if quant.scale == "ue8m0" else None)


def static_scale(amax: float, quant: Quant) -> float:
    """The constant scale that a calibrated amax makes; UsageError for kinds of scale that are no number a layer."""
    if quant.scale not in ("fp32", "ue8m0"):
        raise UsageError(f"Static scales are fp32 or ue8m0, not '{quant.scale}'.")
    return float(scale_of(torch.tensor(amax), ELEMENTS[quant.element], quant.rounding, quant.amax_floor))


def may_clip(quant: Quant) -> bool:
    """Whether an element divided by its scale can exceed the largest number of the format."""
    return quant.static or quant.scale in ("e4m3", "unit") or quant.rounding not in NEVER_CLIPS


def _two_levels(amax: Tensor, element: Element, amax_floor: float) -> Scales:
    """NVFP4: tensor scale a / (448 M), block scale RNE_E4M3(a_block / M / tensor scale), not below 2^-6 (torchao)."""
    e4m3, finite = ELEMENTS["e4m3"], amax.isfinite()
    largest = torch.where(finite, amax, 0.0).amax() if amax.numel() else amax.new_zeros(())
    tensor = (largest.clamp_min(amax_floor) / (e4m3.max * element.target)).clamp_min(SMALLEST)
    block = e4m3.round((amax / element.target / tensor).clamp(2.0**-6, e4m3.max))
    block = torch.where(finite, block, float("nan"))
    return Scales(block * tensor, e4m3.encode(block), tensor)


def scale_of(amax: Tensor, element: Element, rule: str, amax_floor: float) -> Tensor:
    """Scales of blocks.

    Args:
        amax: float32 of any shape, the largest magnitude of each block; NaN or Inf where the block holds one.
        element: number format of the elements.
        rule: one of `RULES`; `none` gives FP32 scales, all others powers of two.
        amax_floor: smaller amax count as this.

    Returns:
        float32, same shape: a finite normal number > 0, or NaN where amax is not finite.
    """
    a = amax.clamp_min(amax_floor)
    if rule == "none":
        scale = (a / element.target).clamp_min(SMALLEST)
    elif rule == "ceil":
        scale = _power(*_split(a / element.target), up=True)
    elif rule == "ceil-element":
        scale = _power(*_split(a), up=True, shift=-element.emax)
    elif rule in ("floor", "floor-x2"):
        scale = _power(*_split(a), shift=-element.emax + (rule == "floor-x2"))
    elif rule == "even":
        # Half an ulp of the element's mantissa; a carry goes into the exponent, as it should.
        half = 1 << (22 - element.mantissa_bits)
        scale = _power(*_split((a.view(torch.int32) + half).view(torch.float32)), shift=-element.emax)
    else:
        raise UsageError(f"Unknown scale rounding '{rule}'.{did_you_mean(rule, RULES)}")
    return torch.where(amax.isfinite(), scale, float("nan"))


def _split(v: Tensor) -> tuple[Tensor, Tensor]:
    """Biased exponent (0 to 255) and mantissa bits of positive float32 numbers, both int32."""
    bits = v.view(torch.int32)
    return bits >> 23, bits & 0x7FFFFF


def _power(exponent: Tensor, mantissa: Tensor, *, up: bool = False, shift: int = 0) -> Tensor:
    """The power of two at or below (*up*: at or above) a number, times 2^shift, held in the normal range."""
    biased = exponent + shift
    if up:
        biased = biased + (mantissa != 0).int()
    return (biased.clamp(1, 254) << 23).view(torch.float32)


def encode_ue8m0(scale: Tensor) -> Tensor:
    """uint8 codes of float32 powers of two, same shape; NaN becomes 255."""
    return (scale.view(torch.int32) >> 23 & 0xFF).to(torch.uint8)


def decode_ue8m0(codes: Tensor) -> Tensor:
    """float32 scales of uint8 codes, same shape: 2^(code - 127); 0 is the subnormal 2^-127, 255 is NaN."""
    bits = codes.int() << 23
    bits = torch.where(codes == 0, 1 << 22, bits)
    return torch.where(codes == 255, float("nan"), bits.view(torch.float32))


def is_power_of_two(scale: Tensor) -> Tensor:
    """bool, same shape: whether a float32 scale could be written as UE8M0 without loss (codes 1 to 254)."""
    exponent, mantissa = _split(scale)
    return (mantissa == 0) & (exponent > 0) & (exponent < 255)
