"""Write the checkpoint of an arm: the codes and scales that were judged are those that ship.

One tensor at a time: read from the BF16 checkpoint, quantised by the function that arms use (`layers.quantise_matrix`),
added to the shard at hand; a full shard goes to disk. At most one shard is in memory. Everything is written beside the
target under another name, read back and checked by `checkpoints.read`, and renamed last, so a folder of that name is
always whole.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evalsuite.errors import CannotRunError, EvalsuiteError, RefusedError
from evalsuite.precision.checkpoints import Checkpoint, is_quantized, read
from evalsuite.precision.layers import quantise_matrix
from evalsuite.precision.layouts import Layout, layout_of
from evalsuite.precision.shards import INDEX, Shards
from evalsuite.records import Recipe

SHARD_BYTES = 4 << 30
"""A shard is closed when it holds this much."""
WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx"}
"""Files that are not copied: weights in any form."""
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


def check_target(out: Path) -> None:
    """RefusedError if something is there already; an empty folder is not something."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise RefusedError(f"{out} exists already and is not an empty folder. Name another --out, or remove it.")


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
    check_target(out)
    check_master(plan.folder)
    out = out.absolute()
    part = out.parent / f".{out.name}.partial-{os.getpid()}"
    part.mkdir(parents=True)
    try:
        counts = _weights(plan, layout, part, advance or (lambda *_: None))
        _configuration(plan, layout, part)
        for file in part.glob("*.safetensors"):
            shutil.copymode(part / "config.json", file)  # safetensors writes them for the owner alone
        _others(plan.folder, part)
        done = _checked(plan, part)
        if out.exists():
            out.rmdir()
        part.rename(out)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    size = sum(file.stat().st_size for file in out.glob("*.safetensors"))
    return Written(out, layout.name, done, size, _odd(done), dict(counts))


def _odd(checkpoint: Checkpoint) -> tuple[str, ...]:
    block, entries = checkpoint.found.block, checkpoint.shards.entries
    return tuple(
        name for name in checkpoint.layers
        if any(size > 0 and full % size for size, full in zip(block, entries[name].shape[-2:], strict=True))
    )  # fmt: skip


def _weights(plan: Plan, layout: Layout, folder: Path, advance: Callable[[int, int], None]) -> Counter[str]:
    shards, shard, counts = Shards(plan.folder), _Shard(folder), Counter[str]()
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


class _Shard:
    """The weight file being filled, and the index over all of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tensors: dict[str, Tensor] = {}
        self._bytes = self._total = 0
        self._files: list[list[str]] = []

    def add(self, name: str, tensor: Tensor) -> None:
        """Add a tensor; writes the file when it is full."""
        self._tensors[name] = tensor.contiguous()
        self._bytes += tensor.nbytes
        if self._bytes >= SHARD_BYTES:
            self._flush()

    def finish(self) -> None:
        """Write the last file, give all their final names, and write the index if there is more than one."""
        self._flush()
        n = len(self._files)
        names = ["model.safetensors"] if n == 1 else [f"model-{i + 1:05}-of-{n:05}.safetensors" for i in range(n)]
        for i, name in enumerate(names):
            (self._folder / f"{i}.part").rename(self._folder / name)
        if n > 1:
            table = {tensor: name for name, tensors in zip(names, self._files, strict=True) for tensor in tensors}
            _write_json(self._folder / INDEX, {"metadata": {"total_size": self._total}, "weight_map": table})

    def _flush(self) -> None:
        from safetensors.torch import save_file

        if self._tensors:
            save_file(self._tensors, self._folder / f"{len(self._files)}.part", metadata={"format": "pt"})
            self._files.append(list(self._tensors))
            self._total += self._bytes
            self._tensors, self._bytes = {}, 0


def _configuration(plan: Plan, layout: Layout, folder: Path) -> None:
    config: dict[str, Any] = json.loads((plan.folder / "config.json").read_text(encoding="utf-8"))
    key = "torch_dtype" if "torch_dtype" in config else "dtype"
    made = {**config, key: "bfloat16", "quantization_config": layout.config(layout, plan.left)}
    _write_json(folder / "config.json", made)


def _others(source: Path, folder: Path) -> None:
    """Tokenizer, chat template, generation settings, licence: every other file at the top of the model folder."""
    for path in sorted(source.iterdir()):
        weights = path.suffix in WEIGHTS or path.name.endswith(".index.json")
        if path.is_file() and not path.name.startswith(".") and not weights and path.name != "config.json":
            shutil.copyfile(path, folder / path.name)


def _checked(plan: Plan, folder: Path) -> Checkpoint:
    """The checkpoint as read back; an error if it is not the recipe, which would be a fault of this program."""
    made, recipe = read(folder), plan.recipe
    same = (made.recipe.weights, made.recipe.activations) == (recipe.weights, recipe.activations)
    if not same or made.findings or set(made.layers) != plan.names:
        why = " ".join(finding.message for finding in made.findings)
        raise EvalsuiteError(f"The checkpoint reads back as '{made.recipe.id}', not as '{recipe.id}'; discarded. {why}")
    return made


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
