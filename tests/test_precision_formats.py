import hashlib
from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evalsuite.errors import UsageError
from evalsuite.precision import formats
from evalsuite.precision.elements import ELEMENTS, Minifloat
from evalsuite.precision.fake import FakeQuant
from evalsuite.precision.scales import NEVER_CLIPS, RULES, decode_ue8m0, encode_ue8m0, is_power_of_two, scale_of
from evalsuite.records import Quant

E4M3 = ELEMENTS["e4m3"]
ALL_BF16 = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
ML_DTYPES = {
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
    "e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "e2m1": ml_dtypes.float4_e2m1fn,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e3m2": ml_dtypes.float6_e3m2fn,
}
DETECTOR = {  # UE8M0 code for block amax 256, 300, 448, 450, 500: tells five "UE8M0" apart
    "ceil": [127, 127, 127, 128, 128],
    "floor": [127, 127, 127, 127, 127],
    "even": [127, 127, 127, 127, 128],
    "ceil-element": [127, 128, 128, 128, 128],
    "floor-x2": [128, 128, 128, 128, 128],
}


def sha16(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def table_hash(table):
    array = table.numpy().astype("<f4")
    array[np.isnan(array)] = np.float32("nan")
    return sha16(array)


def same_bits(a, b):
    """Equal including the sign of zero; NaN equals NaN whatever its payload."""
    return bool(((a.view(torch.int32) == b.view(torch.int32)) | (a.isnan() & b.isnan())).all())


def encode(name, values):
    fmt = ELEMENTS[name]
    return fmt.encode(fmt.round(values.clamp(-fmt.max, fmt.max)))


def wide(shape, seed=0):
    """Random BF16 numbers over many binades, so that clipping, subnormals and zero flushes all occur."""
    generator = torch.Generator().manual_seed(seed)
    exponents = torch.randint(-12, 12, shape, generator=generator).float()
    return (torch.randn(shape, generator=generator) * torch.exp2(exponents)).bfloat16()


# ------------------------------------------------------------------------------------------------------ elements


@pytest.mark.parametrize(
    ("name", "golden"), [("e4m3", "422eccfaa21e72a6"), ("e5m2", "229a94c5f728edf2"), ("hif8", "2ac829ee895e0e5e")]
)
def test_decode_table_of_an_element_has_its_golden_hash(name, golden):
    assert golden == table_hash(ELEMENTS[name].table)


def test_decode_table_of_e8m0_has_its_golden_hash():
    assert table_hash(decode_ue8m0(torch.arange(256, dtype=torch.uint8))) == "2fb2732a95604377"


@pytest.mark.parametrize("name", ML_DTYPES)
def test_all_codes_decode_as_in_ml_dtypes(name):
    fmt = ELEMENTS[name]
    n = 2 ** (1 + fmt.exponent_bits + fmt.mantissa_bits)
    expected = np.arange(n, dtype=np.uint8).view(ML_DTYPES[name]).astype(np.float32)
    actual = fmt.table.numpy()[:n]

    assert np.array_equal(expected, actual, equal_nan=True)
    finite = ~np.isnan(expected)
    assert np.array_equal(np.signbit(expected[finite]), np.signbit(actual[finite]))


@pytest.mark.parametrize("name", ML_DTYPES)
def test_all_65536_bf16_values_get_the_codes_of_ml_dtypes_after_clamping(name):
    fmt = ELEMENTS[name]
    values = ALL_BF16.float().clamp(-fmt.max, fmt.max)
    values = values[~values.isnan()]

    assert np.array_equal(values.numpy().astype(ML_DTYPES[name]).view(np.uint8), encode(name, values).numpy())


@pytest.mark.parametrize("name", ML_DTYPES)
def test_random_fp32_values_get_the_codes_of_ml_dtypes_after_clamping(name):
    fmt = ELEMENTS[name]
    generator = torch.Generator().manual_seed(1)
    bits = torch.randint(-(2**31), 2**31 - 1, (1_000_000,), generator=generator, dtype=torch.int64).int()
    near = torch.randn(1_000_000, generator=generator) * torch.exp2(
        torch.randint(-20, 18, (1_000_000,), generator=generator).float()
    )
    values = torch.cat([bits.view(torch.float32), near])
    values = values[~values.isnan()].clamp(-fmt.max, fmt.max)

    assert np.array_equal(values.numpy().astype(ML_DTYPES[name]).view(np.uint8), encode(name, values).numpy())


def test_e4m3_codes_of_all_bf16_values_have_their_golden_hash():
    assert sha16(encode("e4m3", ALL_BF16.float()).numpy()) == "2f8096b3b00699a8"


@pytest.mark.parametrize("name", ["e4m3", "e5m2", "e4m3fnuz"])
def test_codes_are_those_of_the_torch_cast_after_clamping(name):
    fmt = ELEMENTS[name]
    dtype = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2, "e4m3fnuz": torch.float8_e4m3fnuz}[name]
    values = ALL_BF16.float().clamp(-fmt.max, fmt.max)
    values = values[~values.isnan()]

    assert torch.equal(values.to(dtype).view(torch.uint8), encode(name, values))


