"""Which fault explains these numbers? Hypotheses about quantisers and kernels, tried one by one on what was seen.

Real faults of FP8 stacks leave a trace that can be computed: scales rounded after the codes were made, a transposed
grid of scales, another rounding rule, a scale one binade off, codes of another format, padding that is not zero. Each
is a hypothesis here: what codes and scales (`of_operand`), or what product (`of_product`), the fault would give. The
one that gives exactly what was seen is named; where nothing does, the answer is `unexplained`, with the counts.

    none                    the specification's own bits
    reciprocal              v * (1/s) in place of v / s: other codes at ties, harmless, FP32 scales only
    fp32-scales             FP32 scales in a UE8M0 arm
    ue8m0-scales            UE8M0 scales in an FP32 arm: both arms are then the same arm
    scales-rounded-after    codes were made with FP32 scales, which were rounded (or cut) to powers of two afterwards
    rule-RULE               scales by another rule of `scales.py`, e.g. rule-floor where ceil was asked for
    transposed-grid         the scales of another block: the grid was read or written transposed
    wrong-stride            scales read with another stride than they were written with
    binade                  all scales (or the product) off by a factor of two
    wrong-format            codes written or read as E4M3FNUZ, or as E5M2
    no-scales               the product of the codes alone
    padding                 rows or columns of padding that are not zero, or the last rows of a product that are wrong
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from evalsuite.precision.elements import ELEMENTS
from evalsuite.precision.formats import quantize_as
from evalsuite.precision.packing import Operand, Scheme, numbers_of, reference_product, scale_map, sqnr_db
from evalsuite.precision.scales import RULES
from evalsuite.records import Quant

NEAR_DB = 45.0
"""A product is explained by a hypothesis that it is as near to: BF16 output and a chip's own sums leave 50 and more."""
HARMLESS = ("none", "reciprocal")
"""Answers that are no fault."""


class Bits(NamedTuple):
    """Codes of a matrix and the scale of each of its elements."""

    codes: Tensor
    """uint8 (rows, K)."""
    scales: Tensor
    """float32 (rows, K)."""

    def differing(self, other: "Bits") -> tuple[int, int]:
        """(codes, elements with another scale); NaN equals NaN."""
        same = (self.scales == other.scales) | (self.scales.isnan() & other.scales.isnan())
        return int((self.codes != other.codes).sum()), int((~same).sum())


@dataclass(frozen=True)
class Diagnosis:
    """What explains one operand or one product."""

    fault: str
    """A name of the module's table, or `unexplained`."""
    also: tuple[str, ...] = ()
    """Others that explain it as well: the data do not tell them apart."""
    codes: int = 0
    """Codes that differ from the specification's."""
    scales: int = 0
    """Elements whose scale differs from the specification's."""
    sqnr_db: float | None = None
    """Of a product, against the FP32 product of its operands."""

    @property
    def harmless(self) -> bool:
        """Whether nothing is wrong."""
        return self.fault in HARMLESS


def expected_bits(x: Tensor, quant: Quant) -> Bits:
    """What the specification makes of a matrix."""
    q = quantize_as(x, quant)
    return Bits(q.codes, _map(q.scales, quant, q.codes.shape))


def of_operand(seen: Operand, scheme: Scheme, x: Tensor, quant: Quant, *, weight: bool = False) -> Diagnosis:
    """Explain an operand that was made from *x* (rows, K), as the kernel would read it."""
    rows, k = x.shape
    bits = Bits(seen.bits.cpu(), scale_map(seen, scheme, weight=weight).cpu())
    if bits.codes[rows:].any() or bits.codes[:, k:].any():
        return Diagnosis("padding")
    return of_bits(Bits(bits.codes[:rows, :k], bits.scales[:rows, :k]), x.cpu(), quant)


def of_bits(seen: Bits, x: Tensor, quant: Quant) -> Diagnosis:
    """Explain codes and scales that were made from *x* (rows, K)."""
    right = expected_bits(x, quant)
    codes, scales = seen.differing(right)
    if not codes and not scales:
        return Diagnosis("none")
    names = [name for name, bits in _hypotheses(x, quant, right) if seen.differing(bits) == (0, 0)]
    names = list(dict.fromkeys(names)) or ["unexplained"]
    return Diagnosis(names[0], tuple(names[1:]), codes, scales)


