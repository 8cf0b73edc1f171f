import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_precision_models import ML_DTYPES, encode, wide

from evalsuite.errors import UsageError
from evalsuite.precision import formats
from evalsuite.precision.elements import ELEMENTS
from evalsuite.precision.scales import NEVER_CLIPS


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


def test_a_unit_scale_is_the_cast_alone_and_idempotent():
    x = wide((64, 64))
    q = formats.quantize(x, scale="unit", block=(1, -1))
    values = formats.dequantize(q)

    assert torch.equal(q.codes, encode("e4m3", x.float()))
    assert torch.equal(values, formats.dequantize(formats.quantize(values, scale="unit", block=(1, -1))))