@pytest.mark.parametrize("name", ELEMENTS)
def test_every_finite_code_survives_decoding_and_encoding(name):
    fmt = ELEMENTS[name]
    codes = torch.arange(256)[fmt.table.isfinite() & (fmt.table.abs() <= fmt.max)].to(torch.uint8)

    assert torch.equal(codes, encode(name, fmt.table[codes.int()]))


@pytest.mark.parametrize("name", ELEMENTS)
def test_rounding_takes_the_nearest_number_and_ties_follow_the_format(name):
    fmt = ELEMENTS[name]
    finite = fmt.table[fmt.table.isfinite() & (fmt.table.abs() <= fmt.max)]
    numbers = finite[finite >= 0].unique().sort().values
    codes = encode(name, numbers)
    low, high = numbers[:-1], numbers[1:]
    middle = (low + high) / 2
    if name == "hif8":
        tie = high
    elif name == "int8":
        tie = torch.where(low % 2 == 0, low, high)
    else:
        tie = torch.where(codes[:-1] % 2 == 0, low, high)

    assert torch.equal(tie, fmt.round(middle))
    assert torch.equal(-tie, fmt.round(-middle))
    assert torch.equal(low, fmt.round(torch.nextafter(middle, low)))
    assert torch.equal(high, fmt.round(torch.nextafter(middle, high)))


def test_e2m1_ties_are_those_of_the_specification():
    values = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])

    assert ELEMENTS["e2m1"].round(values).tolist() == [0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0]


def test_hif8_rounds_half_away_and_flushes_below_half_of_its_smallest_number():
    values = torch.tensor([18.0, 1.0625, 2.0**-23, 2.0**-24, -(2.0**-23)])

    assert ELEMENTS["hif8"].round(values).tolist() == [20.0, 1.125, 2.0**-22, 0.0, -(2.0**-22)]


def test_sign_of_zero_is_kept_where_the_format_has_one():
    minus = torch.tensor([-0.0, -(2.0**-20)])

    assert encode("e4m3", minus).tolist() == [0x80, 0x80]
    assert encode("e4m3fnuz", minus).tolist() == [0, 0]
    assert encode("int8", minus).tolist() == [0, 0]


# -------------------------------------------------------------------------------------------------------- scales


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


# ------------------------------------------------------------------------------------------------------- tensors


def reference(x, block, ue8m0):
    """Codes and scales by loops over blocks in numpy and ml_dtypes: nothing of ours."""
    x = x.float().numpy()
    codes, scales = np.zeros(x.shape, np.uint8), []
    for i in range(0, x.shape[0], block[0]):
        row = []
        for j in range(0, x.shape[1], block[1]):
            tile = x[i : i + block[0], j : j + block[1]]
            s = np.float32(max(np.abs(tile).max(), np.float32(1e-4))) / np.float32(448)
            if ue8m0:
                mantissa, exponent = np.frexp(s)
                s = np.float32(2.0 ** (int(exponent) - (mantissa == 0.5)))
            q = np.clip(tile / s, -448, 448).astype(ml_dtypes.float8_e4m3fn)
            codes[i : i + block[0], j : j + block[1]] = q.view(np.uint8)
            row.append(s)
        scales.append(row)
    return torch.from_numpy(codes), torch.tensor(np.array(scales, np.float32))