def _hypotheses(x: Tensor, quant: Quant, right: Bits) -> Iterator[tuple[str, Bits]]:
    fp32 = expected_bits(x, quant.model_copy(update={"scale": "fp32", "rounding": "none"}))
    fmt, v = ELEMENTS[quant.element], x.float()

    def coded(q: Tensor) -> Tensor:
        return fmt.encode(fmt.round(q.clamp(-fmt.max, fmt.max)))

    yield "reciprocal", Bits(coded(v * (1 / right.scales)), right.scales)
    if quant.scale == "ue8m0":
        yield "fp32-scales", fp32
        yield "scales-rounded-after", Bits(fp32.codes, right.scales)
        cut = (fp32.scales.view(torch.int32) >> 23 << 23).view(torch.float32)
        yield "scales-rounded-after", Bits(fp32.codes, cut)
        yield "scales-rounded-after", Bits(fp32.codes, fp32.scales.to(torch.float8_e8m0fnu).float())
    rules = [rule for rule in RULES[1:] if rule != quant.rounding]
    for rule in rules:
        name = "ue8m0-scales" if quant.scale == "fp32" and rule == "ceil" else f"rule-{rule}"
        yield name, expected_bits(x, quant.model_copy(update={"scale": "ue8m0", "rounding": rule}))
    yield from (("transposed-grid", Bits(right.codes, scales)) for scales in _transposed(right.scales, quant))
    for factor in (2.0, 0.5):
        yield "binade", Bits(right.codes, right.scales * factor)
        yield "binade", Bits(coded(v / (right.scales * factor)), right.scales * factor)
    for element in ("e4m3fnuz", "e5m2"):
        other = ELEMENTS[element]
        yield "wrong-format", expected_bits(x, quant.model_copy(update={"element": element}))
        q = (v / right.scales).clamp(-other.max, other.max)
        yield "wrong-format", Bits(other.encode(other.round(q)), right.scales)
        numbers = other.round(fmt.table[right.codes.int()].clamp(-other.max, other.max))
        yield "wrong-format", Bits(other.encode(numbers), right.scales)


def _sizes(quant: Quant, shape: tuple[int, ...]) -> tuple[int, int]:
    rows, columns = quant.block
    return (shape[0] if rows == -1 else rows), (shape[1] if columns == -1 else columns)


def _map(grid: Tensor, quant: Quant, shape: tuple[int, ...]) -> Tensor:
    """One scale a block -> one an element."""
    rows, columns = _sizes(quant, shape)
    return grid.repeat_interleave(rows, 0).repeat_interleave(columns, 1)[: shape[0], : shape[1]]


def _transposed(scales: Tensor, quant: Quant) -> Iterator[Tensor]:
    """Scale maps in which the grid was transposed, or its memory read in the other order."""
    rows, columns = _sizes(quant, scales.shape)
    grid = scales[::rows, ::columns]
    if min(grid.shape) > 1:
        yield _map(grid.t().reshape(grid.shape), quant, scales.shape)
        yield _map(grid.reshape(grid.shape[::-1]).t(), quant, scales.shape)


def of_product(product: Tensor, a: Operand, b: Operand, scheme: Scheme, bias: Tensor | None = None) -> Diagnosis:
    """Explain a kernel's product (M, N) of two operands; their own faults do not count here."""
    rows, size = product.shape
    seen = product.float().cpu()
    a, b = (Operand(*(part.cpu() for part in operand)) for operand in (a, b))
    add = torch.zeros(size) if bias is None else bias.float().cpu()[:size]
    right = reference_product(a, b, scheme)[:rows, :size]
    clean = sqnr_db(seen, right + add)
    if clean >= NEAR_DB:
        return Diagnosis("none", sqnr_db=clean)
    found = []
    for name, guess in _products(a, b, scheme, right):
        near = sqnr_db(seen, guess[:rows, :size] + add)
        found += [(near, name)] if near >= NEAR_DB else []
    good = rows - (rows % scheme.rows or scheme.rows)
    if 0 < good < rows and sqnr_db(seen[:good], (right + add)[:good]) >= NEAR_DB:
        found.append((NEAR_DB, "padding"))
    names = list(dict.fromkeys(name for _, name in sorted(found, reverse=True))) or ["unexplained"]
    return Diagnosis(names[0], tuple(names[1:]), sqnr_db=clean)


def _products(a: Operand, b: Operand, scheme: Scheme, right: Tensor) -> Iterator[tuple[str, Tensor]]:
    left, maps = numbers_of(a), (scale_map(a, scheme, weight=False), scale_map(b, scheme, weight=True))
    numbers = numbers_of(b)
    for factor in (2.0, 0.5):
        yield "binade", right * factor
    fnuz = [numbers_of(operand, "e4m3fnuz").nan_to_num(0.0) for operand in (a, b)]
    yield "wrong-format", F.linear(fnuz[0] * maps[0], fnuz[1] * maps[1])
    yield "wrong-format", F.linear(fnuz[0] * maps[0], numbers * maps[1])
    yield "no-scales", F.linear(left, numbers)
    if scheme.name != "block":
        return
    grid, tall = b.packed.t()[:, : b.codes.shape[1] // 128], b.packed.t().flatten()
    block = Quant(element="e4m3", scale="fp32", rounding="none", block=(128, 128))
    if min(grid.shape) > 1:
        for other in (grid.t().reshape(grid.shape), grid.reshape(grid.shape[::-1]).t()):
            yield "transposed-grid", F.linear(left * maps[0], numbers * _map(other, block, b.codes.shape))
        if b.packed.shape[0] != grid.shape[1]:
            dense = tall[: grid.numel()].view(grid.shape)
            yield "wrong-stride", F.linear(left * maps[0], numbers * _map(dense, block, b.codes.shape))
    rows = a.packed.t().flatten().view(a.packed.shape).repeat_interleave(128, 1)
    yield "wrong-stride", F.linear(left * rows, numbers * maps[1])
