"""Quantise and dequantise activations fast: the same numbers as `formats`, without the codes.

Emulation needs dequantise(quantize(x)) for every input of every quantised layer, so this is the hot path. Where there
is a C++ compiler it is one compiled pass (`compiled.py`); else it is eager PyTorch in about twelve passes over memory
instead of twenty. Both are bit-equal to `formats` (tests compare all BF16 values). The eager form:

* amax is taken on the BF16 bit patterns as integers. Without the sign they are ordered like the numbers, Inf and NaN
  above all finite ones, and a 16-bit integer pass costs half of an FP32 one.
* An amax in BF16 is one of 32,768 patterns, so the scale is a table look-up. The table is made by `scales.scale_of`.
* The clamp is left out where the scale rule never clips: rounding alone brings max * (1 + 2^-24) back to max.
* Rounding is that of `elements`; 8-bit codes, and their slow decoding (4.4 ns an element in torch), never appear.

One thread of an AVX2 machine, 4096 x 256: 1.6 ns an element, against 6.7 to 7.1 for the textbook form through
`float8_e4m3fn`. Inputs of few rows are bound by the cost of calling an operator, hence the care about their number.
"""

import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from evalsuite.errors import CannotRunError
from evalsuite.precision.activity import Level, Seen, flags_of
from evalsuite.precision.compiled import Fast
from evalsuite.precision.elements import ELEMENTS
from evalsuite.precision.formats import ONE_ROUNDING, block_of, dequantize, quantize_as
from evalsuite.precision.scales import may_clip, scales_of
from evalsuite.records import Quant

MAGNITUDE_BITS = torch.tensor(0x7FFF, dtype=torch.int16)
"""Of BF16: all but the sign."""
SMALL = 2.0**-60
"""Dequantised numbers of blocks above this amax floor are far from BF16's subnormals."""
T = TypeVar("T")


class FakeQuant:
    """Called like a function: BF16 activations (..., K) -> float32 of the same shape, through codes and scales.

    `watch` does the same and says what happened to the elements. *constant*: the scale, where it is static.
    """

    def __init__(self, quant: Quant, device: torch.device, constant: float | None = None) -> None:
        self.quant = quant
        self.constant = constant
        self._element = ELEMENTS[quant.element]
        patterns = torch.arange(1 << 15, dtype=torch.int32, device=device).to(torch.int16).view(torch.bfloat16)
        # Bit pattern of a BF16 amax -> scale; NaN for Inf and NaN.
        self._scales = scales_of(patterns.float(), quant, constant).values
        self._limit = self._element.max * ONE_ROUNDING
        self.flags = flags_of(patterns.float(), self._scales, self._limit)
        self._clamps = may_clip(quant)
        rows, self._columns = block_of(quant)
        self._whole = (rows, self._columns) == (-1, -1)
        # E4M3 scales depend on the whole tensor, so no table holds them.
        self._tabled = (rows == 1 or self._whole) and quant.scale != "e4m3"
        by_row = self._tabled and not self._whole
        self._compiled = Fast.of(self._element, self._clamps, self._scales, self._columns) if by_row else None

    @property
    def exact_in_bf16(self) -> bool:
        """Whether results are BF16 numbers already: at most 8 significant bits times a power of two, not tiny."""
        return self.quant.scale == "unit" or (self.quant.scale == "ue8m0" and self.quant.amax_floor > SMALL)

    def __call__(self, x: Tensor) -> Tensor:
        """The numbers that the codes and scales of *x* stand for. An empty *x* stays empty."""
        return self.operand(x, torch.float32, "blocks", rounded=False)[0]

    def operand(self, x: Tensor, dtype: torch.dtype, level: Level, *, rounded: bool) -> tuple[Tensor, Seen]:
        """The same numbers in *dtype*, *rounded* to BF16 or not, and what became of blocks or of elements."""
        fast = self._compiled
        usable = fast is not None and level == "blocks" and x.dtype == torch.bfloat16 and x.numel() > 0
        if fast is not None and usable and fast.agrees(x.shape[-1], self._eager):
            values, amax = fast(x, dtype, rounded and not self.exact_in_bf16)
            return values, Seen(amax)
        values, seen = self.watch(x, level)
        return (values.bfloat16() if rounded and not self.exact_in_bf16 else values).to(dtype), seen

    def _eager(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the compiled kernel is held against."""
        values, seen = self.watch(x)
        assert seen.amax is not None
        return values, seen.amax

    def watch(self, x: Tensor, level: Level = "blocks") -> tuple[Tensor, Seen]:
        """The same numbers in float32 by eager PyTorch, and what became of blocks or of elements."""
        if not self._tabled or x.dtype != torch.bfloat16 or x.numel() == 0:
            q = quantize_as(x, self.quant, self.constant)
            return dequantize(q), Seen(None, counts=q.counts | {"blocks": q.scales.numel(), "elements": x.numel()})
        k = x.shape[-1]
        width = x.numel() if self._whole else k if self._columns == -1 else self._columns
        padding = 0 if self._whole else -k % width
        blocks = (F.pad(x, (0, padding)) if padding else x).reshape(-1, width)
        values, seen = self._blocks(blocks, level)
        if padding:
            return values.view(*x.shape[:-1], k + padding)[..., :k], seen
        return values.view(x.shape), seen

    def _blocks(self, x: Tensor, level: Level) -> tuple[Tensor, Seen]:
        """Rows of *x* are blocks; in place on one float32 copy where that is possible."""
        amax = x.view(torch.int16).bitwise_and(MAGNITUDE_BITS).amax(-1)
        scale = self._scales.index_select(0, amax.int()).unsqueeze_(1)
        v = x.float().div_(scale)
        clipped = (v.abs() > self._limit).sum() if level == "elements" else None
        if self._clamps:
            v.clamp_(-self._element.max, self._element.max)
        rounded = self._element.round(v)
        if clipped is None:
            return rounded.mul_(scale), Seen(amax)
        flushed = ((rounded == 0) & (x != 0)).sum()
        counts = torch.stack([torch.full_like(clipped, x.numel()), clipped, flushed])
        return rounded.mul_(scale), Seen(amax, counts)


class SharedInput(Generic[T]):
    """Remembers what the last input became, so that layers with the very same input (q, k, v; gate, up) convert once.

    Safe because a hit needs the same living tensor object (a weak reference, so a new tensor at an old address is
    not taken for it), the same storage address, and the same version, which every in-place operator raises. Tensors
    made under `torch.inference_mode` have no version: they are converted each time, so `torch.no_grad` is faster.
    """

    def __init__(self, convert: Callable[[Tensor], T]) -> None:
        self._convert = convert
        # One attribute, replaced whole: a second thread sees the old entry or the new one.
        self._entry: tuple[weakref.ref[Tensor], int, int, T] | None = None

    def __call__(self, x: Tensor) -> T:
        """The operand made from *x*, without gradient.

        Raises:
            CannotRunError: *x* is not BF16, so this is not the arithmetic that the recipe names.
        """
        if x.dtype != torch.bfloat16:
            raise CannotRunError(f"A layer got {x.dtype} where the recipe computes in bfloat16; disable autocast.")
        entry = self._entry
        versioned = not x.is_inference()
        if entry and versioned and entry[0]() is x and entry[1] == x.data_ptr() and entry[2] == x._version:
            return entry[3]
        with torch.no_grad():
            value = self._convert(x)
        self._entry = (weakref.ref(x), x.data_ptr(), x._version, value) if versioned else None
        return value

    def clear(self) -> None:
        """Forget the last input."""
        self._entry = None
