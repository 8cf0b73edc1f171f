"""Faults planted in codes, scales and products are found and named."""

import pytest
import torch

from evalsuite.precision import RECIPES, formats
from evalsuite.precision.devices.reference import reference_kernel
from evalsuite.precision.diagnosis import Bits, expected_bits, of_bits, of_operand, of_product
from evalsuite.precision.elements import ELEMENTS
from evalsuite.precision.packing import SCHEMES, numbers_of, pack_activation, pack_weight, scale_map
from evalsuite.precision.quantiser import quantise

BLOCK = SCHEMES["block"]
A, W = RECIPES["fp8-ue8m0"].activations, RECIPES["fp8-ue8m0"].weights
A32 = RECIPES["fp8-e4m3"].activations
GENERATOR = torch.Generator().manual_seed(3)
X = (torch.randn(12, 640, generator=GENERATOR) * torch.logspace(-2, 2, 12)[:, None]).bfloat16()
# Blocks of different magnitude, so that a grid differs from its transpose.
SIZES = torch.logspace(-3, 1, 15).view(3, 5).repeat_interleave(128, 0).repeat_interleave(128, 1)
WEIGHT = (torch.randn(384, 640, generator=GENERATOR) * SIZES).bfloat16()


def coded(values: torch.Tensor, element: str = "e4m3") -> torch.Tensor:
    fmt = ELEMENTS[element]
    return fmt.encode(fmt.round(values.clamp(-fmt.max, fmt.max)))


def planted(fault: str) -> Bits:
    """What a quantiser with that fault makes of X."""
    right, fp32 = expected_bits(X, A), expected_bits(X, A32)
    down = torch.exp2(fp32.scales.log2().floor())
    return {
        "scales-rounded-after": Bits(fp32.codes, right.scales),
        "cut": Bits(fp32.codes, down),
        "rule-floor": expected_bits(X, A.model_copy(update={"rounding": "floor"})),
        "rule-even": expected_bits(X, A.model_copy(update={"rounding": "even"})),
        "rule-floor-x2": expected_bits(X, A.model_copy(update={"rounding": "floor-x2"})),
        "up": Bits(right.codes, right.scales * 2),
        "down": Bits(right.codes, right.scales / 2),
        "up, codes too": Bits(coded(X.float() / (2 * right.scales)), right.scales * 2),
        "fnuz": expected_bits(X, A.model_copy(update={"element": "e4m3fnuz"})),
        "fnuz codes of fn scales": Bits(coded(X.float() / right.scales, "e4m3fnuz"), right.scales),
        "e5m2": Bits(coded(X.float() / right.scales, "e5m2"), right.scales),
        "fp32-scales": fp32,
        "noise": Bits(right.codes ^ (torch.rand(right.codes.shape) < 0.1).to(torch.uint8), right.scales),
    }[fault]


@pytest.mark.parametrize(
    ("fault", "name"),
    [("scales-rounded-after", "scales-rounded-after"), ("cut", "scales-rounded-after"), ("rule-floor", "rule-floor"),
     ("rule-even", "rule-even"), ("rule-floor-x2", "rule-floor-x2"), ("up", "binade"), ("down", "binade"),
     ("up, codes too", "binade"), ("fnuz", "wrong-format"), ("fnuz codes of fn scales", "wrong-format"),
     ("e5m2", "wrong-format"), ("fp32-scales", "fp32-scales"), ("noise", "unexplained")],
)  # fmt: skip
def test_a_fault_of_the_quantiser_is_named(fault: str, name: str):
    seen = planted(fault)
    found = of_bits(seen, X, A)

    assert (found.fault, found.also) == (name, ())
    assert (found.codes, found.scales) == seen.differing(expected_bits(X, A)) != (0, 0)
    assert not found.harmless


def test_right_bits_have_no_fault():
    assert of_bits(expected_bits(X, A), X, A).fault == "none"
    assert of_operand(operand(), BLOCK, X, A).fault == "none"
    assert of_operand(weight(), BLOCK, WEIGHT, W, weight=True).fault == "none"


def test_power_of_two_scales_in_the_fp32_arm_are_named():
    assert of_bits(expected_bits(X, A), X, A32).fault == "ue8m0-scales"