@pytest.mark.parametrize("scale", ["fp32", "ue8m0"])
@pytest.mark.parametrize("block", [(1, 128), (128, 128), (1, 32), (1, 16)])
@pytest.mark.parametrize("shape", [(256, 256), (200, 352), (3, 576), (1, 1), (129, 100)])
def test_codes_and_scales_equal_a_loop_over_blocks(shape, block, scale):
    x = wide(shape)
    q = formats.quantize(x, scale=scale, block=block)
    codes, scales = reference(x, block, scale == "ue8m0")

    assert torch.equal(codes, q.codes)
    assert torch.equal(scales, q.scales)
    assert (q.scale_codes is None) == (scale == "fp32")


def test_dequantised_numbers_are_code_times_scale():
    x = wide((130, 300))
    q = formats.quantize(x, block=(128, 128))
    values = torch.from_numpy(q.codes.numpy().view(ml_dtypes.float8_e4m3fn).astype(np.float32))
    expected = values * q.scales.repeat_interleave(128, 0).repeat_interleave(128, 1)[:130, :300]

    assert torch.equal(expected, formats.dequantize(q))
    assert torch.equal(expected.bfloat16(), formats.dequantize(q, dtype=torch.bfloat16))


def test_leading_dimensions_are_batches():
    x = wide((2, 3, 5, 256))
    q = formats.quantize(x)

    assert tuple(q.scales.shape) == (2, 3, 5, 2)
    assert torch.equal(formats.quantize(x.reshape(30, 256)).codes, q.codes.reshape(30, 256))
    assert torch.equal(formats.quantize(x[1, 2]).codes, q.codes[1, 2])
    experts = formats.quantize(x.reshape(6, 5, 256), block=(128, 128))
    assert tuple(experts.scales.shape) == (6, 1, 2)


def test_rows_and_tensors_share_one_scale():
    x = wide((6, 200))
    row, tensor = formats.quantize(x, block=(1, -1)), formats.quantize(x.reshape(2, 3, 200), block=(-1, -1))

    assert tuple(row.scales.shape) == (6, 1)
    assert tuple(tensor.scales.shape) == (1, 1, 1)
    assert torch.equal(row.scales.max(), tensor.scales.max())
    assert tuple(formats.dequantize(tensor).shape) == (2, 3, 200)
    assert tuple(formats.quantize(x[0]).scales.shape) == (2,)


def test_a_shape_that_is_no_multiple_of_the_block_equals_its_zero_padded_form():
    x = wide((5, 300))
    padded = torch.zeros(5, 384, dtype=torch.bfloat16)
    padded[:, :300] = x

    assert torch.equal(formats.quantize(padded).codes[:, :300], formats.quantize(x).codes)
    assert torch.equal(formats.quantize(padded).scales, formats.quantize(x).scales)


def test_a_non_contiguous_input_gives_what_its_copy_gives():
    x = wide((256, 200)).t()
    strided = wide((64, 512))[:, ::2]

    assert torch.equal(formats.quantize(x.contiguous()).codes, formats.quantize(x).codes)
    assert torch.equal(formats.quantize(strided.contiguous()).codes, formats.quantize(strided).codes)


def test_a_zero_block_gets_the_floor_scale_and_zero_codes():
    q = formats.quantize(torch.zeros(1, 128))

    assert q.scales.item() == 2.0**-22
    assert not q.codes.any()
    assert pytest.approx(formats.quantize(torch.zeros(1, 128), scale="fp32").scales.item(), rel=1e-7) == 1e-4 / 448
    unfloored = formats.quantize(torch.zeros(1, 128), scale="fp32", amax_floor=0.0)
    assert not formats.dequantize(unfloored).any()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("scale", ["fp32", "ue8m0"])
