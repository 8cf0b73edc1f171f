"""The activation quantiser of devices: the bits of `formats`, in the layout of kernels."""

import pytest
import torch
from test_precision_models import ALL_BF16

from evalsuite.precision import RECIPES, formats
from evalsuite.precision.quantiser import Blocks, Quantiser, boundaries, differing, quantise

CPU = torch.device("cpu")
RULES = ["fp8-e4m3", "fp8-ue8m0", "mxfp8-rceil", "mxfp8-floor", "mxfp8-even", "fp8-e4m3-row"]


@pytest.mark.parametrize("recipe_id", RULES)
def test_codes_and_scales_on_every_boundary_are_those_of_formats(recipe_id: str):
    quant = RECIPES[recipe_id].activations
    x = boundaries(quant)

    assert x.isnan().any()
    assert x.isinf().any()
    assert differing(quantise(x, quant), x, quant) == (0, 0)


@pytest.mark.parametrize("recipe_id", ["fp8-e4m3", "fp8-ue8m0"])
def test_codes_of_all_finite_bf16_values_are_those_of_formats(recipe_id: str):
    quant = RECIPES[recipe_id].activations
    x = ALL_BF16[ALL_BF16.isfinite()].sort().values.view(-1, 128)

    assert differing(quantise(x, quant), x, quant) == (0, 0)


@pytest.mark.parametrize(("rows", "k"), [(1, 128), (3, 640), (5, 200), (129, 96)])
@pytest.mark.parametrize("recipe_id", ["fp8-ue8m0", "fp8-e4m3-row", "fp8-e4m3-tensor"])
def test_padding_is_zero_and_changes_nothing_else(recipe_id: str, rows: int, k: int):
    quant = RECIPES[recipe_id].activations
    x = torch.randn(rows, k, generator=torch.Generator().manual_seed(rows)).bfloat16()
    made = quantise(x, quant, 4, 128)

    assert made.codes.shape == (-(-rows // 4) * 4, -(-k // 128) * 128)
    assert differing(made, x, quant) == (0, 0)
    bits = made.codes.view(torch.uint8)
    assert not bits[rows:].any()
    assert not bits[:, k:].any()
    assert made.scales.stride(0) == 1


def test_differing_counts_wrong_codes_and_scales():
    quant = RECIPES["fp8-ue8m0"].activations
    x = torch.randn(4, 256).bfloat16()
    made = quantise(x, quant)
    codes = made.codes.view(torch.uint8).clone()
    codes[0, :3] ^= 1
    scales = made.scales.clone()
    scales[1, 1] *= 2

    assert differing(Blocks(codes.view(torch.float8_e4m3fn), scales), x, quant) == (3, 1)


def test_a_compiled_kernel_with_other_bits_is_not_used(monkeypatch: pytest.MonkeyPatch):
    def compiled(x, sizes, rule, amax_floor):
        made = formats.quantize(x, scale="fp32", amax_floor=amax_floor)
        return made.codes.view(torch.float8_e4m3fn), made.scales * (1 + 2**-23)  # an approximate division

    quantiser = Quantiser(CPU, compiled=True)
    monkeypatch.setitem(vars(quantiser), "_compiled", compiled)
    quant = RECIPES["fp8-e4m3"].activations
    x = torch.randn(4, 128).bfloat16()

    assert "other codes and" in quantiser.kind(quant)
    assert differing(quantiser(x, quant), x, quant) == (0, 0)


def test_the_processor_does_not_compile():
    assert Quantiser(CPU, compiled=False).kind(RECIPES["fp8-e4m3"].activations) == "eager"


@pytest.mark.long
@pytest.mark.parametrize("recipe_id", ["fp8-e4m3", "fp8-ue8m0"])
def test_the_compiled_quantiser_gives_the_same_bits(recipe_id: str):
    """Most of a minute on one core; needs a C++ compiler."""
    quantiser, quant = Quantiser(CPU, compiled=True), RECIPES[recipe_id].activations
    assert quantiser.kind(quant) == "compiled"
    torch._dynamo.utils.counters.clear()
    for rows in (1, 3, 128, 2, 77):
        x = torch.randn(rows, 640).bfloat16()

        assert differing(quantiser(x, quant, 4, 128), x, quant) == (0, 0)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 3
