"""Values of a file that somebody else wrote: every one is checked, and every error names file, key, value and what is
allowed. Nothing in a file may end in a traceback.

A number is finite and not negative. A physical figure of 0 is one that nobody measured: it becomes None and a note.
Text is one line of at most `LONGEST` characters.
"""

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from evalsuite.errors import CannotRunError, UsageError

LONGEST = 200
LARGEST = 1e18
"""No count, rate or time of a benchmark comes near it, and no sum or product of such numbers overflows."""
LARGEST_FILE = 512 * 2**20
"""Bytes; the largest detailed results of a serving benchmark are some tens of megabytes."""


@dataclass(frozen=True)
class Source:
    """A file, read once: what is hashed is what is parsed."""

    path: Path
    data: bytes

    @property
    def sha256(self) -> str:
        """In hex."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def text(self) -> str:
        """The content; UsageError if it is not UTF-8."""
        try:
            return self.data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UsageError(f"{self.path}: not UTF-8 text ({error.reason} at byte {error.start}).") from None


def read_source(path: Path) -> Source:
    """A file's content; CannotRunError if it cannot be read."""
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise CannotRunError(f"{path}: {size} bytes; files of up to {LARGEST_FILE} bytes are read.")
        return Source(path, path.read_bytes())
    except OSError as error:
        raise CannotRunError(f"{path}: cannot be read ({error.strerror}).") from None


def documents(source: Source) -> list[Any]:
    """The JSON documents of a file, one after the other: one, or one a line; UsageError with the place of an error."""
    decoder = json.JSONDecoder(parse_constant=_no_constant)
    text, at, found = source.text, 0, []
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise UsageError(f"{source.path}:{error.lineno}:{error.colno}: not valid JSON ({error.msg}).") from None
        except RecursionError:
            raise UsageError(f"{source.path}: nested too deeply for a result of a benchmark.") from None
        except ValueError as error:
            raise UsageError(f"{source.path}: a number that cannot be read ({error}).") from None
        found.append(value)
    if not found:
        raise UsageError(f"{source.path}: the file is empty.")
    return found


def objects(source: Source) -> "list[Fields]":
    """The objects of a file: one, one a line, or a list of them; UsageError for anything else or none."""
    found = []
    for document in documents(source):
        found += document if isinstance(document, list) else [document]
    if not found:
        raise UsageError(f"{source.path}: an empty list; nothing was measured.")
    return [Fields.of(source, value, f"[{i}]" if len(found) > 1 else "") for i, value in enumerate(found)]


def single(source: Source) -> "Fields":
    """The one object of a file; UsageError if it is anything else."""
    found = documents(source)
    if len(found) != 1 or not isinstance(found[0], dict):
        raise UsageError(f"{source.path}: expected one JSON object, found {_kinds(found)}.")
    return Fields.of(source, found[0], "")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON; write null where nothing was measured")


def _kinds(found: list[Any]) -> str:
    return shown(found[0]) if len(found) == 1 else f"{len(found)} documents"


def shown(value: Any) -> str:
    """A value as an error message shows it: short, and never nested."""
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    text = one_line(value) if isinstance(value, str) else str(value) if _is_small(value) else "a number too large"
    return f"'{text[:40]}'" if isinstance(value, str) else text


def _is_small(value: Any) -> bool:
    return not isinstance(value, int) or abs(value) < 10**30


def one_line(value: str) -> str:
    """Text without line breaks, control characters and broken code points, cut to `LONGEST`."""
    valid = value[: 4 * LONGEST].encode("utf-8", "replace").decode()
    return " ".join("".join(c if c.isprintable() else " " for c in valid).split())[:LONGEST]


