"""What the tests of `precision` share: random models and tensors, fingerprints, E4M3 by numpy alone."""

import hashlib

import ml_dtypes
import numpy as np
import pytest
import torch

from evalsuite.errors import CannotRunError
from evalsuite.precision import RECIPES, apply
from evalsuite.precision.calibrate import Texts, calibrate
from evalsuite.precision.elements import ELEMENTS
from evalsuite.precision.recipes import needs_calibration
from evalsuite.precision.scales import static_scale

transformers = pytest.importorskip("transformers")

ALL_BF16 = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
ML_DTYPES = {
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
    "e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "e2m1": ml_dtypes.float4_e2m1fn,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e3m2": ml_dtypes.float6_e3m2fn,
}
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


def qwen3_moe(**changes):
    torch.manual_seed(0)
    config = transformers.Qwen3MoeConfig(**({
        "vocab_size": 512, "hidden_size": 128, "intermediate_size": 256, "moe_intermediate_size": 96,
        "num_hidden_layers": 2, "head_dim": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "num_experts": 4,
        "num_experts_per_tok": 2, "mlp_only_layers": [0], "tie_word_embeddings": False, "max_position_embeddings": 256,
        "experts_implementation": "eager",
    } | changes))  # fmt: skip
    return in_bf16(transformers.Qwen3MoeForCausalLM(config))


def deepseek_v3():
    """Multi-head latent attention, one dense layer and one of experts, shared experts, a grouped router."""
    torch.manual_seed(0)
    config = transformers.DeepseekV3Config(
        vocab_size=512, hidden_size=64, intermediate_size=192, moe_intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, n_shared_experts=1, n_routed_experts=4, n_group=2, topk_group=1,
        num_experts_per_tok=2, first_k_dense_replace=1, kv_lora_rank=32, q_lora_rank=48, qk_rope_head_dim=16,
        qk_nope_head_dim=32, v_head_dim=32, max_position_embeddings=128, tie_word_embeddings=False,
    )  # fmt: skip
    model = in_bf16(transformers.DeepseekV3ForCausalLM(config))
    for parameter in model.parameters():
        if parameter.dim() == 3:
            torch.nn.init.normal_(parameter, std=0.05)
    return model.requires_grad_(False)


def runnable(key, model):
    """The recipe, calibrated on IDS where its scales are static."""
    recipe = RECIPES[key]
    if not needs_calibration(recipe):
        return recipe
    return recipe.model_copy(update={"calibration": calibrate(model, recipe, Texts("IDS", "0" * 64, IDS.tolist()))})


def constant_of(quant, x):
    """The scale of one tensor as if calibrated on it (its largest finite magnitude), if the scale is static."""
    return static_scale(float(x.float().abs().nan_to_num(0, 0, 0).max()), quant) if quant.static else None


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


def refused(model, key, message, **keywords):
    with pytest.raises(CannotRunError, match=message), apply(model, RECIPES[key], **keywords):
        pass


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


def wide(shape, seed=0):
    """Random BF16 numbers over many binades, so that clipping, subnormals and zero flushes all occur."""
    generator = torch.Generator().manual_seed(seed)
    exponents = torch.randint(-12, 12, shape, generator=generator).float()
    return (torch.randn(shape, generator=generator) * torch.exp2(exponents)).bfloat16()


def same_bits(a, b):
    """Equal including the sign of zero; NaN equals NaN whatever its payload."""
    return bool(((a.view(torch.int32) == b.view(torch.int32)) | (a.isnan() & b.isnan())).all())


def sha16(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def table_hash(table):
    array = table.numpy().astype("<f4")
    array[np.isnan(array)] = np.float32("nan")
    return sha16(array)


def encode(name, values):
    fmt = ELEMENTS[name]
    return fmt.encode(fmt.round(values.clamp(-fmt.max, fmt.max)))
