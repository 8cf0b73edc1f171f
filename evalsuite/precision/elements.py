"""Number formats of elements: from FP32 values to 8-bit codes and back.

An element format is a finite set of numbers, each with a code of at most 8 bits. Every format here does three things:

    round(v)    FP32 values, already divided by their scale and clamped to +-max -> the nearest number of the format,
                still FP32. Nearest, ties to even (HiF8: ties away from zero). This is all that emulation needs.
    encode(r)   numbers of the format -> their codes (uint8). NaN gets the format's NaN code, or 0 where it has none.
    table       code -> FP32 number, the inverse. Codes beyond the format (FP4, FP6) do not occur.

Why no cast such as `.to(torch.float8_e4m3fn)`: what a cast does beyond the largest number changed between torch 2.11
(NaN) and 2.12 (saturates), it differs between CPU and GPU for NaN, and half of the formats have no torch dtype. The
integer and FP32 arithmetic below is the same on every device and version; the tests compare it with the casts.

How `Minifloat.round` works. Adding m = 1.5 * 2^(E + 23 - mantissa bits) to a value of exponent E pushes the bits that
the format lacks out of the FP32 significand; the addition itself rounds to nearest, ties to even; subtracting m
brings the rounded value back. With E held at the smallest normal exponent the same step makes the subnormals. The
sum loses the sign of a zero, which is put back.

Sources: OCP OFP8 and MX v1.0 (E4M3, E5M2, E2M1, E2M3, E3M2, E8M0); ONNX float8 page (FNUZ); arXiv 2409.16626 (HiF8).
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

NAN = float("nan")
EXPONENT_BITS = torch.tensor(0x7F800000, dtype=torch.int32)
"""Of FP32. A tensor of no dimensions, because a Python number costs an operator 2 to 3 microseconds more."""


class Element(Protocol):
    """What every element format offers; see the module docstring."""

    @property
    def max(self) -> float:
        """Largest finite number."""
        ...

    @property
    def target(self) -> float:
        """The number that a block's largest element is scaled to: `max`, except for HiF8."""
        ...

    @property
    def emax(self) -> int:
        """Exponent of `target`: that of the largest power of two in the format, except for HiF8."""
        ...

    @property
    def mantissa_bits(self) -> int:
        """Explicit mantissa bits of numbers of that exponent (scale rule `even` rounds amax to them)."""
        ...

    @property
    def table(self) -> Tensor:
        """float32 of shape (256,): code -> number; NaN where the code is NaN or unused."""
        ...

    def round(self, v: Tensor) -> Tensor:
        """float32 of any shape, |v| <= max or NaN -> nearest numbers of the format, float32, same shape."""
        ...

    def encode(self, r: Tensor) -> Tensor:
        """float32 numbers of the format -> uint8 codes, same shape."""
        ...


@dataclass(frozen=True)
class Minifloat:
    """A small IEEE-like float: sign, exponent, mantissa, subnormals, and its own idea of specials."""

    exponent_bits: int
    mantissa_bits: int
    bias: int
    max: float
    nan_codes: tuple[int, ...] = ()
    """All NaN codes; the first is the one that `encode` writes."""
    inf_code: int | None = None
    """Code of +Inf (the sign bit added gives -Inf); `encode` never writes it, values are clamped first."""
    negative_zero: bool = True

    @property
    def target(self) -> float:
        """The number that a block's largest element is scaled to."""
        return self.max

    @property
    def emax(self) -> int:
        """Exponent of the largest power of two in the format."""
        return math.frexp(self.max)[1] - 1

    @cached_property
    def table(self) -> Tensor:
        """Code -> number, from the definition: (-1)^s 2^(e-bias) (1 + f), and 2^(1-bias) f where e = 0."""
        sign_bit = 1 << (self.exponent_bits + self.mantissa_bits)
        values = torch.full((256,), NAN)
        for code in range(2 * sign_bit):
            magnitude = code & (sign_bit - 1)
            e, f = magnitude >> self.mantissa_bits, (magnitude % 2**self.mantissa_bits) / 2**self.mantissa_bits
            value = 2.0 ** (e - self.bias) * (1 + f) if e else 2.0 ** (1 - self.bias) * f
            if magnitude == self.inf_code:
                value = math.inf
            values[code] = NAN if code in self.nan_codes else math.copysign(value, -1 if code & sign_bit else 1)
        return values

    def round(self, v: Tensor) -> Tensor:
        """Nearest numbers of the format, ties to even; NaN stays NaN. Six passes over memory."""
        factor = 1.5 * 2.0 ** (23 - self.mantissa_bits)
        power = v.view(torch.int32).bitwise_and(EXPONENT_BITS).view(torch.float32)
        m = power.mul_(factor).clamp_min_(factor * 2.0 ** (1 - self.bias))
        rounded = (v + m).sub_(m)
        # Formats without a negative zero keep the +0 that x - x gives.
        return rounded.copysign_(v) if self.negative_zero else rounded

    def encode(self, r: Tensor) -> Tensor:
        """Numbers of the format -> codes, by moving the bits of the FP32 pattern."""
        bits = r.view(torch.int32) & 0x7FFFFFFF
        shift, smallest_normal = 23 - self.mantissa_bits, 2.0 ** (1 - self.bias)
        normal = (bits >> shift) - ((127 - self.bias) << self.mantissa_bits)
        subnormal = (r.abs() * (2.0**self.mantissa_bits / smallest_normal)).nan_to_num(0.0).int()
        codes = torch.where(r.abs() < smallest_normal, subnormal, normal)
        codes |= torch.signbit(r).int() << (self.exponent_bits + self.mantissa_bits)
        return torch.where(r.isnan(), self.nan_codes[0] if self.nan_codes else 0, codes).to(torch.uint8)


