import hashlib

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from evalsuite.errors import CannotRunError, UsageError
from evalsuite.precision import RECIPES, apply, formats
from evalsuite.precision.coverage import excluded, gemms
from evalsuite.precision.emulate import best_kernel
from evalsuite.precision.fake import SharedInput

transformers = pytest.importorskip("transformers")

KERNELS = ("linear-bf16", "linear-fp32-accumulate-bf16")
PROJECTIONS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
               "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")  # fmt: skip
IDS = torch.randint(0, 512, (2, 24), generator=torch.Generator().manual_seed(7))


def in_bf16(model):
    """As `from_pretrained(dtype=torch.bfloat16)` makes it: parameters in BF16, rotary frequencies in FP32."""
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    return model.eval()


def qwen3(**changes):
    torch.manual_seed(0)
    config = transformers.Qwen3Config(**({
        "vocab_size": 512, "hidden_size": 256, "intermediate_size": 640, "num_hidden_layers": 2, "head_dim": 64,
        "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True, "max_position_embeddings": 256,
    } | changes))  # fmt: skip
    return in_bf16(transformers.Qwen3ForCausalLM(config))


def qwen3_moe():
    torch.manual_seed(0)
    config = transformers.Qwen3MoeConfig(
        vocab_size=512, hidden_size=128, intermediate_size=256, moe_intermediate_size=96, num_hidden_layers=2,
        head_dim=64, num_attention_heads=2, num_key_value_heads=1, num_experts=4, num_experts_per_tok=2,
        mlp_only_layers=[0], tie_word_embeddings=False, max_position_embeddings=256, experts_implementation="eager",
    )  # fmt: skip
    return in_bf16(transformers.Qwen3MoeForCausalLM(config))


@pytest.fixture(scope="module")
def model():
    return qwen3()


@pytest.fixture(scope="module")
def moe():
    model = qwen3_moe()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 3:  # transformers leaves expert weights of a bare configuration small
                parameter.normal_(0, 0.05)
    return model


def logits(model, ids=IDS):
    with torch.no_grad():
        return model(ids).logits


def state(model):
    """Everything that must be restored: bits and identity of parameters and buffers, hooks, instance attributes."""
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes() if tensor.dim() else b"")
    identities = {name: (id(tensor), tensor.data_ptr()) for name, tensor in tensors.items()}
    modules = {name: (sorted(vars(module)), type(module)) for name, module in model.named_modules()}
    hooks = [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]
    config = model.config.to_json_string(), model.config._attn_implementation
    return digest.hexdigest(), identities, modules, hooks, config


def snr_db(reference, other):
    noise = (other.double() - reference.double()).pow(2).mean()
    return float(10 * torch.log10(reference.double().pow(2).mean() / noise))


# ------------------------------------------------------------------------------------------------------ restoring


