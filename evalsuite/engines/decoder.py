"""A forward pass of our own for Llama- and Qwen-type decoders: fewer operators than transformers', the same numbers.

Tokens of many rows stand packed in one dimension, so no layer sees padding; attention alone knows rows (`cascade.py`)
and is handed in. Linear layers, MLPs, the rotary embedding and the output head are the model's own modules, called
where transformers calls them, so an arm's forwards apply, and every BF16 rounding stands where it stands there.

`agrees` holds it against transformers before the first use: the model's own weights, in FP32, at most `PROBED` layers.
A model that differs, or is of another type, runs through transformers (`stock.py`).
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

TYPES = ("llama", "qwen2", "qwen3")
"""`model_type` of models whose layers are laid out as here."""
ROTARY = ("default", "linear", "llama3", "yarn")
"""Kinds of rotary embedding whose angles depend on a token's position alone, not on how long the text has become."""
PROBED = 4
TOLERANCE = 1e-4
"""Largest difference of FP32 logits, in units of the largest logit or of 1."""

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, queries (N, heads, D), keys (N, kv heads, D), values) -> (N, heads, D), of the type of the queries."""


class Decoder:
    """The layers of a transformers model, run on packed tokens."""

    def __init__(self, model: Any) -> None:
        body = model.model
        self._embed, self._layers, self._norm = body.embed_tokens, list(body.layers), body.norm
        self._rotary = body.rotary_emb
        attention = self._layers[0].self_attn
        self.layers = len(self._layers)
        self.head_dim: int = attention.head_dim
        self.scale: float = attention.scaling

    def __call__(self, ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Normalised hidden states (N, hidden) of packed tokens; `ids`, `positions`: int64 (N,)."""
        x = self._embed(ids)
        cos, sin = (part[0].unsqueeze(1) for part in self._rotary(x, positions[None]))
        for number, layer in enumerate(self._layers):
            attention = layer.self_attn
            q, k, v = self._heads(attention, _rms(layer.input_layernorm, x))
            both = _rotated(torch.cat((q, k), 1), cos, sin)
            mixed = attend(number, both[:, : q.shape[1]], both[:, q.shape[1] :], v)
            x = x + attention.o_proj(mixed.reshape(len(ids), -1))
            x = x + layer.mlp(_rms(layer.post_attention_layernorm, x))
        return _rms(self._norm, x)

    def _heads(self, attention: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shape = (len(x), -1, self.head_dim)
        q, k, v = (getattr(attention, f"{name}_proj")(x).view(shape) for name in "qkv")
        if hasattr(attention, "q_norm"):
            q, k = _rms(attention.q_norm, q), _rms(attention.k_norm, k)
        return q, k, v


def _rms(module: Any, x: Tensor) -> Tensor:
    """Root-mean-square norm, computed in FP32 and rounded before the weight, as both model types do."""
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + module.variance_epsilon)
    scaled: Tensor = module.weight * wide.to(x.dtype)
    return scaled


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding in the half-split layout."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


def could_run(model: Any) -> bool:
    """Whether a model is of a type that `Decoder` knows, with full attention and plain positions in every layer."""
    config = model.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    rotary = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    plain = kinds == {"full_attention"} and rotary in ROTARY and not getattr(config, "pretraining_tp", 1) > 1
    return config.model_type in TYPES and plain


def shallow_copy(model: Any) -> Any:
    """An FP32 model of the same configuration and weights with at most `PROBED` layers: a probe that stays small."""
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = min(PROBED, config.num_hidden_layers)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[: config.num_hidden_layers]
    config.dtype, config._attn_implementation = torch.float32, "sdpa"
    probe: nn.Module = type(model)(config)
    kept = probe.state_dict().keys()
    probe.load_state_dict({name: value for name, value in model.state_dict().items() if name in kept})
    return probe.float().eval().requires_grad_(False)
