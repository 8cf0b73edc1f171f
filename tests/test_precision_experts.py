import pytest
import torch
import transformers
from test_precision_models import (
    IDS,
    PROJECTIONS,
    deepseek_v3,
    e4m3,
    in_bf16,
    logits,
    qwen3_moe,
    refused,
    runnable,
    snr_db,
    state,
)
from torch.nn import functional as F

from evalsuite.precision import RECIPES, apply
from evalsuite.precision.coverage import gemms


@pytest.fixture(scope="module")
def moe():
    model = qwen3_moe()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 3:  # transformers leaves expert weights of a bare configuration small
                parameter.normal_(0, 0.05)
    return model


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


@pytest.fixture(scope="module")
def deepseek():
    return deepseek_v3()


LATENT = ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")


@pytest.mark.parametrize("key", ["fp8-e4m3", "fp8-ue8m0", "mxfp8-rceil", "fp8-e4m3-tensor-static"])
def test_deepseek_v3_quantises_latent_attention_dense_shared_and_routed_experts_and_nothing_else(deepseek, key):
    with apply(deepseek, runnable(key, deepseek)) as applied:
        pass
    attention = [f"model.layers.{i}.self_attn.{name}" for i in range(2) for name in LATENT]
    dense = [f"model.layers.0.mlp.{name}" for name in MLP]
    routed = [f"model.layers.1.mlp.experts.{name}" for name in ("gate_up_proj", "down_proj")]
    shared = [f"model.layers.1.mlp.shared_experts.{name}" for name in MLP]

    assert sorted(applied.realised.modules) == sorted(attention + dense + routed + shared)


def test_deepseek_v3_keeps_router_embedding_head_and_norms_in_bf16(deepseek):
    left = {g.name for g in gemms(deepseek, RECIPES["fp8-ue8m0"]) if not g.quantised}

    assert left == {"model.layers.1.mlp.gate", "lm_head"}


def test_deepseek_v3_shares_are_those_counted_by_hand(deepseek):
    with apply(deepseek, RECIPES["fp8-ue8m0"]) as applied:
        pass
    attention = 48 * 64 + 96 * 48 + 48 * 64 + 128 * 32 + 64 * 64
    dense, expert = 3 * 192 * 64, 3 * 48 * 64
    left = 2 * 512 * 64 + 4 * 64 + 2 * (2 * 64 + 48 + 32) + 64  # embedding and head, router, norms

    total = 2 * attention + dense + 5 * expert
    assert applied.realised.params_quantised == pytest.approx(total / (total + left))
    active = 2 * attention + dense + 3 * expert  # two routed experts and the shared one
    assert applied.realised.macs_quantised == pytest.approx(active / (active + 4 * 64 + 512 * 64))


def test_deepseek_v3_runs_close_to_bf16_and_is_restored_exactly(deepseek):
    before, expected = state(deepseek), logits(deepseek)
    with apply(deepseek, RECIPES["bf16"], kernel="linear-bf16"):
        assert snr_db(expected, logits(deepseek)) > 35
    with apply(deepseek, RECIPES["fp8-ue8m0"]):
        assert 12 < snr_db(expected, logits(deepseek)) < 40

    assert state(deepseek) == before
    assert torch.equal(logits(deepseek), expected)


def test_an_fp8_cache_of_latents_is_refused(deepseek):
    refused(deepseek, "bf16-kv8", "caches latents")


def test_a_tied_head_of_a_mixture_of_experts_stays_in_bf16():
    model = qwen3_moe(tie_word_embeddings=True)
    with apply(model, RECIPES["fp8-ue8m0"].model_copy(update={"exclude": (r".*\.gate",)})) as applied:
        names = applied.realised.modules

    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert "lm_head" not in names
    assert not [name for name in names if name.endswith(".gate")]
    assert len(names) == 7 + 4 + 2
