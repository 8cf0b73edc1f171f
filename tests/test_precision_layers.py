import pytest
import torch
import transformers
from test_precision_models import IDS, KERNELS, e4m3, in_bf16, logits, qwen3, runnable, snr_db
from torch import nn
from torch.nn import functional as F

from evalsuite.precision import RECIPES, apply, formats
from evalsuite.precision.fake import FakeQuant


@pytest.fixture(scope="module")
def model():
    return qwen3()


@pytest.mark.parametrize("key", [key for key in RECIPES if RECIPES[key].weights])
def test_weights_of_every_recipe_are_codes_times_scales_of_the_master(model, key):
    recipe, name = RECIPES[key], "model.layers.0.mlp.down_proj"
    weight = model.get_submodule(name).weight.detach()
    if recipe.weights_via:
        weight = formats.dequantize(formats.quantize_as(weight, recipe.weights_via))
    expected = formats.dequantize(formats.quantize_as(weight, recipe.weights))
    for mode in ("fast", "exact"):
        with apply(model, runnable(key, model), gemm_mode=mode, kernel="linear-fp32-accumulate-bf16") as applied:
            operand = applied.operands[name]

        assert torch.equal(operand, expected.bfloat16().float() if mode == "fast" else expected)


def test_noise_of_the_variants_is_ordered_as_their_formats_say(model):
    with apply(model, RECIPES["fp32"]):
        reference = logits(model)
    noise = {}
    for key in RECIPES:
        with apply(model, runnable(key, model)):
            noise[key] = snr_db(reference, logits(model))
    ladder = ["bf16", "int8-row", "w8a16-e4m3", "fp8-e4m3", "fp8-e5m2", "nvfp4", "mxfp4"]

    assert [noise[key] for key in ladder] == sorted((noise[key] for key in ladder), reverse=True)
    assert noise["fp8-ue8m0-requant"] < noise["fp8-ue8m0"]
    assert noise["mxfp8-floor"] < noise["mxfp8-even"] < noise["mxfp8-rceil"]
    assert noise["mxfp4"] > 3


@pytest.mark.parametrize("key", ["fp8-e4m3", "fp8-ue8m0"])
@pytest.mark.parametrize("mode", ["fast", "exact"])
def test_a_layer_equals_its_straightforward_recomputation(model, key, mode):
    linear = model.model.layers[1].mlp.down_proj
    generator = torch.Generator().manual_seed(0)
    spread = torch.exp(2 * torch.randn(3, 5, 640, generator=generator))
    x = (torch.randn(3, 5, 640, generator=generator) * spread).bfloat16()
    ue8m0 = key == "fp8-ue8m0"
    a, w = e4m3(x, 1, ue8m0), e4m3(linear.weight, 128, ue8m0)
    if mode == "fast":
        a, w = a.bfloat16().float(), w.bfloat16().float()
    expected = F.linear(a, w).bfloat16().view(3, 5, 256)
    with torch.no_grad(), apply(model, RECIPES[key], gemm_mode=mode, kernel="linear-fp32-accumulate-bf16") as applied:
        actual = linear(x)

    assert torch.equal(applied.operands["model.layers.1.mlp.down_proj"], w)
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("key", ["fp8-e4m3", "fp8-ue8m0"])
def test_logits_equal_those_of_a_model_rewritten_with_hooks(key):
    """Dequantised weights put into a copy, inputs quantised by hooks: no part of `apply`."""
    ue8m0 = key == "fp8-ue8m0"
    model, rewritten = qwen3(), qwen3()
    for name, module in rewritten.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            module.weight.data = e4m3(module.weight, 128, ue8m0).bfloat16()
            module.register_forward_pre_hook(
                lambda _, args: (e4m3(args[0], 1, ue8m0).bfloat16().view(args[0].shape),)
            )
    with apply(model, RECIPES[key], kernel="linear-bf16"):
        actual = logits(model)

    assert torch.equal(actual, logits(rewritten))