def test_a_block_with_nan_or_inf_becomes_nan_and_is_counted(bad, scale):
    x = torch.ones(2, 256)
    x[1, 200] = bad
    q = formats.quantize(x, scale=scale)
    values = formats.dequantize(q)

    assert q.counts == {"clipped": 0, "zero_flushed": 0, "nonfinite_blocks": 1}
    assert values[1, 128:].isnan().all()
    assert torch.equal(x[:, :128], values[:, :128])
    assert q.scales[1, 1].isnan()
    if scale == "ue8m0":
        assert q.scale_codes[1, 1] == 255


def test_counts_tell_clipped_and_flushed_elements():
    x = torch.tensor([[500.0, 1.0, 2.0**-11, 0.0]])

    assert formats.quantize(x, rounding="floor").counts == {"clipped": 1, "zero_flushed": 1, "nonfinite_blocks": 0}
    assert formats.quantize(x, scale="fp32").counts == {"clipped": 0, "zero_flushed": 1, "nonfinite_blocks": 0}


def test_codes_are_equal_where_an_fp32_scale_happens_to_be_a_power_of_two():
    x = wide((64, 256)).view(64, 2, 128)
    x[:, 0] = x[:, 0].clamp(-7, 7)
    x[:, 0, 0] = 7.0  # amax / 448 = 2^-6
    x = x.reshape(64, 256)
    fp32, ue8m0 = formats.quantize(x, scale="fp32"), formats.quantize(x, scale="ue8m0")
    same = fp32.scales == ue8m0.scales

    assert same[:, 0].all()
    blocks = same.repeat_interleave(128, 1)
    assert torch.equal(fp32.codes[blocks], ue8m0.codes[blocks])


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"element": "e4m3fn"}, "Did you mean 'e4m3fnuz'"),
        ({"scale": "e8m0"}, "Did you mean 'ue8m0'"),
        ({"rounding": "rceil"}, "Did you mean 'ceil'"),
        ({"rounding": "none"}, "Known: ceil"),
        ({"block": (0, 128)}, "positive"),
    ],
)
def test_a_wrong_keyword_is_refused_with_the_allowed_words(keywords, message):
    with pytest.raises(UsageError, match=message):
        formats.quantize(torch.ones(1, 128), **keywords)


def test_integers_and_scalars_are_refused():
    with pytest.raises(UsageError, match=r"torch\.int32"):
        formats.quantize(torch.ones(1, 128, dtype=torch.int32))
    with pytest.raises(UsageError, match="dimension"):
        formats.quantize(torch.tensor(1.0))


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 300)), element=st.sampled_from(sorted(ML_DTYPES)),
    rule=st.sampled_from(NEVER_CLIPS), block=st.sampled_from([(1, 128), (1, 32), (1, -1), (-1, -1), (128, 128)]),
    seed=st.integers(0, 2**31),
)  # fmt: skip
def test_error_is_at_most_half_a_step_where_nothing_clips(shape, element, rule, block, seed):
    x, fmt = wide(shape, seed), ELEMENTS[element]
    q = formats.quantize(x, element, "fp32" if rule == "none" else "ue8m0", block, rule)
    error = (formats.dequantize(q) - x.float()).abs()
    step = torch.maximum(x.float().abs(), q.scales.max() * 2.0 ** (1 - fmt.bias)) * 2.0**-fmt.mantissa_bits

    assert bool((error <= step / 2 * (1 + 2.0**-20)).all())
    assert q.counts["clipped"] == 0


# ------------------------------------------------------------------------------------------------ the fast path


