from itertools import pairwise

import numpy as np
import pytest
import torch
from test_precision_models import ALL_BF16, ML_DTYPES, encode, sha16, table_hash

from evalsuite.precision.elements import ELEMENTS, Minifloat


@pytest.mark.parametrize(
    ("name", "golden"), [("e4m3", "422eccfaa21e72a6"), ("e5m2", "229a94c5f728edf2"), ("hif8", "2ac829ee895e0e5e")]
)
def test_decode_table_of_an_element_has_its_golden_hash(name, golden):
    assert golden == table_hash(ELEMENTS[name].table)


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


def test_hif8_takes_the_nearest_number_for_all_65536_bf16_values_by_exhaustive_search():
    fmt = ELEMENTS["hif8"]
    values = ALL_BF16[~ALL_BF16.isnan()].float().clamp(-fmt.max, fmt.max).double()
    finite = fmt.table[fmt.table.isfinite()].double().unique()
    best = torch.full_like(values, torch.inf)
    nearest = torch.zeros_like(values)
    for number in finite[finite.abs().argsort()].tolist():  # a tie goes to the later one, the one farther from zero
        distance = (values - number).abs()
        closer = distance <= best
        best, nearest = torch.where(closer, distance, best), torch.where(closer, number, nearest)

    assert torch.equal(nearest.float(), fmt.round(values.float()))


def test_int8_codes_of_all_bf16_values_are_those_of_numpy():
    values = ALL_BF16[~ALL_BF16.isnan()].float().clamp(-127, 127)

    assert np.array_equal(np.rint(values.numpy()).astype(np.int8).view(np.uint8), encode("int8", values).numpy())


def test_sign_of_zero_is_kept_where_the_format_has_one():
    minus = torch.tensor([-0.0, -(2.0**-20)])

    assert encode("e4m3", minus).tolist() == [0x80, 0x80]
    assert encode("e4m3fnuz", minus).tolist() == [0, 0]
    assert encode("int8", minus).tolist() == [0, 0]


def test_numbers_of_a_minifloat_are_ordered_like_their_codes():
    for fmt in ELEMENTS.values():
        if isinstance(fmt, Minifloat):
            half = fmt.table[: 2 ** (fmt.exponent_bits + fmt.mantissa_bits)]
            numbers = half[~half.isnan()].tolist()

            assert all(a < b for a, b in pairwise(numbers))