def test_multiplying_by_the_reciprocal_is_named_and_harmless():
    x = torch.randn(512, 640, generator=torch.Generator().manual_seed(0)).bfloat16()
    right = expected_bits(x, A32)
    found = of_bits(Bits(coded(x.float() * (1 / right.scales)), right.scales), x, A32)

    assert (found.fault, found.scales, found.harmless) == ("reciprocal", 0, True)
    assert 0 < found.codes < 0.002 * x.numel()


def test_faults_that_the_data_cannot_tell_apart_are_all_named():
    x = torch.rand(2, 128, generator=torch.Generator().manual_seed(0)) * 200
    down = A.model_copy(update={"rounding": "floor"})
    for top, also in ((500.0, ()), (450.0, ("rule-even",))):
        x[:, 0] = torch.tensor([top, 300.0])  # in the second row all rules agree
        block = x.bfloat16()
        found = of_bits(expected_bits(block, down), block, A)

        assert (found.fault, found.also) == ("rule-floor", also)


def operand(x: torch.Tensor = X, rows: int = 4):
    return pack_activation(*quantise(x, A, rows, 128), BLOCK)


def weight():
    q = formats.quantize_as(WEIGHT, W)
    return pack_weight(q.codes.view(torch.float8_e4m3fn), q.scales, W, BLOCK)


def test_a_transposed_grid_of_weight_scales_is_named():
    right = weight()
    wrong = right.scales.t().contiguous().reshape(right.scales.shape)
    seen = pack_weight(right.codes, wrong, W, BLOCK)

    assert of_operand(seen, BLOCK, WEIGHT, W, weight=True).fault == "transposed-grid"


def test_garbage_in_the_padding_is_named():
    seen = operand(X[:9])
    assert of_operand(seen, BLOCK, X[:9], A).fault == "none"
    bits = seen.bits.clone()
    bits[10, 5] = 0x7E

    assert of_operand(seen._replace(codes=bits.view(torch.float8_e4m3fn)), BLOCK, X[:9], A).fault == "padding"


def product_of(fault: str) -> torch.Tensor:
    """What a kernel with that fault makes of right operands."""
    a, b = operand(), weight()
    left, maps = numbers_of(a), [scale_map(a, BLOCK, weight=False), scale_map(b, BLOCK, weight=True)]
    right = numbers_of(b)
    dense = b.packed.t().flatten()[:15].view(3, 5)
    swapped = b.packed.t()[:, :5].t().reshape(3, 5)
    if fault in ("stride", "transposed"):
        grid = dense if fault == "stride" else swapped
        maps[1] = grid.repeat_interleave(128, 0).repeat_interleave(128, 1)
    if fault == "row-major":
        maps[0] = a.packed.t().flatten().view(12, 5).repeat_interleave(128, 1)
    if fault == "no-scales":
        maps = [torch.ones(()), torch.ones(())]
    if fault == "fnuz":
        left, right = (numbers_of(o, "e4m3fnuz").nan_to_num(0.0) for o in (a, b))
    product = (left * maps[0]) @ (right * maps[1]).t()
    product = product * 2 if fault == "twice" else product
    if fault == "tail":
        product[8:] = torch.randn(4, 384)
    if fault == "noise":
        product = product * (1 + 0.1 * torch.randn(product.shape))
    return product.bfloat16()


@pytest.mark.parametrize(
    ("fault", "name"),
    [("", "none"), ("stride", "wrong-stride"), ("transposed", "transposed-grid"), ("row-major", "wrong-stride"),
     ("no-scales", "no-scales"), ("fnuz", "wrong-format"), ("twice", "binade"), ("tail", "padding"),
     ("noise", "unexplained")],
)  # fmt: skip
def test_a_fault_of_the_kernel_is_named(fault: str, name: str):
    found = of_product(product_of(fault), operand(), weight(), BLOCK)

    assert (found.fault, found.also) == (name, ())
    assert (found.sqnr_db > 50) == (name == "none")


def test_a_product_with_bias_is_no_fault():
    bias = torch.randn(384, generator=GENERATOR).bfloat16() * 100
    product = reference_kernel(operand(), weight(), BLOCK, bias)

    assert of_product(product, operand(), weight(), BLOCK, bias).fault == "none"
    assert of_product(product, operand(), weight(), BLOCK).fault == "unexplained"
