"""An FP8 KV cache, emulated: keys and values are quantised and dequantised where attention reads them.

Serving engines store keys (after rotary embedding) and values in FP8 with the constant scale 1 unless they were
calibrated. With that scale quantising is idempotent, so quantising what attention reads equals quantising what the
cache stores, and it works for forward passes that keep no cache. The query and the attention stay in BF16.

transformers looks attention up by name. For the time of the context the model's configuration names ours, which
quantises and then calls the one that was named before; the name is taken back on exit. The two tables are those of the
library that made the model, which is loaded already; this room does not import it.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from evalsuite.errors import CannotRunError
from evalsuite.precision.fake import FakeQuant
from evalsuite.records import Quant

PREFIX = "evalsuite-kv"


Converted = Callable[[Tensor], Tensor]
"""BF16 keys or values -> the numbers that attention reads, float32."""
Counted = Callable[[str, FakeQuant], Converted]
"""`layers.Arm.counted`: (name, quantiser) -> a quantiser whose counts stand under that name."""


@contextmanager
def quantised_cache(model: nn.Module, quant: Quant, counted: Counted) -> Iterator[tuple[Converted, Converted]]:
    """Run *model* with keys and values in *quant*, whose scale is `unit`; yields what becomes of keys and of values.

    Raises:
        CannotRunError: the model has more than one configuration, keeps latents instead of keys and values (MLA), or
            runs an attention that is not in transformers' table (eager).
    """
    attentions, masks = _tables()
    config: Any = model.config
    _check(config, quant, attentions)
    before = config._attn_implementation
    attend, fake = attentions[before], FakeQuant(quant, next(model.parameters()).device)
    keys, values = counted("kv_cache.keys", fake), counted("kv_cache.values", fake)

    def attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        return attend(module, query, keys(key).to(key.dtype), values(value).to(value.dtype), *args, **kwargs)

    name = f"{PREFIX}-{id(model)}"
    attentions[name], masks[name] = attention, masks[before]
    config._attn_implementation = name
    try:
        yield keys, values
    finally:
        config._attn_implementation = before
        del attentions[name], masks[name]


def _tables() -> tuple[Any, Any]:
    """transformers' tables of attention functions and of mask functions, by name."""
    try:
        modeling, masking = (sys.modules[f"transformers.{name}"] for name in ("modeling_utils", "masking_utils"))
    except KeyError:
        raise CannotRunError("An FP8 KV cache is emulated for transformers models; this is none.") from None
    return modeling.ALL_ATTENTION_FUNCTIONS, masking.ALL_MASK_ATTENTION_FUNCTIONS


def _check(config: Any, quant: Quant, attentions: Any) -> None:
    """What `quantised_cache` needs."""
    if quant.scale != "unit":
        raise CannotRunError(f"A KV cache with '{quant.scale}' scales is not emulated; the scale must be 'unit'.")
    if config.get_text_config() is not config or getattr(config, "kv_lora_rank", None) is not None:
        raise CannotRunError(
            f"{type(config).__name__}: the FP8 KV cache is emulated for text models that cache keys and values; this "
            "one caches latents or has several parts. Use a recipe without '-kv8'."
        )
    if config._attn_implementation not in attentions:
        raise CannotRunError(
            f"Attention '{config._attn_implementation}' cannot be given an FP8 KV cache; load the model with "
            "attn_implementation='sdpa'."
        )
