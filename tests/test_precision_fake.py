import pytest
import torch
from test_precision_models import ALL_BF16, same_bits, wide

from evalsuite.precision import compiled, formats
from evalsuite.precision.elements import ELEMENTS
from evalsuite.precision.fake import FakeQuant, SharedInput
from evalsuite.precision.scales import RULES
from evalsuite.records import Quant


@pytest.fixture(autouse=True, params=["compiled", "eager"])
def _way(request, monkeypatch):
    """Every property holds with the compiled kernel and without it."""
    if request.param == "eager":
        monkeypatch.setattr(compiled, "loaded", lambda: None)
    elif compiled.loaded() is None:
        pytest.skip("no C++ compiler here: the eager form is all there is")


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


def counting():
    calls = []
    return SharedInput(lambda x: calls.append(x.clone()) or x.float()), calls


def test_the_very_same_input_is_converted_once():
    shared, calls = counting()
    x = torch.ones(2, 4).bfloat16()

    assert shared(x) is shared(x)
    assert len(calls) == 1


def test_an_input_changed_in_place_is_converted_again():
    shared, calls = counting()
    x = torch.ones(2, 4).bfloat16()
    shared(x)
    x[0, 0] = 5

    assert shared(x)[0, 0] == 5
    assert len(calls) == 2


def test_an_equal_input_in_another_tensor_is_converted_again():
    shared, calls = counting()
    x = torch.ones(2, 4).bfloat16()
    for other in (x, x.clone(), x.view(2, 4), x[:1]):
        assert torch.equal(shared(other), other.float())
    assert len(calls) == 4


def test_a_new_tensor_at_the_address_of_a_dead_one_is_converted_again():
    shared, _ = counting()
    for value in range(200):
        x = torch.full((64,), float(value)).bfloat16()

        assert shared(x)[0] == value
        del x


def test_inputs_without_a_version_are_never_shared():
    shared, calls = counting()
    with torch.inference_mode():
        x = torch.ones(2, 4).bfloat16()
        shared(x)
        shared(x)

    assert len(calls) == 2
