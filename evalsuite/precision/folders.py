"""Write a model folder: weight files of bounded size with their index, everything else copied, all of it or nothing."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from evalsuite.errors import RefusedError
from evalsuite.precision.shards import INDEX

SHARD_BYTES = 4 * 2**30
"""A weight file is closed when it holds this much."""
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx")
"""Files that are not copied: weights in any form."""


def check_target(out: Path) -> None:
    """RefusedError if something is there already; an empty folder is not something."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise RefusedError(f"{out} exists already and is not an empty folder. Name another --out, or remove it.")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder under another name, which gets the name *out* when the context ends well and is gone when it does not.

    RefusedError if *out* is there already and not empty.
    """
    check_target(out)
    out = out.absolute()
    part = out.parent / f".{out.name}.partial-{os.getpid()}"
    part.mkdir(parents=True)
    try:
        yield part
        for file in part.glob("*.safetensors"):
            shutil.copymode(part / "config.json", file)  # safetensors writes them for the owner alone
        if out.exists():
            out.rmdir()
        part.rename(out)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


class ShardWriter:
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
            write_json(self._folder / INDEX, {"metadata": {"total_size": self._total}, "weight_map": table})

    def _flush(self) -> None:
        from safetensors.torch import save_file

        if self._tensors:
            save_file(self._tensors, self._folder / f"{len(self._files)}.part", metadata={"format": "pt"})
            self._files.append(list(self._tensors))
            self._total += self._bytes
            self._tensors, self._bytes = {}, 0


def copy_others(source: Path, folder: Path) -> None:
    """Tokenizer, chat template, generation settings, licence: every other file at the top of the model folder."""
    for path in sorted(source.iterdir()):
        weights = path.suffix in WEIGHTS or path.name.endswith(".index.json")
        if path.is_file() and not path.name.startswith(".") and not weights and path.name != "config.json":
            shutil.copyfile(path, folder / path.name)


def write_json(path: Path, document: dict[str, Any]) -> None:
    """A document as JSON for people."""
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
