import pytest
import torch
from test_precision_models import IDS, logits, qwen3, refused, snr_db
from torch.nn import functional as F

from evalsuite.precision import RECIPES, apply, formats


@pytest.fixture(scope="module")
def model():
    return qwen3()


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