def fake_equals_formats(x, quant):
    return same_bits(formats.dequantize(formats.quantize_as(x, quant)), FakeQuant(quant, x.device)(x))


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("rule", RULES)
def test_fast_activations_equal_codes_times_scales_on_every_bf16_value_as_element_and_as_amax(element, rule):
    quant = Quant(element=element, scale="fp32" if rule == "none" else "ue8m0", rounding=rule, block=(1, 16))
    generator = torch.Generator().manual_seed(0)
    everything = ALL_BF16[torch.randperm(65536, generator=generator)].view(-1, 16)
    finite = torch.where(everything.isfinite(), everything, 0)
    # Beside a moderate amax a value is neither always flushed nor always clipped.
    moderate = torch.where(finite.abs() < 100, finite, 100)
    # Every value as the amax of its block: the others of the block are parts of it.
    parts = torch.rand(65536, 16, generator=generator).mul_(2).sub_(1)
    parts[:, 0] = 1
    as_amax = (torch.nan_to_num(ALL_BF16.float(), 1.0, 1.0, 1.0)[:, None] * parts).bfloat16()

    for x in (everything, finite, moderate, as_amax):
        assert fake_equals_formats(x, quant)


@pytest.mark.parametrize("block", [(1, 128), (1, 32), (1, -1), (-1, -1), (128, 128)])
@pytest.mark.parametrize("shape", [(3, 5, 256), (4, 576), (2, 100), (1, 1), (0, 256)])
def test_fast_activations_equal_codes_times_scales_in_all_shapes(shape, block):
    quant = Quant(element="e4m3", scale="fp32", rounding="none", block=block)

    assert fake_equals_formats(wide(shape), quant)
    assert fake_equals_formats(wide(shape).transpose(0, -1), quant)


def test_ue8m0_activations_are_bf16_numbers():
    quant = Quant(element="e4m3", scale="ue8m0", rounding="ceil", block=(1, 128))
    fake = FakeQuant(quant, torch.device("cpu"))
    values = fake(wide((256, 256)))

    assert fake.exact_in_bf16
    assert torch.equal(values, values.bfloat16().float())


# --------------------------------------------------------------------------------------------------- the oracle


@pytest.mark.parametrize(
    ("rule", "mode"), [("ceil", "RCEIL"), ("floor", "FLOOR"), ("ceil-element", "CEIL"), ("even", "EVEN")]
)
@pytest.mark.parametrize("element", ["e4m3", "e5m2", "e2m1", "e2m3", "e3m2"])
def test_torchao_to_mx_gives_the_same_codes_and_scales(element, rule, mode):
    mx = pytest.importorskip("torchao.prototype.mx_formats.mx_tensor")
    config = pytest.importorskip("torchao.prototype.mx_formats.config")
    dtype = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2, "e2m1": torch.float4_e2m1fn_x2}.get(
        element, f"fp6_{element}"
    )
    # All BF16 amax that are neither zero nor tiny (torchao treats those apart), with random smaller companions.
    amax = ALL_BF16[(ALL_BF16 >= 2.0**-100) & (ALL_BF16 <= 2.0**100)].float()
    parts = torch.rand(len(amax), 32, generator=torch.Generator().manual_seed(0)).mul_(2).sub_(1)
    parts[:, 0] = 1
    x = (amax[:, None] * parts).bfloat16()
    scales, codes = mx.to_mx(x, dtype, 32, getattr(config.ScaleCalculationMode, mode))
    if element == "e2m1":
        codes = mx.unpack_uint4(codes.view(torch.uint8))
    ours = formats.quantize(x, element=element, block=(1, 32), rounding=rule, amax_floor=0.0)

    assert torch.equal(scales.view(torch.uint8).flatten(), ours.scale_codes.flatten())
    assert torch.equal(codes.view(torch.uint8).reshape(ours.codes.shape), ours.codes)


