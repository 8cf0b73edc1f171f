"""Devices: found by trying, added by packages, and honest about what never ran."""

import pytest
import torch

from evalsuite.errors import CannotRunError, UsageError
from evalsuite.precision import RECIPES, devices
from evalsuite.precision.devices.reference import ReferenceDevice
from evalsuite.precision.devices.torch_device import PROBE_RECIPES, CpuDevice, probe_problem
from evalsuite.precision.devices.vendors import VENDORS, NpuDevice
from evalsuite.precision.formats import quantize_as
from evalsuite.precision.packing import SCHEMES, reference_product, scheme_of
from evalsuite.precision.scales import encode_ue8m0

CPU = torch.device("cpu")


def test_every_scheme_has_a_probe_of_a_recipe_that_it_multiplies():
    assert set(PROBE_RECIPES) == set(SCHEMES)
    for name, recipe_id in PROBE_RECIPES.items():
        assert scheme_of(RECIPES[recipe_id]).name == name


def test_the_cpu_multiplies_fp8_in_software_and_runs_nothing_natively():
    seen = devices.device("cpu").probe()

    assert [probe.scheme for probe in seen.schemes if probe.works] == ["row", "tensor"]
    assert all(probe.sqnr_db > 50 for probe in seen.schemes if probe.works)
    assert all(probe.reason for probe in seen.schemes if not probe.works)
    assert all("software" in seen.cannot(scheme) for scheme in SCHEMES)


def test_a_kernel_with_a_wrong_product_does_not_pass_its_probe():
    device = ReferenceDevice(
        lambda a, b, scheme, bias: (reference_product(a, b, scheme) * (1 if scheme.name == "row" else 1.01)).bfloat16()
    )
    seen = device.probe()

    assert [probe.scheme for probe in seen.schemes if probe.works] == ["row"]
    assert "39.9 dB from the FP32 product, under 50 dB" in seen.cannot("mx")
    assert not seen.probe_of("row").bias  # the kernel forgets it


def test_probes_run_once():
    calls = []

    def kernel(a, b, scheme, bias):
        calls.append(scheme.name)
        return reference_product(a, b, scheme, bias).bfloat16()

    device = ReferenceDevice(kernel)
    assert device.probe() is device.probe()
    assert calls == [name for name in SCHEMES for _ in range(2)]


@pytest.mark.parametrize("name", ["cuda", *VENDORS])
def test_a_device_that_is_not_there_says_why(name: str):
    if devices.device(name).missing() is None:
        pytest.skip(f"{name} is there")
    with pytest.raises(CannotRunError, match=f"Device '{name}' is not there: .*Devices here: cpu"):
        devices.present(name)


def test_an_unknown_device_is_refused():
    with pytest.raises(UsageError, match="Did you mean 'cuda'"):
        devices.device("cudo")


@pytest.mark.parametrize("name", ["cuda", *VENDORS])
def test_adapters_that_never_ran_on_their_hardware_are_not_verified(name: str):
    assert not devices.device(name).verified


def test_a_package_adds_a_device_and_replaces_none(monkeypatch: pytest.MonkeyPatch):
    class Point:
        def __init__(self, name: str) -> None:
            self.name = name

        def load(self):
            return CpuDevice

    asked = []
    monkeypatch.setattr(devices, "entry_points", lambda group: asked.append(group) or [Point("mine"), Point("cuda")])

    assert isinstance(devices.known()["mine"](), CpuDevice)
    assert devices.known()["cuda"] is devices.DEVICES["cuda"]
    assert asked == ["evalsuite.devices"] * 2


def test_quantisers_refuse_what_they_do_not_know():
    with pytest.raises(CannotRunError, match="e2m1"):
        CpuDevice().quantize_act(torch.ones(1, 32).bfloat16(), RECIPES["mxfp4"].activations)


def test_kernel_times_name_what_ran():
    times = CpuDevice().kernel_times(lambda: torch.ones(64, 64) @ torch.ones(64, 64))

    assert times["aten::mm"] > 0


class FakeNpu:
    """`torch_npu` as its public sources describe it, on the CPU: scales in pairs, down by default."""

    float8_e8m0fnu = object()

    def npu_dynamic_mx_quant(self, x, *, axis, round_mode, dst_type, block_size, scale_alg=0):
        assert (axis, round_mode, dst_type, block_size) == (-1, "rint", torch.float8_e4m3fn, 32)
        q = quantize_as(x, RECIPES["mxfp8-rceil" if scale_alg else "mxfp8-floor"].activations)
        pairs = torch.nn.functional.pad(q.scale_codes, (0, q.scale_codes.shape[1] % 2)).view(len(x), -1, 2)
        return q.codes.view(torch.float8_e4m3fn), pairs

    def npu_quant_matmul(self, x, w, w_scale, *, scale_dtype, pertoken_scale, pertoken_scale_dtype, bias, output_dtype,
                         group_sizes):  # fmt: skip
        assert (scale_dtype, pertoken_scale_dtype, group_sizes) == (self.float8_e8m0fnu,) * 2 + ([1, 1, 32],)
        sides = []
        for codes, pairs in ((x, pertoken_scale), (w.t(), w_scale.transpose(0, 1))):
            scales = torch.exp2(pairs.reshape(len(codes), -1)[:, : codes.shape[1] // 32].float() - 127)
            sides.append(codes.float() * scales.repeat_interleave(32, 1))
        product = sides[0] @ sides[1].t()
        return (product if bias is None else product + bias.float()).to(output_dtype)


class NpuOnCpu(NpuDevice):
    def torch_device(self):
        return CPU

    def synchronize(self):
        pass


def test_the_ascend_adapter_asks_its_operators_for_the_rounding_of_the_recipe():
    device = NpuOnCpu(FakeNpu())
    x = (torch.randn(5, 96, generator=torch.Generator().manual_seed(0)) * 500).bfloat16()
    for recipe_id in ("mxfp8-rceil", "mxfp8-floor"):
        made = device.quantize_act(x, RECIPES[recipe_id].activations)
        expected = quantize_as(x, RECIPES[recipe_id].activations)

        assert torch.equal(made.codes.view(torch.uint8), expected.codes)
        assert torch.equal(encode_ue8m0(made.scales), expected.scale_codes)
    for recipe_id in ("mxfp8-even", "fp8-ue8m0"):
        with pytest.raises(CannotRunError, match="Ascend's quantiser"):
            device.quantize_act(x, RECIPES[recipe_id].activations)


def test_the_ascend_adapter_multiplies_mx_operands_and_nothing_else():
    seen = NpuOnCpu(FakeNpu()).probe()

    assert [probe.scheme for probe in seen.schemes if probe.works] == ["mx"]
    assert seen.probe_of("mx").bias
    assert "no kernel of scheme 'block'" in seen.cannot("block")


def test_probe_problems_are_the_same_each_time():
    one, two = (probe_problem(SCHEMES["block"], CPU) for _ in range(2))

    assert torch.equal(one[0].bits, two[0].bits)
    assert torch.equal(one[1].packed, two[1].packed)
