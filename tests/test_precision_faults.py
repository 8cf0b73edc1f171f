"""Format loss apart from kernel fault, on a model: what is planted is found and named, and is not the format's loss."""

import pytest
import torch
from test_precision_models import IDS, qwen3, qwen3_moe, state

from evalsuite.precision import RECIPES
from evalsuite.precision.devices.reference import ReferenceDevice, reference_kernel
from evalsuite.precision.faults import compare, gap, sentence
from evalsuite.precision.quantiser import Blocks

SHORT = IDS[:1, :12]
REFERENCE = ReferenceDevice()


@pytest.fixture(scope="module")
def model():
    return qwen3(num_hidden_layers=1)


class RoundedAfter(ReferenceDevice):
    """Makes codes with FP32 scales and rounds the scales afterwards."""

    def quantize_act(self, x, quant, rows=1, columns=1):
        plain = quant.model_copy(update={"scale": "fp32", "rounding": "none"})
        return Blocks(super().quantize_act(x, plain, rows, columns).codes,
                      super().quantize_act(x, quant, rows, columns).scales)  # fmt: skip


class Floor(ReferenceDevice):
    """Rounds scales down where it is asked to round up."""

    def quantize_act(self, x, quant, rows=1, columns=1):
        return super().quantize_act(x, quant.model_copy(update={"rounding": "floor"}), rows, columns)


def late_twice():
    """A kernel that is right in its probe and twice too large afterwards, as a fault of some shapes only is."""
    def kernel(a, b, scheme, bias):
        return reference_kernel(a, b, scheme, bias) * (1 if a.codes.shape[0] == 256 else 2)

    return ReferenceDevice(kernel)


@pytest.mark.parametrize("recipe_id", ["fp8-e4m3", "fp8-ue8m0", "fp8-ue8m0-requant"])
def test_a_right_kernel_adds_nothing_to_the_loss_of_the_format(model, recipe_id):
    before = state(model)
    report = compare(model, RECIPES[recipe_id], SHORT, REFERENCE)

    assert report.faults == ()
    assert report.kernel_gap.kl_nats == report.kernel_gap.flips == 0
    assert report.format_loss.kl_nats > 1e-6
    assert [layer.name for layer in report.layers] == list(report.realised.modules)
    for layer in report.layers:
        assert (layer.tokens, layer.codes, layer.scales, layer.weight_codes, layer.weight_scales) == (12, 0, 0, 0, 0)
        assert layer.sqnr_db > 50
    assert state(model) == before
    assert "the specification's" in sentence(report)


@pytest.mark.parametrize(("device", "fault"), [
    (RoundedAfter(), "activation: scales-rounded-after"), (Floor(), "activation: rule-floor"),
    (late_twice(), "kernel: binade"),
])  # fmt: skip
def test_a_planted_fault_is_named_and_is_not_counted_as_the_formats_loss(model, device, fault):
    right = compare(model, RECIPES["fp8-ue8m0"], SHORT, REFERENCE)
    report = compare(model, RECIPES["fp8-ue8m0"], SHORT, device)

    assert report.faults == (fault,)
    assert report.format_loss == right.format_loss
    assert report.kernel_gap.kl_nats > 0
    assert fault in sentence(report)
    assert min(layer.sqnr_db for layer in report.layers) < 40


def test_experts_are_looked_at_one_by_one():
    report = compare(qwen3_moe(), RECIPES["fp8-ue8m0"], SHORT, REFERENCE)
    experts = next(layer for layer in report.layers if layer.name.endswith("experts.down_proj"))

    assert report.faults == ()
    assert experts.tokens == 2 * 12  # two experts a token


def test_a_run_that_is_not_finite_is_a_gap_and_not_a_crash():
    one = torch.randn(3, 5)
    found = gap(one, torch.full((3, 5), torch.nan))

    assert (found.tokens, found.flips, found.kl_nats) == (3, 3, 1e9)
    assert gap(one, one).model_dump() == {"tokens": 3, "kl_nats": 0.0, "flips": 0}