@dataclass(frozen=True)
class Fields:
    """An object of the file, and where it stands."""

    source: Source
    data: dict[str, Any]
    where: str
    notes: list[str] = field(default_factory=list)
    """What was left out, for people; shared by the objects inside."""

    @classmethod
    def of(cls, source: Source, value: Any, where: str) -> "Fields":
        """An object; UsageError for anything else."""
        if not isinstance(value, dict):
            raise UsageError(f"{source.path}: {where + ': ' if where else ''}expected an object, found {shown(value)}.")
        return cls(source, value, where)

    def place(self, key: str) -> str:
        """`file: path.key`."""
        return f"{self.source.path}: {f'{self.where}.' if self.where else ''}{key}"

    def require(self, keys: Iterable[str], what: str) -> None:
        """UsageError unless one of the keys is there: the file is not what it was said to be."""
        names = list(keys)
        if not any(self.data.get(key) is not None for key in names):
            has = ", ".join(one_line(str(key))[:40] for key in list(self.data)[:8]) or "none"
            raise UsageError(f"{self.source.path}: {f'{self.where}: ' if self.where else ''}not {what}: missing "
                             f"{' or '.join(names)} (keys found: {has}).")  # fmt: skip

    def number(self, key: str) -> float | None:
        """A finite number, not negative; None where absent or null; UsageError for anything else."""
        return self._number(key, self.data.get(key))

    def _number(self, place: str, value: Any) -> float | None:
        if value is None:
            return None
        try:
            number = math.nan if isinstance(value, bool | str | list | dict) else float(value)
        except OverflowError:
            number = math.inf
        if not (math.isfinite(number) and 0 <= number <= LARGEST):
            raise UsageError(f"{self.place(place)}: expected a number from 0 to {LARGEST:g}, found {shown(value)}.")
        return number

    def figure(self, key: str, scale: float = 1.0) -> float | None:
        """`scale` times a number; None, and a note, for 0."""
        value = self.number(key)
        if value is None:
            return None
        scaled = value * scale
        if scaled <= 0:
            self.notes.append(f"{key} is 0 in the file: not measured")
            return None
        return scaled

    def count(self, key: str) -> int | None:
        """A whole number; None where absent or null."""
        value = self.number(key)
        if value is None:
            return None
        if value != int(value) or value > 2**53:
            raise UsageError(f"{self.place(key)}: expected a whole number, found {shown(self.data[key])}.")
        return int(value)

    def text(self, key: str) -> str | None:
        """One line of text (a number as text); None where absent, null or empty."""
        value = self.data.get(key)
        if value is None:
            return None
        if isinstance(value, dict | list) or not _is_small(value):
            raise UsageError(f"{self.place(key)}: expected text, found {shown(value)}.")
        return one_line(str(value)) or None

    def numbers(self, key: str) -> list[float]:
        """A list of numbers; empty where absent or null."""
        return [number for i, value in enumerate(self.values(key))
                if (number := self._number(f"{key}[{i}]", value)) is not None]  # fmt: skip

    def values(self, key: str) -> list[Any]:
        """A list of anything; empty where absent or null."""
        value = self.data.get(key)
        if value is not None and not isinstance(value, list):
            raise UsageError(f"{self.place(key)}: expected a list, found {shown(value)}.")
        return value or []

    def inner(self, key: str) -> "Fields":
        """The object at a key; an empty one where absent or null."""
        return self._inner(key, self.data.get(key))

    def items(self, key: str) -> "list[Fields]":
        """The objects of the list at a key."""
        return [self._inner(f"{key}[{i}]", value) for i, value in enumerate(self.values(key))]

    def _inner(self, key: str, value: Any) -> "Fields":
        if value is not None and not isinstance(value, dict):
            raise UsageError(f"{self.place(key)}: expected an object, found {shown(value)}.")
        return Fields(self.source, value or {}, f"{self.where}.{key}" if self.where else key, self.notes)

    def row(self, index: int, tool: str, **fields: Any) -> dict[str, Any]:
        """What every `ForeignSpeed` of this file carries, and `fields`."""
        return {"row": index, "source_tool": tool, "file_name": one_line(self.source.path.name),
                "file_sha256": self.source.sha256, **fields}  # fmt: skip