def test_the_bf16_arm_on_the_native_kernel_is_the_model_itself(model):
    expected = logits(model)
    with apply(model, RECIPES["bf16"], kernel="linear-bf16"):
        assert torch.equal(logits(model), expected)


def test_the_fp32_arm_is_the_bf16_master_in_fp32_arithmetic(model):
    expected = logits(qwen3().float())
    with apply(model, RECIPES["fp32"]):
        actual = logits(model)

    assert actual.dtype == torch.float32
    assert torch.equal(actual, expected)


def test_widening_bf16_operands_to_fp32_rounds_once(model):
    linear = model.model.layers[0].mlp.up_proj
    x = torch.randn(64, 256, generator=torch.Generator().manual_seed(0)).bfloat16()
    exact = F.linear(x.double(), linear.weight.detach().double())
    with torch.no_grad(), apply(model, RECIPES["bf16"], kernel="linear-fp32-accumulate-bf16"):
        actual = linear(x)

    assert snr_db(exact.bfloat16(), actual) > 60  # all but a few elements are the correctly rounded product
    assert snr_db(exact, actual) > 54  # what one rounding to BF16 leaves


def test_both_kernels_agree_up_to_the_order_of_summation(model):
    results = {}
    for kernel in KERNELS:
        for key in ("bf16", "fp8-ue8m0"):
            with apply(model, RECIPES[key], kernel=kernel):
                results[kernel, key] = logits(model)
    fp32 = logits(qwen3().float())

    assert snr_db(results[KERNELS[0], "bf16"], results[KERNELS[1], "bf16"]) > 40
    assert 15 < snr_db(fp32, results[KERNELS[1], "fp8-ue8m0"]) < 35  # E4M3 noise, not a wrong layer


def test_biases_are_added_before_the_one_rounding():
    torch.manual_seed(0)
    config = transformers.Qwen2Config(vocab_size=128, hidden_size=128, intermediate_size=128, num_hidden_layers=1,
                                      num_attention_heads=2, num_key_value_heads=1)  # fmt: skip
    model = in_bf16(transformers.Qwen2ForCausalLM(config))
    linear = model.model.layers[0].self_attn.q_proj
    nn.init.normal_(linear.bias)
    x = torch.randn(4, 128).bfloat16()
    a, w = e4m3(x, 1, True), e4m3(linear.weight, 128, True)
    with torch.no_grad(), apply(model, RECIPES["fp8-ue8m0"], kernel="linear-fp32-accumulate-bf16"):
        actual = linear(x)

    assert torch.equal(actual, F.linear(a, w, linear.bias.detach().float()).bfloat16())


def test_left_padding_does_not_change_a_row():
    model = qwen3()
    padded = torch.cat([torch.zeros(1, 5, dtype=torch.long), IDS[:1]], dim=1)
    mask = (torch.arange(29) >= 5).long()[None]
    with torch.no_grad(), apply(model, RECIPES["fp8-ue8m0"]):
        alone = model(IDS[:1]).logits
        beside = model(padded, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits[:, 5:]

    assert snr_db(alone, beside) > 25


def test_generation_with_a_cache_runs_and_repeats(model):
    with apply(model, RECIPES["fp8-ue8m0"]):
        first = model.generate(IDS[:, :8], max_new_tokens=8, do_sample=False, pad_token_id=0)
        second = model.generate(IDS[:, :8], max_new_tokens=8, do_sample=False, pad_token_id=0)

    assert torch.equal(first, second)
    assert first.shape == (2, 16)


def test_q_k_and_v_and_gate_and_up_share_their_quantised_input(model, monkeypatch):
    calls, original = [], FakeQuant.operand

    def counted(self, x, *given, **named):
        calls.append(x.shape)
        return original(self, x, *given, **named)

    monkeypatch.setattr(FakeQuant, "operand", counted)
    with apply(model, RECIPES["fp8-ue8m0"]):
        logits(model)

    assert len(calls) == 2 * 4  # a layer: attention input, attention output, MLP input, MLP middle
