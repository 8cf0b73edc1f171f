"""BF16 attention on processors without BF16 arithmetic: FP32 operands, one rounding of the output.

There, torch's BF16 attention takes 1.6 to 3.4 times as long as FP32 (half of a decode step), and rounds the attention
weights on the way. Keys, values and queries are BF16 numbers either way; only the arithmetic between them is wider. All
arms of a run share it, and `realised.kernel` names it.
"""

from typing import Any

from torch import Tensor, nn

NAME = "sdpa-fp32"


def use_fp32_attention(model: Any) -> None:
    """Make a transformers model that runs `sdpa` run it in FP32, for good."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
    ) -> tuple[Tensor, None]:
        wide = mask.float() if mask is not None and mask.is_floating_point() else mask
        out, _ = sdpa_attention_forward(module, query.float(), key.float(), value.float(), wide, **options)
        return out.to(query.dtype), None

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.config._attn_implementation = NAME
