"""Stored documents that are one noun in one JSON file, with the version of their schema: read strictly."""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from evalsuite.errors import SchemaError
from evalsuite.located import read_json
from evalsuite.records import SCHEMA

Document = TypeVar("Document", bound=BaseModel)


def read_document(path: Path, kind: type[Document], what: str) -> Document:
    """The noun in a file; SchemaError for a newer or unversioned schema or a broken file. `what`: what it is."""
    try:
        data = read_json(path, SchemaError)
    except RecursionError:
        raise SchemaError(f"{path}: nested too deeply; this is not {what} that evalsuite wrote.") from None
    version = data.get("schema_version") if isinstance(data, dict) else None
    if not isinstance(version, int):
        raise SchemaError(f"{path}: no schema_version; this is not {what} that evalsuite wrote.")
    if version > SCHEMA:
        raise SchemaError(f"{path}: schema {version}; this evalsuite reads up to {SCHEMA}. Upgrade evalsuite.")
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SchemaError(f"{path}: {where}: {first['msg']} (and {error.error_count() - 1} more).") from None