@pytest.mark.parametrize("key", RECIPES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_model_is_restored_exactly(model, key, kernel):
    before, expected = state(model), logits(model)
    with apply(model, RECIPES[key], kernel=kernel):
        logits(model)

    assert state(model) == before
    assert torch.equal(logits(model), expected)


@pytest.mark.parametrize("key", ["bf16", "fp32", "fp8-ue8m0"])
def test_the_model_is_restored_after_an_exception(model, key):
    def fail():
        with apply(model, RECIPES[key]):
            logits(model)
            raise ZeroDivisionError

    before, expected = state(model), logits(model)
    with pytest.raises(ZeroDivisionError):
        fail()

    assert state(model) == before
    assert torch.equal(logits(model), expected)


def test_the_model_is_untouched_when_a_weight_holds_nan():
    model = qwen3(num_hidden_layers=1)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[3, 200] = torch.nan
    before = state(model)
    refused(model, "fp8-e4m3", r"layers\.0\.mlp\.down_proj: 1 blocks")

    assert state(model) == before


def test_leaving_one_recipe_and_entering_the_next_gives_the_same_logits_as_entering_it_first(model):
    with apply(model, RECIPES["fp8-ue8m0"]):
        first = logits(model)
    with apply(model, RECIPES["fp8-e4m3"]):
        logits(model)
    with apply(model, RECIPES["fp8-ue8m0"]):
        again = logits(model)

    assert torch.equal(first, again)


# --------------------------------------------------------------------------------------------- what is quantised


@pytest.mark.parametrize("key", ["fp8-e4m3", "fp8-ue8m0"])
def test_every_linear_layer_of_every_block_is_quantised_and_the_tied_head_is_not(model, key):
    with apply(model, RECIPES[key]) as applied:
        pass

    assert applied.realised.modules == tuple(f"model.layers.{i}.{name}" for i in range(2) for name in PROJECTIONS)


def test_shares_of_parameters_and_multiply_adds_are_those_counted_by_hand(model):
    with apply(model, RECIPES["fp8-ue8m0"]) as applied:
        pass
    layer = 256 * 256 + 2 * 128 * 256 + 256 * 256 + 3 * 256 * 640  # q, k and v, o, three of the MLP
    norms = 2 * (2 * 256 + 2 * 64) + 256
    embedding = 512 * 256  # also the head

    assert applied.realised.params_quantised == pytest.approx(2 * layer / (2 * layer + norms + embedding))
    assert applied.realised.macs_quantised == pytest.approx(2 * layer / (2 * layer + embedding))


def test_realised_says_what_ran(model):
    for key, execution, gemm_mode in (("bf16", "native", "none"), ("fp8-ue8m0", "emulated", "fast")):
        with apply(model, RECIPES[key]) as applied:
            realised = applied.realised

        assert realised.recipe == key
        assert (realised.execution, realised.gemm_mode) == (execution, gemm_mode)
        assert realised.kernel == best_kernel(torch.device("cpu"))
        assert (realised.device, realised.threads) == ("cpu", torch.get_num_threads())
    with apply(model, RECIPES["fp32"]) as applied:
        assert (applied.realised.kernel, applied.realised.logits_dtype) == ("linear-fp32", "float32")
        assert (applied.realised.params_quantised, applied.realised.modules) == (0.0, ())
    with apply(model, RECIPES["fp8-e4m3"], gemm_mode="exact", kernel="linear-bf16") as applied:
        assert applied.realised.kernel == "linear-bf16+linear-fp32-accumulate-bf16"


def test_counts_are_totals_over_the_weights(model):
    weights = [model.get_submodule(f"model.layers.{i}.{name}").weight for i in range(2) for name in PROJECTIONS]
    expected = [formats.quantize(w, block=(128, 128)).counts for w in weights]
    with apply(model, RECIPES["fp8-ue8m0"]) as applied:
        pass

    assert applied.realised.counts == {key: sum(c[key] for c in expected) for key in expected[0]}
    assert list(applied.counts.values()) == expected


@pytest.mark.parametrize(
    ("name", "stays"),
    [
        ("lm_head", True),
        ("model.embed_tokens", True),
        ("model.layers.0.mlp.gate", True),
        ("model.layers.0.mlp.gate_proj", False),
        ("model.layers.0.mlp.router.layer", True),
        ("model.layers.0.input_layernorm", True),
        ("model.layers.0.mlp.shared_expert_gate", True),
        ("model.layers.0.mlp.shared_expert.gate_proj", False),
        ("model.visual.blocks.0.attn.qkv", True),
        ("mtp.layers.0.self_attn.q_proj", True),
        ("model.layers.0.self_attn.q_proj", False),
        ("gate", False),
    ],
)
def test_default_patterns_keep_what_deepseek_keeps_in_bf16(name, stays):
    assert excluded(name, RECIPES["fp8-ue8m0"]) == stays


def test_a_pattern_on_a_tail_of_the_name_excludes(model):
    recipe = RECIPES["fp8-ue8m0"].model_copy(update={"exclude": (r"layers\.0\..*", "down_proj", "lm_head")})
    with apply(model, recipe) as applied:
        assert applied.realised.modules == tuple(f"model.layers.1.{name}" for name in PROJECTIONS[:-1])


def test_an_untied_head_of_another_name_answers_to_lm_head():
    torch.manual_seed(0)
    config = transformers.GPTNeoXConfig(vocab_size=128, hidden_size=128, intermediate_size=128, num_hidden_layers=1,
                                        num_attention_heads=2)  # fmt: skip
    model = in_bf16(transformers.GPTNeoXForCausalLM(config))
    with apply(model, RECIPES["fp8-ue8m0"]) as applied:
        assert len(applied.realised.modules) == 4
        assert not any("embed_out" in name for name in applied.realised.modules)


# ------------------------------------------------------------------------------------------------------ refusals


def refused(model, key, message, **keywords):
    with pytest.raises(CannotRunError, match=message), apply(model, RECIPES[key], **keywords):
        pass


def test_a_layer_that_cannot_be_quantised_is_refused_by_name():
    config = transformers.GPT2Config(vocab_size=64, n_embd=64, n_layer=1, n_head=2, n_positions=32)
    model = in_bf16(transformers.GPT2LMHeadModel(config))
    refused(model, "fp8-ue8m0", r"transformer\.h\.0\.attn\.c_attn \(Conv1D")
    with apply(model, RECIPES["bf16"]):
        assert logits(model, IDS[:, :8] % 64).isfinite().all()


def test_a_linear_layer_with_its_own_forward_is_refused():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model = qwen3(num_hidden_layers=1)
    model.model.layers[0].mlp.up_proj = Doubled(256, 640, bias=False).bfloat16()
    refused(model, "fp8-ue8m0", "Doubled has a forward of its own")


def test_a_layer_in_another_dtype_is_refused():
    model = qwen3(num_hidden_layers=1)
    model.model.layers[0].mlp.up_proj.float()
    refused(model, "fp8-ue8m0", r"up_proj \(its weight is torch\.float32")
    refused(model.float(), "bf16", r"load it with dtype=torch\.bfloat16")


def test_a_second_recipe_on_top_of_the_first_is_refused(model):
    before = state(model)
    with apply(model, RECIPES["fp8-ue8m0"]):
        inside = logits(model)
        with pytest.raises(CannotRunError, match="already replaced"), apply(model, RECIPES["fp8-e4m3"]):
            pass
        assert torch.equal(logits(model), inside)

    assert state(model) == before


def test_a_recipe_that_would_quantise_nothing_is_refused(model):
    recipe = RECIPES["fp8-ue8m0"].model_copy(update={"exclude": (".*",)})
    with pytest.raises(CannotRunError, match="no layer of Qwen3ForCausalLM"), apply(model, recipe):
        pass


def test_native_execution_of_a_quantised_recipe_is_refused(model):
    refused(model, "fp8-ue8m0", "no native kernel", execution="native")
    with apply(model, RECIPES["bf16"], execution="native") as applied:
        assert applied.realised.execution == "native"


@pytest.mark.parametrize("keywords", [{"execution": "emulate"}, {"gemm_mode": "quick"}, {"kernel": "linear-fp16"}])
def test_an_unknown_word_is_refused(model, keywords):
    with pytest.raises(UsageError, match="Known:"), apply(model, RECIPES["bf16"], **keywords):
        pass


def test_input_of_another_dtype_is_refused(model):
    with apply(model, RECIPES["fp8-ue8m0"]), pytest.raises(CannotRunError, match=r"got torch\.float32"):
        model.model.layers[0].mlp.up_proj(torch.ones(1, 256))


# ------------------------------------------------------------------------------------------------- the variants


@pytest.mark.parametrize("key", [key for key in RECIPES if RECIPES[key].weights])
def test_weights_of_every_recipe_are_codes_times_scales_of_the_master(model, key):
    recipe, name = RECIPES[key], "model.layers.0.mlp.down_proj"
    weight = model.get_submodule(name).weight.detach()
    if recipe.weights_via:
        weight = formats.dequantize(formats.quantize_as(weight, recipe.weights_via))
    expected = formats.dequantize(formats.quantize_as(weight, recipe.weights))
    for mode in ("fast", "exact"):
        with apply(model, recipe, gemm_mode=mode, kernel="linear-fp32-accumulate-bf16") as applied:
            operand = applied.operands[name]

        assert torch.equal(operand, expected.bfloat16().float() if mode == "fast" else expected)


def test_noise_of_the_variants_is_ordered_as_their_formats_say(model):
    with apply(model, RECIPES["fp32"]):
        reference = logits(model)
    noise = {}
    for key in RECIPES:
        with apply(model, RECIPES[key]):
            noise[key] = snr_db(reference, logits(model))
    ladder = ["bf16", "int8-row", "w8a16-e4m3", "fp8-e4m3", "fp8-e5m2", "nvfp4", "mxfp4"]

    assert [noise[key] for key in ladder] == sorted((noise[key] for key in ladder), reverse=True)
    assert noise["fp8-ue8m0-requant"] < noise["fp8-ue8m0"]
    assert noise["mxfp8-floor"] < noise["mxfp8-even"] < noise["mxfp8-rceil"]
    assert noise["mxfp4"] > 3


@pytest.mark.parametrize("key", ["bf16-kv8", "fp8-ue8m0-kv8"])
def test_an_fp8_cache_rounds_keys_and_values_and_nothing_else(model, key):
    seen = []

    def watch(query, keys, values, **_):
        seen.append((query, keys, values))
        return original(query, keys, values, **_)

    original = F.scaled_dot_product_attention
    with pytest.MonkeyPatch.context() as patch, apply(model, RECIPES[key]) as applied:
        patch.setattr(F, "scaled_dot_product_attention", watch)
        logits(model)
    grid = formats.ELEMENTS["e4m3"]

    assert applied.realised.execution == "emulated"
    assert len(seen) == 2
    for query, keys, values in seen:
        for tensor in (keys, values):
            assert torch.equal(grid.round(tensor.float().clamp(-448, 448)), tensor.float())
        assert not torch.equal(grid.round(query.float().clamp(-448, 448)), query.float())


def test_an_fp8_cache_gives_the_same_tokens_with_and_without_a_cache(model):
    with apply(model, RECIPES["bf16-kv8"]), torch.no_grad():
        whole = model(IDS).logits
        cache = model(IDS[:, :-1], use_cache=True).past_key_values
        step = model(IDS[:, -1:], past_key_values=cache).logits

    assert snr_db(whole[:, -1:], step) > 30


def test_an_fp8_cache_is_refused_where_it_cannot_be_emulated():
    model = qwen3(num_hidden_layers=1)
    model.set_attn_implementation("eager")
    refused(model, "bf16-kv8", "attn_implementation='sdpa'")
    model.config.kv_lora_rank = 64
    refused(model, "bf16-kv8", "caches latents")


# -------------------------------------------------------------------------------------------------- the numbers


def e4m3(x, rows, ue8m0):
    """Dequantised numbers by numpy and ml_dtypes, blocks of rows x 128: nothing of ours."""
    x = x.detach().float().numpy().reshape(-1, x.shape[-1])
    out = np.zeros_like(x)
    for i in range(0, x.shape[0], rows):
        for j in range(0, x.shape[1], 128):
            tile = x[i : i + rows, j : j + 128]
            s = np.float32(max(np.abs(tile).max(), np.float32(1e-4))) / np.float32(448)
            if ue8m0:
                mantissa, exponent = np.frexp(s)
                s = np.float32(2.0 ** (int(exponent) - (mantissa == 0.5)))
            q = np.clip(tile / s, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
            out[i : i + rows, j : j + 128] = q * s
    return torch.from_numpy(out)


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


# ---------------------------------------------------------------------------------------------- shared inputs


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


def test_inference_mode_gives_the_logits_of_no_grad(model):
    with apply(model, RECIPES["fp8-ue8m0"]):
        expected = logits(model)
        with torch.inference_mode():
            actual = model(IDS).logits.clone()

    assert torch.equal(actual, expected)


def test_q_k_and_v_and_gate_and_up_share_their_quantised_input(model, monkeypatch):
    calls = []
    from evalsuite.precision.fake import FakeQuant

    original = FakeQuant.__call__
    monkeypatch.setattr(FakeQuant, "__call__", lambda self, x: calls.append(x.shape) or original(self, x))
    with apply(model, RECIPES["fp8-ue8m0"]):
        logits(model)

    assert len(calls) == 2 * 4  # a layer: attention input, attention output, MLP input, MLP middle


# --------------------------------------------------------------------------------------------------- experts


def test_experts_and_dense_layers_are_quantised_and_the_router_is_not(moe):
    with apply(moe, RECIPES["fp8-ue8m0"]) as applied:
        pass
    dense = tuple(f"model.layers.0.{name}" for name in PROJECTIONS)
    attention = tuple(f"model.layers.1.{name}" for name in PROJECTIONS[:4])
    experts = ("model.layers.1.mlp.experts.gate_up_proj", "model.layers.1.mlp.experts.down_proj")

    assert set(applied.realised.modules) == {*dense, *attention, *experts}
    attention_macs = 128 * 128 + 2 * 64 * 128 + 128 * 128
    expert_macs = 2 * (3 * 96 * 128)  # two of four experts a token
    quantised = 2 * attention_macs + 3 * 256 * 128 + expert_macs
    router, head = 4 * 128, 512 * 128
    assert applied.realised.macs_quantised == pytest.approx(quantised / (quantised + router + head))


def test_the_bf16_arm_of_a_mixture_of_experts_agrees_with_transformers(moe):
    with torch.no_grad():
        for implementation in ("eager", "grouped_mm"):
            moe.set_experts_implementation(implementation)
            expected = logits(moe)
            with apply(moe, RECIPES["bf16"], kernel="linear-bf16"):
                assert snr_db(expected, logits(moe)) > 40


@pytest.mark.parametrize("mode", ["fast", "exact"])
def test_experts_equal_their_straightforward_recomputation(moe, mode):
    experts = moe.model.layers[1].mlp.experts
    x = torch.randn(6, 128, generator=torch.Generator().manual_seed(0)).bfloat16()
    index = torch.tensor([[0, 1], [2, 3], [1, 0], [3, 0], [0, 2], [1, 3]])
    weights = torch.rand(6, 2, generator=torch.Generator().manual_seed(1)).bfloat16()
    expected = torch.zeros(6, 128)
    for token in range(6):
        for slot in range(2):
            e = index[token, slot]
            inner = F.linear(e4m3(x[token], 1, True), e4m3(experts.gate_up_proj[e], 128, True)).bfloat16()
            gate, up = inner.chunk(2, dim=-1)
            middle = F.silu(gate) * up
            out = F.linear(e4m3(middle, 1, True), e4m3(experts.down_proj[e], 128, True)).bfloat16()
            expected[token] += (out[0] * weights[token, slot]).float()
    with torch.no_grad(), apply(moe, RECIPES["fp8-ue8m0"], gemm_mode=mode):
        actual = experts(x, index, weights)

    assert snr_db(expected, actual) > 45


def test_a_mixture_of_experts_is_restored_exactly(moe):
    before, expected = state(moe), logits(moe)
    with apply(moe, RECIPES["fp8-e4m3"]):
        logits(moe)

    assert state(moe) == before
    assert torch.equal(logits(moe), expected)


def test_transposed_interleaved_experts_with_biases_agree_with_transformers():
    torch.manual_seed(0)
    config = transformers.GptOssConfig(
        vocab_size=128, hidden_size=128, intermediate_size=64, num_hidden_layers=1, head_dim=64, num_attention_heads=2,
        num_key_value_heads=1, num_local_experts=4, num_experts_per_tok=2, max_position_embeddings=128,
    )  # fmt: skip
    model = in_bf16(transformers.GptOssForCausalLM(config))
    ids = IDS % 128
    expected = logits(model, ids)
    with apply(model, RECIPES["bf16"]):
        assert snr_db(expected, logits(model, ids)) > 40
    found = {g.name: g for g in gemms(model, RECIPES["fp8-ue8m0"])}
    weight = found["model.layers.0.mlp.experts.gate_up_proj"].weight
    with apply(model, RECIPES["fp8-ue8m0"]) as applied:
        assert snr_db(expected, logits(model, ids)) > 15
    operand = applied.operands["model.layers.0.mlp.experts.gate_up_proj"]

    # Blocks run along the reduction dimension, which is the middle one here.
    assert torch.equal(operand[1].float(), e4m3(weight[1].t(), 128, True))
