"""The safetensors files of a model folder as one table of tensors, read one at a time.

Headers are read when a folder is opened, a tensor's bytes when it is asked for (memory-mapped), so a model of any size
can be looked through with one tensor in memory.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from evalsuite.errors import CannotRunError

INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Entry:
    """One tensor, not yet read."""

    file: Path
    dtype: str
    """As safetensors writes it: `BF16`, `F32`, `F8_E4M3`, `F8_E8M0`, `U8`."""
    shape: tuple[int, ...]


class Shards:
    """All tensors of a model folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: dict[Path, Any] = {}

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """Tensor name -> where and what it is, in the order of the files.

        Raises:
            CannotRunError: a file is missing or damaged, or two files hold a tensor of one name.
        """
        found: dict[str, Entry] = {}
        for file in self._files():
            reader = self._reader(file)
            for name in reader.keys():  # noqa: SIM118 - safe_open is no mapping
                if name in found:
                    raise CannotRunError(f"{self.folder}: {found[name].file.name} and {file.name} both hold '{name}'.")
                part = reader.get_slice(name)
                found[name] = Entry(file, str(part.get_dtype()), tuple(part.get_shape()))
        return found

    def get(self, name: str) -> Tensor:
        """One tensor, as stored."""
        tensor: Tensor = self._reader(self.entries[name].file).get_tensor(name)
        return tensor

    def _files(self) -> list[Path]:
        index = self.folder / INDEX
        if index.is_file():
            named = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            missing = [name for name in named if not (self.folder / name).is_file()]
            if missing:
                raise CannotRunError(f"{self.folder}: {len(missing)} of {len(named)} weight files are missing, "
                                     f"{missing[0]} first. Download the model again.")  # fmt: skip
            return [self.folder / name for name in named]
        single = self.folder / "model.safetensors"
        files = [single] if single.is_file() else sorted(self.folder.glob("*.safetensors"))
        if not files:
            raise CannotRunError(f"{self.folder}: no *.safetensors weights.")
        return files

    def _reader(self, file: Path) -> Any:
        from safetensors import SafetensorError, safe_open

        if file not in self._open:
            try:
                self._open[file] = safe_open(file, framework="pt")
            except (SafetensorError, OSError) as error:
                raise CannotRunError(f"{file}: not a readable safetensors file ({error}).") from None
        return self._open[file]
