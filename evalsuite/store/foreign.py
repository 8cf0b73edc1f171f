"""Imported speed results in the store: `imported/<first hex digits of the file's hash>-<tool>.json`, one a file.

The same file imported twice is one document. Nothing in it is changed by a later import.
"""

from pathlib import Path

from evalsuite.records import ForeignFile
from evalsuite.store.documents import read_document
from evalsuite.store.files import write_atomic

DIGITS = (8, 16, 64)
"""Hex digits of the hash in the name: more only where another file's name begins alike."""


def keep_foreign(root: Path, file: ForeignFile) -> tuple[Path, bool]:
    """Store a file's rows; returns where, and whether they are new."""
    for digits in DIGITS:
        path = root / "imported" / f"{file.file_sha256[:digits]}-{file.format}.json"
        if not path.exists():
            write_atomic(path, file.model_dump_json(indent=1).encode() + b"\n")
            return path, True
        if _read(path).file_sha256 == file.file_sha256:
            break
    return path, False


def read_foreign(root: Path) -> list[ForeignFile]:
    """All imported files, oldest import first; SchemaError for a newer or broken one."""
    found = [_read(path) for path in sorted((root / "imported").glob("*.json"))]
    return sorted(found, key=lambda file: (file.imported, file.file_name))


def _read(path: Path) -> ForeignFile:
    return read_document(path, ForeignFile, "an import")
