"""Memory packing of scaled kernels: what goes in comes out, padding is zero, and wrong strides are refused."""

import pytest
import torch
from torch.nn import functional as F

from evalsuite.precision import RECIPES
from evalsuite.precision.devices.torch_device import probe_problem, scaled_mm
from evalsuite.precision.formats import dequantize, quantize_as
from evalsuite.precision.packing import (
    SCHEMES,
    Operand,
    numbers_of,
    pack_activation,
    pack_weight,
    reference_product,
    round_up,
    scale_map,
    scheme_of,
    sqnr_db,
    swizzled,
    unswizzled,
)

CPU = torch.device("cpu")


def operands(recipe_id: str, m: int = 12, n: int = 384, k: int = 640) -> tuple[Operand, Operand, torch.Tensor]:
    """Activations, weight, and the exact product of what their codes and scales stand for."""
    recipe, scheme = RECIPES[recipe_id], scheme_of(RECIPES[recipe_id])
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(m, k, generator=generator).bfloat16()
    w = (torch.randn(n, k, generator=generator) * torch.logspace(-2, 2, k)).bfloat16()
    qx, qw = quantize_as(x, recipe.activations), quantize_as(w, recipe.weights)
    a = pack_activation(qx.codes.view(torch.float8_e4m3fn), qx.scales, scheme)
    b = pack_weight(qw.codes.view(torch.float8_e4m3fn), qw.scales, recipe.weights, scheme)
    return a, b, F.linear(dequantize(qx), dequantize(qw))


@pytest.mark.parametrize(
    ("recipe_id", "scheme"),
    [("fp8-e4m3", "block"), ("fp8-ue8m0", "block"), ("fp8-ue8m0-requant", "block"), ("fp8-e4m3-row", "row"),
     ("fp8-e4m3-tensor", "tensor"), ("mxfp8-rceil", "mx"), ("mxfp8-floor", "mx"), ("fp8-ue8m0-w128a32", "mx"),
     ("bf16", None), ("w8a16-e4m3", None), ("fp8-e5m2", None), ("int8-row", None), ("hif8", None), ("mxfp4", None),
     ("nvfp4", None)],
)  # fmt: skip
def test_each_recipe_has_the_kernel_that_multiplies_it_or_none(recipe_id: str, scheme: str | None):
    found = scheme_of(RECIPES[recipe_id])

    assert (found.name if found else None) == scheme


@pytest.mark.parametrize("recipe_id", ["fp8-e4m3", "fp8-ue8m0", "fp8-e4m3-row", "fp8-e4m3-tensor", "mxfp8-rceil",
                                       "fp8-ue8m0-w128a32"])  # fmt: skip
def test_the_product_read_from_packed_operands_is_that_of_the_dequantised_ones(recipe_id: str):
    a, b, exact = operands(recipe_id)
    product = reference_product(a, b, scheme_of(RECIPES[recipe_id]))

    assert sqnr_db(product, exact) > 120


def test_block_scales_have_the_strides_and_the_padding_that_torch_checks():
    a, b, _ = operands("fp8-e4m3")

    assert (a.packed.shape, a.packed.stride()) == ((12, 5), (1, 12))
    assert (b.packed.shape, b.packed.stride()) == ((8, 3), (1, 8))
    assert (b.packed[5:] == 0).all()
    assert torch.equal(b.packed[:5].t(), b.scales)


def test_scales_in_row_major_order_are_refused():
    a, b, _ = operands("fp8-e4m3")
    with pytest.raises(ValueError, match="column-major"):
        reference_product(a._replace(packed=a.packed.contiguous()), b, SCHEMES["block"])
    with pytest.raises(ValueError, match=r"must be \(8, 3\)"):
        reference_product(a, b._replace(packed=b.packed[:5]), SCHEMES["block"])


@pytest.mark.parametrize(("rows", "blocks"), [(1, 1), (128, 4), (130, 5), (300, 20)])
def test_swizzled_scales_are_those_of_torchs_own_reference(rows: int, blocks: int):
    from torchao.prototype.mx_formats.utils import to_blocked

    scales = torch.exp2(torch.randint(-20, 20, (rows, blocks), generator=torch.Generator().manual_seed(0)).float())
    codes = (scales.view(torch.int32) >> 23).to(torch.uint8)
    made = swizzled(scales)

    assert torch.equal(made.view(torch.uint8), to_blocked(codes))
    assert made.numel() == round_up(rows, 128) * round_up(blocks, 4)
    assert torch.equal(unswizzled(made, rows, blocks), scales)


def test_a_ue8m0_weight_in_128_blocks_becomes_an_mx_weight_without_loss():
    recipe = RECIPES["fp8-ue8m0-w128a32"]
    _, b, _ = operands(recipe.id)
    fine = scale_map(b, SCHEMES["mx"], weight=True)

    assert torch.equal(fine, b.scales.repeat_interleave(128, 0).repeat_interleave(128, 1))


@pytest.mark.parametrize("scheme", ["row", "tensor"])
def test_torchs_own_kernel_takes_the_operands_and_gives_the_reference_product(scheme: str):
    a, b, bias = probe_problem(SCHEMES[scheme], CPU)
    for add in (None, bias):
        found = sqnr_db(scaled_mm(a, b, SCHEMES[scheme], add), reference_product(a, b, SCHEMES[scheme], add))

        assert 50 < found < 60


def test_the_probe_shows_a_transposed_grid_and_a_missing_round_up():
    a, b, _ = probe_problem(SCHEMES["block"], CPU)
    right = reference_product(a, b, SCHEMES["block"])
    grid, dense = b.packed.t()[:, :5], b.packed.t().flatten()[:15].view(3, 5)
    for wrong in (grid.t().reshape(3, 5), dense):
        scales = wrong.repeat_interleave(128, 0).repeat_interleave(128, 1)
        product = F.linear(numbers_of(a) * scale_map(a, SCHEMES["block"], weight=False), numbers_of(b) * scales)

        assert sqnr_db(product, right) < 20


def test_sqnr_of_numbers_that_are_not_finite_is_the_worst():
    assert sqnr_db(torch.tensor([1.0, torch.nan]), torch.ones(2)) == float("-inf")
    assert sqnr_db(torch.ones(2), torch.ones(2)) == float("inf")
