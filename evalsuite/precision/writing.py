"""Write the checkpoint of an arm: the codes and scales that were judged are those that ship.

One tensor at a time: read from the BF16 checkpoint, quantised by the function that arms use (`layers.quantise_matrix`),
added to the shard at hand; a full shard goes to disk. At most one shard is in memory. Everything is written beside the
target under another name, read back and checked by `checkpoints.read`, and renamed last, so a folder of that name is
always whole.
"""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from evalsuite.errors import CannotRunError, EvalsuiteError
from evalsuite.precision.checkpoints import Checkpoint, is_quantized, read
from evalsuite.precision.folders import ShardWriter, copy_others, new_folder, write_json
from evalsuite.precision.layers import quantise_matrix
from evalsuite.precision.layouts import Layout, layout_of
from evalsuite.precision.shards import Shards
from evalsuite.records import Recipe

MASTERS = (torch.bfloat16, torch.float32, torch.float16)
"""Types that count as a master; wider ones are rounded to BF16 first, as every arm does."""


@dataclass(frozen=True)
class Plan:
    """What is to be quantised of which checkpoint."""

    folder: Path
    recipe: Recipe
    names: frozenset[str]
    """Tensors to quantise."""
    left: tuple[str, ...]
    """Modules left in BF16, by name."""


@dataclass(frozen=True)
class Written:
    """A finished checkpoint."""

    folder: Path
    layout: str
    checkpoint: Checkpoint
    """As read back."""
    size_bytes: int
    """Of the weight files."""
    odd: tuple[str, ...]
    """Weights whose shape is no multiple of the block. Evalsuite runs them; transformers and vLLM refuse them."""
    counts: dict[str, int]
    """`clipped`, `zero_flushed`, `nonfinite_blocks` over the quantised weights."""


def check_master(folder: Path) -> None:
    """CannotRunError if a model folder holds quantised weights."""
    if is_quantized(folder):
        raise CannotRunError(f"{folder} is quantised already. Codes are made once, from the BF16 master: name that.")


def write(plan: Plan, out: Path, advance: Callable[[int, int], None] | None = None) -> Written:
    """Write the checkpoint of a plan to the folder *out*.

    Args:
        plan: what to quantise.
        out: a folder that does not exist or is empty.
        advance: told (tensors done, tensors in all) after each tensor.

    Raises:
        UsageError: no layout holds the recipe.
        RefusedError: *out* is not empty.
        CannotRunError: the model is quantised already, or a weight holds NaN or Inf. Nothing is left behind.
    """
    layout = layout_of(plan.recipe)
    check_master(plan.folder)
    out = out.absolute()
    with new_folder(out) as part:
        counts = _weights(plan, layout, part, advance or (lambda *_: None))
        _configuration(plan, layout, part)
        copy_others(plan.folder, part)
        done = _checked(plan, part)
    size = sum(file.stat().st_size for file in out.glob("*.safetensors"))
    return Written(out, layout.name, done, size, _odd(done), dict(counts))


def _odd(checkpoint: Checkpoint) -> tuple[str, ...]:
    block, entries = checkpoint.found.block, checkpoint.shards.entries
    return tuple(
        name for name in checkpoint.layers
        if any(size > 0 and full % size for size, full in zip(block, entries[name].shape[-2:], strict=True))
    )  # fmt: skip


def _weights(plan: Plan, layout: Layout, folder: Path, advance: Callable[[int, int], None]) -> Counter[str]:
    shards, shard, counts = Shards(plan.folder), ShardWriter(folder), Counter[str]()
    for i, name in enumerate(shards.entries):
        tensor = shards.get(name)
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise CannotRunError(f"{plan.folder}: '{name}' holds NaN or Inf; a quantised copy would hide it. The "
                                 "checkpoint is damaged; load it again or compare its hash.")  # fmt: skip
        if name in plan.names:
            if tensor.dtype not in MASTERS:
                raise CannotRunError(f"{plan.folder}: '{name}' is {tensor.dtype}, not a BF16 master.")
            made = quantise_matrix(tensor.to(torch.bfloat16), plan.recipe)
            counts.update(made.counts)
            shard.add(name, made.codes.view(torch.float8_e4m3fn))
            shard.add(f"{name.removesuffix('weight')}{layout.suffix}", layout.shaped(made.scales))
        else:
            shard.add(name, tensor)
        advance(i + 1, len(shards.entries))
    shard.finish()
    return counts


def _configuration(plan: Plan, layout: Layout, folder: Path) -> None:
    config: dict[str, Any] = json.loads((plan.folder / "config.json").read_text(encoding="utf-8"))
    key = "torch_dtype" if "torch_dtype" in config else "dtype"
    made = {**config, key: "bfloat16", "quantization_config": layout.config(layout, plan.left)}
    write_json(folder / "config.json", made)


def _checked(plan: Plan, folder: Path) -> Checkpoint:
    """The checkpoint as read back; an error if it is not the recipe, which would be a fault of this program."""
    made, recipe = read(folder), plan.recipe
    same = (made.recipe.weights, made.recipe.activations) == (recipe.weights, recipe.activations)
    if not same or made.findings or set(made.layers) != plan.names:
        why = " ".join(finding.message for finding in made.findings)
        raise EvalsuiteError(f"The checkpoint reads back as '{made.recipe.id}', not as '{recipe.id}'; discarded. {why}")
    return made
