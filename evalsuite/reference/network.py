"""The model: a Qwen3 of 4.5 million parameters, and how it is written to disk.

Every Linear has sizes that are multiples of 128, so 128x128 scale blocks fit without a remainder. Trained in FP32,
stored in BF16: the stored weights are the model. `config.json` and `generation_config.json` both name the end token;
a model without one never stops.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM


@dataclass(frozen=True, slots=True)
class Size:
    """What of the architecture varies."""

    hidden: int = 256
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    head: int = 64
    intermediate: int = 640


WEIGHT_SPREAD = 0.02
EMBEDDING_SPREAD = 0.5
FULL = Size()
TINY = Size(hidden=64, layers=2, heads=2, kv_heads=1, head=32, intermediate=128)


def build_model(tokenizer: PreTrainedTokenizerFast, size: Size = FULL) -> Qwen3ForCausalLM:
    """A freshly initialised model; call torch.manual_seed first.

    What a layer adds must not drown the token it stands on, or copying is learned late. So embeddings begin large,
    layers begin by adding nothing, and the last norm keeps the logits (tied to the embeddings) small: the model begins
    by repeating its input, that token at logit 4 among others with a spread of 1/4.
    """
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        head_dim=size.head,
        intermediate_size=size.intermediate,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        initializer_range=WEIGHT_SPREAD,
        dtype="float32",
        attn_implementation="sdpa",
    )
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(EMBEDDING_SPREAD / WEIGHT_SPREAD)
        model.model.norm.weight.fill_(0.25 / (EMBEDDING_SPREAD * size.hidden**0.5))
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    return model


def transplant(folder: Path, tokenizer: PreTrainedTokenizerFast, model: Qwen3ForCausalLM) -> None:
    """Give `model` the weights of an exported folder; the embedding of a token that folder lacks stays as it is."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
    places = AutoTokenizer.from_pretrained(str(folder)).get_vocab()
    weights = source.state_dict()
    old, new = weights["model.embed_tokens.weight"], model.model.embed_tokens.weight.detach().clone()
    for token, place in tokenizer.get_vocab().items():
        if token in places:
            new[place] = old[places[token]]
    weights |= {"model.embed_tokens.weight": new, "lm_head.weight": new}
    model.load_state_dict(weights)


def export(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a folder that `from_pretrained` loads: BF16 safetensors, both configurations, the tokenizer."""
    import copy

    import torch
    from transformers import GenerationConfig

    stored = copy.deepcopy(model).to("cpu", torch.bfloat16)
    stored.config.dtype = torch.bfloat16
    # No `max_new_tokens`: it would overrule the budget that lm-eval's `hf` model sets as a total length.
    stored.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    stored.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