@dataclass(frozen=True)
class HiF8:
    """Huawei's HiFloat8: a prefix-coded exponent, so precision tapers from 3 mantissa bits near 1 to 1 far away.

    Rounds half away from zero. Its largest number is 32768, but near it there is one mantissa bit, so tensors are
    scaled to 15, the last number with three (public Ascend training and quantisation code does the same).
    """

    max: float = 32768.0
    target: float = 15.0
    emax: int = 3
    mantissa_bits: int = 3

    @cached_property
    def table(self) -> Tensor:
        """Code -> number; 0x80 is NaN, 0x6F and 0xEF are the infinities."""
        values = [self._decode(code) for code in range(128)]
        negatives = [NAN] + [-value for value in values[1:]]
        return torch.tensor(values + negatives)

    @staticmethod
    def _decode(code: int) -> float:
        """The non-negative codes. The prefix gives D, the number of exponent bits; the rest is mantissa."""
        if code == 0x6F:
            return math.inf
        if code < 8:
            return 2.0 ** (code - 23) if code else 0.0
        d, left = next((d, left) for d, left in ((4, 5), (3, 5), (2, 5), (1, 4), (0, 3)) if code >> left == _PREFIX[d])
        rest, mantissa_bits = code & ((1 << left) - 1), left - d
        e_field, m = rest >> mantissa_bits, rest & ((1 << mantissa_bits) - 1)
        exponent = 0
        if d:
            negative, magnitude = e_field >> (d - 1), (e_field & ((1 << (d - 1)) - 1)) | (1 << (d - 1))
            exponent = -magnitude if negative else magnitude
        return math.ldexp(1 + m / 2**mantissa_bits, exponent)

    @cached_property
    def _ordered(self) -> tuple[Tensor, Tensor, Tensor]:
        """(finite magnitudes ascending, their codes, the halfway points between neighbours)."""
        finite = self.table[:128].clone()
        finite[0x6F] = NAN
        values, codes = finite[~finite.isnan()].sort()
        codes = torch.nonzero(~finite.isnan()).flatten()[codes]
        return values, codes, (values[1:] + values[:-1]) / 2

    def _index(self, v: Tensor) -> Tensor:
        # right=True puts a value that is exactly half way into the upper bucket: half away from zero.
        return torch.bucketize(v.abs(), self._ordered[2].to(v.device), right=True)

    def round(self, v: Tensor) -> Tensor:
        """Nearest numbers of the format, ties away from zero; NaN stays NaN, zero is +0."""
        rounded = self._ordered[0].to(v.device)[self._index(v)]
        return torch.where(v.isnan(), NAN, torch.where(v < 0, -rounded, rounded) + 0.0)

    def encode(self, r: Tensor) -> Tensor:
        """Numbers of the format -> codes."""
        codes = self._ordered[1].to(r.device)[self._index(r)] | (r < 0).long() << 7
        return torch.where(r.isnan(), 0x80, codes).to(torch.uint8)


_PREFIX = {4: 0b11, 3: 0b10, 2: 0b01, 1: 0b001, 0: 0b0001}


@dataclass(frozen=True)
class Int8:
    """Symmetric 8-bit integers -127..127 in two's complement; -128 is never written. Ties to even."""

    max: float = 127.0
    target: float = 127.0
    emax: int = 6
    mantissa_bits: int = 6

    @cached_property
    def table(self) -> Tensor:
        """Code -> number."""
        return torch.arange(256, dtype=torch.uint8).view(torch.int8).float()

    def round(self, v: Tensor) -> Tensor:
        """Nearest integers; NaN stays NaN, zero is +0."""
        return v.round() + 0.0

    def encode(self, r: Tensor) -> Tensor:
        """Integers -> two's complement; NaN has no code here and becomes 0."""
        return r.nan_to_num(0.0).to(torch.int8).view(torch.uint8)


ELEMENTS: dict[str, Element] = {
    "e4m3": Minifloat(4, 3, 7, 448.0, nan_codes=(0x7F, 0xFF)),
    "e5m2": Minifloat(5, 2, 15, 57344.0, nan_codes=(0x7F, 0x7D, 0x7E, 0xFD, 0xFE, 0xFF), inf_code=0x7C),
    "e4m3fnuz": Minifloat(4, 3, 8, 240.0, nan_codes=(0x80,), negative_zero=False),
    "e2m1": Minifloat(2, 1, 1, 6.0),
    "e2m3": Minifloat(2, 3, 1, 7.5),
    "e3m2": Minifloat(3, 2, 3, 28.0),
    "hif8": HiF8(),
    "int8": Int8(),
}
"""Every element format by its name in `Quant.element`."""
