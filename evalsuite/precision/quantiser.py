"""Quantise activations on a device: the golden codes of `formats`, in the layout that kernels want, in one kernel.

The arithmetic is that of `formats.quantize` and is written once, in `quantise`; on an accelerator it goes through
`torch.compile`, which fuses padding, amax, scale, division and cast into one or two passes over memory. Two things make
a compiled quantiser give other codes than the specification: Triton's `/` is approximate (one ulp at amax = 448 * 2^k
doubles the scale), so inductor is told to round divisions as IEEE says, and flush-to-zero, told off likewise.

Told is not known: `Quantiser` compares a compiled kernel with `formats` on blocks that sit on every boundary, bit for
bit, before it uses it. A kernel that differs is not used, and `kind` says so.
"""

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from evalsuite.precision.elements import ELEMENTS
from evalsuite.precision.formats import quantize_as
from evalsuite.precision.scales import scale_of
from evalsuite.records import Quant

IEEE = {"eager_numerics.division_rounding": True, "eager_numerics.disable_ftz": True}
"""Options of inductor; those that an older torch does not have are left out."""


class Blocks(NamedTuple):
    """Quantised activations."""

    codes: Tensor
    """float8_e4m3fn (M, K)."""
    scales: Tensor
    """float32 (M, K blocks), column-major; (1, 1) where the whole tensor shares a scale."""


def quantise(x: Tensor, quant: Quant, rows: int = 1, columns: int = 1) -> Blocks:
    """Quantise activations to E4M3.

    Args:
        x: BF16 (M, K).
        quant: E4M3 elements, FP32 or UE8M0 scales, block (1, n), (1, -1) or (-1, -1).
        rows: M is padded with zeros to a multiple of this.
        columns: the same for K.
    """
    return Blocks(*_quantise(x, _sizes(quant, rows, columns), quant.rounding, quant.amax_floor))


def _sizes(quant: Quant, rows: int, columns: int) -> str:
    """Width of a block (-1: a row, 0: the whole tensor) and the multiples of M and K, as text: a compiler makes a
    variable of every number that it is handed, and a reduction over a variable is slower than one over 128."""
    return f"{0 if quant.block[0] == -1 else quant.block[1]} {rows} {columns}"