def test_torchao_gives_the_same_nvfp4_codes_and_scales():
    nvfp4 = pytest.importorskip("torchao.prototype.mx_formats.nvfp4_tensor")
    mx = pytest.importorskip("torchao.prototype.mx_formats.mx_tensor")
    x = (torch.randn(512, 256, generator=torch.Generator().manual_seed(0)) * 3).bfloat16()
    per_tensor = nvfp4.per_tensor_amax_to_scale(x.abs().amax())
    scales, packed = nvfp4.nvfp4_quantize(x, 16, per_tensor)
    ours = formats.quantize(x, element="e2m1", scale="e4m3", block=(1, 16), amax_floor=0.0)
    codes = mx.unpack_uint4(packed.view(torch.uint8)).reshape(ours.codes.shape)

    assert torch.equal(ours.tensor_scale, per_tensor)
    assert torch.equal(ours.scale_codes, scales.view(torch.uint8).reshape(ours.scale_codes.shape))
    assert torch.equal(ours.scales, ELEMENTS["e4m3"].table[ours.scale_codes.int()] * per_tensor)
    # torchao multiplies by a reciprocal, ours divides: a few elements at a tie differ.
    assert (codes != ours.codes).float().mean() < 0.002


def test_nvfp4_of_zeros_and_of_a_nan_block_stays_finite_elsewhere():
    x = torch.ones(2, 32)
    x[0, 3] = torch.nan
    values = formats.dequantize(formats.quantize(x, element="e2m1", scale="e4m3", block=(1, 16), amax_floor=0.0))

    assert values[0, :16].isnan().all()
    assert values[0, 16:].isfinite().all()
    assert values[1].allclose(torch.ones(32))
    zeros = formats.quantize(torch.zeros(1, 16), element="e2m1", scale="e4m3", block=(1, 16), amax_floor=0.0)
    assert not formats.dequantize(zeros).any()


def test_a_unit_scale_is_the_cast_alone_and_idempotent():
    x = wide((64, 64))
    q = formats.quantize(x, scale="unit", block=(1, -1))
    values = formats.dequantize(q)

    assert torch.equal(q.codes, encode("e4m3", x.float()))
    assert torch.equal(values, formats.dequantize(formats.quantize(values, scale="unit", block=(1, -1))))


# ---------------------------------------------------------------------------------------- what a recipe costs


def sqnr_db(x, **keywords):
    error = formats.dequantize(formats.quantize(x, **keywords)).double() - x.double()
    return float(10 * torch.log10(x.double().pow(2).mean() / error.pow(2).mean()))


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (-1, {"fp32": 31.56, "ceil": 31.48, "floor": 31.48, "ceil-element": 31.48, "even": 31.48}),
        (128, {"fp32": 31.80, "ceil": 31.48, "floor": 31.37, "ceil-element": 31.48, "even": 31.41}),
        (32, {"fp32": 32.40, "ceil": 31.48, "floor": 30.66, "ceil-element": 31.48, "even": 31.17}),
    ],
)
def test_noise_on_gaussian_data_is_that_of_the_specification(columns, expected):
    x = torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0))
    block = (-1, -1) if columns == -1 else (1, columns)
    for rule, db in expected.items():
        scale = "fp32" if rule == "fp32" else "ue8m0"

        assert sqnr_db(x, scale=scale, rounding=rule, block=block) == pytest.approx(db, abs=0.1)


def test_int8_by_row_has_the_noise_of_the_specification():
    x = torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0))

    assert sqnr_db(x, element="int8", scale="fp32", block=(1, -1)) == pytest.approx(41.2, abs=2)


def test_requantising_an_fp32_scaled_tensor_costs_what_the_specification_says():
    x = torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0))
    shipped = formats.dequantize(formats.quantize(x, scale="fp32", block=(128, 128)))
    twice = formats.dequantize(formats.quantize(shipped, scale="ue8m0", block=(128, 128)))
    error = (twice - x).double()

    assert float(10 * torch.log10(x.double().pow(2).mean() / error.pow(2).mean())) == pytest.approx(28.7, abs=0.3)


def test_numbers_of_a_minifloat_are_ordered_like_their_codes():
    for fmt in ELEMENTS.values():
        if isinstance(fmt, Minifloat):
            half = fmt.table[: 2 ** (fmt.exponent_bits + fmt.mantissa_bits)]
            numbers = half[~half.isnan()].tolist()

            assert all(a < b for a, b in pairwise(numbers))
