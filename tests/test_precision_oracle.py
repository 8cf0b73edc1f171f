import pytest
import torch
from test_precision_models import ALL_BF16

from evalsuite.precision import formats
from evalsuite.precision.elements import ELEMENTS


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
    # All finite BF16 amax, with random smaller companions.
    amax = ALL_BF16[(ALL_BF16 >= 0) & ALL_BF16.isfinite()].float().unique()
    parts = torch.rand(len(amax), 32, generator=torch.Generator().manual_seed(0)).mul_(2).sub_(1)
    parts[:, 0] = 1
    x = (amax[:, None] * parts).bfloat16()
    scales, codes = mx.to_mx(x, dtype, 32, getattr(config.ScaleCalculationMode, mode))
    if element == "e2m1":
        codes = mx.unpack_uint4(codes.view(torch.uint8))
    ours = formats.quantize(x, element=element, block=(1, 32), rounding=rule, amax_floor=0.0)

    theirs, own = scales.view(torch.uint8).flatten(), ours.scale_codes.flatten()
    # Zero and tiny blocks apart: ours never writes scale code 0 (a subnormal, 2^-127), torchao does.
    apart = own == 1

    assert len(amax) == 32640
    assert float(amax[apart].max()) < 2.0**-110
    assert set(theirs[apart].tolist()) <= {0, 1}
    assert torch.equal(theirs[~apart], own[~apart])
    assert torch.equal(codes.view(torch.uint8).reshape(ours.codes.shape)[~apart], ours.codes[~apart])


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


def sqnr_db(x, **keywords):
    error = formats.dequantize(formats.quantize(x, **keywords)).double() - x.double()
    return float(10 * torch.log10(x.double().pow(2).mean() / error.pow(2).mean()))
