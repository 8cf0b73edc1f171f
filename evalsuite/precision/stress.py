"""Copies of a model with a planted fault, to see whether a format, or a whole evaluation, notices.

    outlier-channels   A few channels of what the norms hand to the linear layers become `strength` times larger, and
                       the weights that read them as much smaller. With a power of two the copy computes the same BF16
                       numbers, bit for bit; but every quantiser meets activations that span many binades, as large
                       models have them. A format with too few binades a block (INT8, FP4) falls apart.
    weight-noise       Every matrix of the layers gets Gaussian noise of `strength` times its own spread: a real loss.

One tensor at a time, so a model of any size passes. Names are those of Llama- and Qwen-type models.
"""

import hashlib
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from evalsuite.errors import CannotRunError, UsageError, did_you_mean
from evalsuite.precision.folders import ShardWriter, copy_others, new_folder
from evalsuite.precision.shards import Shards

CHANNELS = 4
"""Outlier channels a norm."""
NORM = re.compile(r"(.*\.layers\.\d+)\.(input_layernorm|post_attention_layernorm)\.weight")
READERS = {
    "input_layernorm": re.compile(r"(.*\.layers\.\d+)\.self_attn\.[qkv]_proj\.weight"),
    "post_attention_layernorm": re.compile(r"(.*\.layers\.\d+)\.mlp\.(?:gate|up)_proj\.weight"),
}
MATRIX = re.compile(r".*\.layers\.\d+\..*_proj\.weight")

Fault = Callable[[str, Tensor, float], Tensor | None]
"""(name, tensor, strength) -> the tensor with the fault; None where it has no part in it."""


def _seed(name: str) -> int:
    return int(hashlib.sha256(name.encode()).hexdigest()[:12], 16)


def _channels(norm: str, size: int) -> Tensor:
    """The outlier channels of one norm, from its name."""
    generator = torch.Generator().manual_seed(_seed(norm))
    return torch.randperm(size, generator=generator)[:CHANNELS]


def outlier_channels(name: str, tensor: Tensor, strength: float) -> Tensor | None:
    """Norm weights up, the columns that read them down; exact in BF16, since `strength` is a power of two."""
    if match := NORM.fullmatch(name):
        changed = tensor.clone()
        changed[_channels(f"{match[1]}.{match[2]}", len(tensor))] *= strength
        return changed
    for norm, pattern in READERS.items():
        if match := pattern.fullmatch(name):
            changed = tensor.clone()
            changed[:, _channels(f"{match[1]}.{norm}", tensor.shape[1])] /= strength
            return changed
    return None


def weight_noise(name: str, tensor: Tensor, strength: float) -> Tensor | None:
    """Gaussian noise relative to the spread of the matrix."""
    if not MATRIX.fullmatch(name):
        return None
    noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(_seed(name)))
    return (tensor.float() + strength * tensor.float().std() * noise).to(tensor.dtype)


FAULTS: dict[str, Fault] = {"outlier-channels": outlier_channels, "weight-noise": weight_noise}


def plant(folder: Path, fault: str, strength: float, out: Path) -> int:
    """Write a copy of the model in *folder* with a fault; returns how many tensors it changed.

    Raises:
        UsageError: an unknown fault, or a strength that it cannot take.
        CannotRunError: the model has no layers of the known names.
        RefusedError: *out* is there already and not empty.
    """
    if fault not in FAULTS:
        raise UsageError(f"Unknown fault '{fault}'.{did_you_mean(fault, FAULTS)}")
    if strength <= 0:
        raise UsageError(f"The strength must be positive (found: {strength}).")
    if fault == "outlier-channels" and not math.log2(strength).is_integer():
        raise UsageError(f"outlier-channels needs a power of two, or the copy computes other numbers: {strength}.")
    shards, changed = Shards(folder), 0
    with new_folder(out) as part:
        writer = ShardWriter(part)
        for name in shards.entries:
            tensor = shards.get(name)
            made = FAULTS[fault](name, tensor, strength)
            changed += made is not None
            writer.add(name, tensor if made is None else made)
        if not changed:
            raise CannotRunError(f"{folder}: no layers named as in Llama- or Qwen-type models; nothing to plant in.")
        writer.finish()
        shutil.copyfile(folder / "config.json", part / "config.json")
        copy_others(folder, part)
    return changed
