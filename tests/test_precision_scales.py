
import ml_dtypes
import numpy as np
import pytest
import torch
from test_precision_models import ALL_BF16, sha16, table_hash

from evalsuite.precision import formats
from evalsuite.precision.elements import ELEMENTS
from evalsuite.precision.recipes import RECIPES
from evalsuite.precision.scales import (
    RULES,
    decode_ue8m0,
    encode_ue8m0,
    is_power_of_two,
    scale_of,
    scales_of,
    static_scale,
)

E4M3 = ELEMENTS["e4m3"]
DETECTOR = {  # UE8M0 code for block amax 256, 300, 448, 450, 500: tells five "UE8M0" apart
    "ceil": [127, 127, 127, 128, 128],
    "floor": [127, 127, 127, 127, 127],
    "even": [127, 127, 127, 127, 128],
    "ceil-element": [127, 128, 128, 128, 128],
    "floor-x2": [128, 128, 128, 128, 128],
}


def test_decode_table_of_e8m0_has_its_golden_hash():
    assert table_hash(decode_ue8m0(torch.arange(256, dtype=torch.uint8))) == "2fb2732a95604377"


def test_all_256_codes_of_e8m0_decode_as_in_ml_dtypes():
    codes = np.arange(256, dtype=np.uint8)
    expected = codes.view(ml_dtypes.float8_e8m0fnu).astype(np.float32)

    assert np.array_equal(expected, decode_ue8m0(torch.from_numpy(codes)).numpy(), equal_nan=True)


def test_ue8m0_codes_of_all_finite_bf16_amax_have_their_golden_hash():
    amax = ALL_BF16[(ALL_BF16 >= 0) & ALL_BF16.isfinite()].float()
    codes = encode_ue8m0(scale_of(amax, E4M3, "ceil", 1e-4))

    assert len(codes) == 32641  # zero comes twice: -0 >= 0
    assert sha16(codes.numpy()) == "afbb760078a88f28"
    assert (int(codes.min()), int(codes.max())) == (105, 247)


@pytest.mark.parametrize(
    ("rule", "exponents"),
    [("ceil", [-22, -22, -8, 0, 0, 1, 1, 1, -7, -6, -6]), ("floor", [-22, -22, -8, 0, 0, 0, 0, 1, -7, -7, -6])],
)
def test_scale_exponents_of_the_golden_amax_values(rule, exponents):
    amax = torch.tensor([0, 1e-4, 1, 447, 448, 449, 500, 512, 3.5, 3.515625, 7])

    assert exponents == (encode_ue8m0(scale_of(amax, E4M3, rule, 1e-4)).int() - 127).tolist()


@pytest.mark.parametrize("rule", DETECTOR)
def test_the_detector_tells_the_rounding_rules_apart(rule):
    amax = torch.tensor([256.0, 300, 448, 450, 500]).bfloat16()
    q = formats.quantize(amax[:, None], block=(1, 1), rounding=rule)

    assert DETECTOR[rule] == q.scale_codes.flatten().tolist()


def test_ceil_doubles_one_ulp_above_448_times_a_power_of_two():
    exact = 448.0 * torch.exp2(torch.arange(-20.0, 100.0))
    above = torch.nextafter(exact, torch.tensor(torch.inf))
    scales = scale_of(exact, E4M3, "ceil", 0.0)

    assert torch.equal(exact / 448.0, scales)
    assert torch.equal(2 * scales, scale_of(above, E4M3, "ceil", 0.0))


@pytest.mark.parametrize("rule", RULES)
def test_scales_are_finite_normal_numbers_without_a_floor_on_amax(rule):
    smallest, largest = 2.0**-149, torch.finfo(torch.float32).max
    scales = scale_of(torch.tensor([0.0, smallest, 2.0**-126, largest]), E4M3, rule, 0.0)

    assert scales[:3].tolist() == [2.0**-126] * 3
    assert scales.isfinite().all()
    assert ((encode_ue8m0(scales) >= 1) & (encode_ue8m0(scales) <= 254)).all()


@pytest.mark.parametrize("rule", RULES[1:])
def test_power_of_two_scales_equal_a_computation_in_exact_arithmetic(rule):
    amax = ALL_BF16[(ALL_BF16 > 2.0**-100) & (ALL_BF16 < 2.0**100)].float()
    a = amax.double().numpy()
    if rule == "ceil":
        mantissa, exponent = np.frexp(a / 448)
        expected = exponent - (mantissa == 0.5)
    else:
        mantissa, exponent = np.frexp(a * {"even": 1}.get(rule, 1))
        if rule == "even":
            mantissa, carry = np.frexp(np.floor(mantissa * 16 + 0.5) / 16)
            exponent = exponent + carry
        expected = exponent - 1 - 8 + {"ceil-element": mantissa > 0.5, "floor-x2": 1}.get(rule, 0)
    scales = scale_of(amax, E4M3, rule, 0.0)

    assert is_power_of_two(scales).all()
    assert np.array_equal(expected, encode_ue8m0(scales).numpy().astype(int) - 127)


@pytest.mark.parametrize("rule", ["none", "ceil", "ceil-element", "floor-x2"])
@pytest.mark.parametrize("name", ["e4m3", "e5m2", "e4m3fnuz", "e2m1", "e2m3", "e3m2", "int8"])
def test_rules_that_never_clip_do_not_clip(name, rule):
    fmt = ELEMENTS[name]
    amax = ALL_BF16[(ALL_BF16 > 0) & ALL_BF16.isfinite()].float()
    ratio = amax / scale_of(amax, fmt, rule, 1e-4)

    if (name, rule) != ("int8", "floor-x2"):
        assert (ratio <= fmt.max * formats.ONE_ROUNDING).all()
    assert torch.equal(fmt.round(ratio), fmt.round(ratio.clamp(max=fmt.max)))


def test_floor_clips_a_fifth_of_blocks_with_log_uniform_amax():
    generator = torch.Generator().manual_seed(0)
    amax = torch.exp2(torch.rand(100_000, 1, generator=generator) * 20 - 8)
    clipped = formats.quantize(amax, block=(1, 1), rounding="floor").counts["clipped"]

    assert pytest.approx(clipped / 100_000, abs=0.005) == 0.193


def test_a_static_scale_is_its_constant_whatever_the_block_holds_and_nan_for_what_is_not_finite():
    quant = RECIPES["fp8-e4m3-tensor-static"].activations
    amax = torch.tensor([0.0, 1.0, 1e30, torch.inf, torch.nan])
    found = scales_of(amax, quant, 1e-9).values  # below the scale of any amax: a shipped scale is taken as it is

    assert found[:3].tolist() == [float(np.float32(1e-9))] * 3
    assert found[3:].isnan().all()


def test_a_calibrated_amax_makes_the_scale_that_it_makes_as_it_comes():
    static, dynamic = (RECIPES[f"fp8-e4m3-tensor{end}"].activations for end in ("-static", ""))
    for amax in (0.0, 1e-6, 0.37, 448.0, 3e38):
        assert static_scale(amax, static) == float(scales_of(torch.tensor(amax), dynamic).values)