def _quantise(x: Tensor, sizes: str, rule: str, amax_floor: float) -> tuple[Tensor, Tensor]:
    """`quantise` over plain values, so that it compiles to one graph for all numbers of tokens."""
    width, rows, columns = (int(part) for part in sizes.split())
    v = F.pad(x.float(), (0, -x.shape[1] % columns, 0, -x.shape[0] % rows))
    m, k = v.shape
    if width == 0:
        v = v.reshape(1, 1, -1)
    elif width == -1:
        v = v.unsqueeze(1)
    else:
        v = F.pad(v, (0, -k % width)).reshape(m, -(-k // width), width)
    element = ELEMENTS["e4m3"]
    scale = scale_of(v.abs().amax(-1), element, rule, amax_floor)
    q = (v / scale.unsqueeze(-1)).clamp(-element.max, element.max)
    # A cast decides nothing here but rounding to nearest even: |q| <= 448, and NaN gets its one code.
    codes = torch.where(q.isnan(), 0x7F, q.to(torch.float8_e4m3fn).view(torch.uint8))
    codes = codes.view(m, k) if width == 0 else codes.flatten(1)[:, :k]
    return codes.contiguous().view(torch.float8_e4m3fn), scale.t().contiguous().t()


def boundaries(quant: Quant) -> Tensor:
    """BF16 blocks on which a quantiser is likely to err, (rows, 2 blocks): powers of two, 448 * 2^k and its neighbours,
    the amax floor, ties and subnormals of E4M3, zero, NaN, Inf, and random ones."""
    width = 2 * (128 if quant.block[1] == -1 else quant.block[1])
    generator = torch.Generator().manual_seed(0)
    tops = torch.tensor([2.0**k * m for k in range(-20, 20, 3) for m in (1.0, 1.7421875, 1.75, 1.7578125, 1.9921875)])
    tops = torch.cat([tops, torch.tensor([0.0, 1e-4, 9.9e-5, 1e-30, 3e38, torch.nan, torch.inf, -torch.inf])])
    x = torch.rand(len(tops), width, generator=generator) * 2 - 1
    x[:, 1::4] = torch.exp2(torch.randint(-20, 0, x[:, 1::4].shape, generator=generator).float())
    # A top that is not finite stands alone in its block; all others stand among numbers of their own size.
    x = (x * tops.unsqueeze(1)).nan_to_num(0.0, 0.0, 0.0)
    x[:, 0] = tops
    # One NaN would hide everything else where the whole tensor shares a scale.
    return (x[tops.isfinite()] if quant.block[0] == -1 else x).bfloat16()


def differing(made: Blocks, x: Tensor, quant: Quant) -> tuple[int, int]:
    """(codes, scales) in which *made* differs from what `formats` makes of *x*, bit for bit. NaN equals NaN."""
    expected = quantize_as(x.cpu(), quant)
    codes = made.codes.view(torch.uint8).cpu()[: x.shape[0], : x.shape[1]]
    scales = made.scales.cpu()[: expected.scales.shape[0], : expected.scales.shape[1]]
    same = (scales == expected.scales) | (scales.isnan() & expected.scales.isnan())
    return int((codes != expected.codes).sum()), int((~same).sum())


class Quantiser:
    """`quantise` on one device: compiled where that gives the very same bits, else eager."""

    def __init__(self, device: torch.device, *, compiled: bool) -> None:
        self._device = device
        self._wanted = compiled
        self._made: dict[Quant, tuple[Callable[..., tuple[Tensor, Tensor]], str]] = {}

    def __call__(self, x: Tensor, quant: Quant, rows: int = 1, columns: int = 1) -> Blocks:
        """See `quantise`."""
        return Blocks(*self._for(quant)[0](x, _sizes(quant, rows, columns), quant.rounding, quant.amax_floor))

    def kind(self, quant: Quant) -> str:
        """`compiled`, `eager`, or `eager` with the reason why a compiled kernel is not used."""
        return self._for(quant)[1]

    def _for(self, quant: Quant) -> tuple[Callable[..., tuple[Tensor, Tensor]], str]:
        if quant not in self._made:
            self._made[quant] = self._checked(quant) if self._wanted else (_quantise, "eager")
        return self._made[quant]

    @cached_property
    def _compiled(self) -> Callable[..., tuple[Tensor, Tensor]]:
        import torch._inductor.config as settings

        known = {name: on for name, on in IEEE.items() if hasattr(settings.eager_numerics, name.rpartition(".")[2])}
        compiled = torch.compile(_quantise, options={**known})

        def run(x: Tensor, sizes: str, rule: str, amax_floor: float) -> tuple[Tensor, Tensor]:
            torch._dynamo.maybe_mark_dynamic(x, 0)  # one graph for all numbers of tokens, or nearly
            return compiled(x, sizes, rule, amax_floor)

        return run

    def _checked(self, quant: Quant) -> tuple[Callable[..., tuple[Tensor, Tensor]], str]:
        x = boundaries(quant).to(self._device)
        arguments = (_sizes(quant, 4, 16), quant.rounding, quant.amax_floor)
        try:
            made = Blocks(*self._compiled(x, *arguments))
        except (RuntimeError, AttributeError, ValueError, TypeError, ImportError, OSError) as error:
            return _quantise, f"eager (compiling failed: {str(error).splitlines()[0]})"
        codes, scales = differing(made, x, quant)
        if codes or scales:
            return _quantise, f"eager (the compiled kernel gave {codes} other codes and {scales} other scales)"
        return self._compiled, "compiled"
