import pytest
import transformers
from test_precision_models import IDS, PROJECTIONS, in_bf16, logits, qwen3, refused
from torch import nn

from evalsuite.errors import CannotRunError
from evalsuite.precision import RECIPES, apply
from evalsuite.precision.coverage import excluded, gemms


@pytest.fixture(scope="module")
def model():
    return qwen3()


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
    model = qwen3(num_hidden_layers=1, tie_word_embeddings=False)
    model.readout = model.lm_head
    del model.lm_head
    model.get_output_embeddings = lambda: model.readout
    head = {gemm.name: gemm for gemm in gemms(model, RECIPES["fp8-ue8m0"])}["readout"]

    assert not head.quantised
    assert head.macs == 512 * 256


def test_a_tied_head_stays_even_where_no_pattern_names_it(model):
    recipe = RECIPES["fp8-ue8m0"].model_copy(update={"exclude": ()})
    with apply(model, recipe) as applied:
        assert applied.realised.modules == tuple(f"model.layers.{i}.{name}" for i in range(2) for name in PROJECTIONS)


def test_an_untied_head_is_quantised_where_no_pattern_names_it():
    model = qwen3(num_hidden_layers=1, tie_word_embeddings=False)
    with apply(model, RECIPES["fp8-ue8m0"].model_copy(update={"exclude": ()})) as applied:
        assert applied.realised.modules[-1] == "lm_head"


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


def test_a_recipe_that_would_quantise_nothing_is_refused(model):
    recipe = RECIPES["fp8-ue8m0"].model_copy(update={"exclude": (".*",)})
    with pytest.raises(CannotRunError, match="no layer of Qwen3ForCausalLM"), apply(model, recipe):
        pass
