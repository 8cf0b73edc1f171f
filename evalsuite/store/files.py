"""Files of the store: written whole or not at all, rows as Parquet and as journal lines."""

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalsuite.records import SAMPLE_COLUMNS

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]
"""One sample: the columns of `SAMPLE_COLUMNS`."""


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` beside `path`, flush it to the disk, and rename it over `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def rows_table(rows: list[Row], columns: dict[str, str] = SAMPLE_COLUMNS) -> Any:
    """An Arrow table of rows; `columns`: name -> Arrow type, as `SAMPLE_COLUMNS`."""
    import pyarrow as pa

    lists = {"list<int32>": pa.list_(pa.int32()), "list<float64>": pa.list_(pa.float64())}
    schema = pa.schema([(name, lists.get(kind) or pa.type_for_alias(kind)) for name, kind in columns.items()])
    return pa.Table.from_pylist(rows, schema=schema)


def parquet_bytes(table: Any) -> bytes:
    """An Arrow table as the content of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    data: bytes = sink.getvalue().to_pybytes()
    return data


def read_parquet(path: Path, columns: list[str] | None) -> "pd.DataFrame":
    """A Parquet file, its columns as far as it has them: files of older versions lack some."""
    import pyarrow.parquet as pq

    have = pq.read_schema(path).names
    frame: pd.DataFrame = pq.read_table(path, columns=[c for c in columns or have if c in have]).to_pandas()
    return frame.reindex(columns=columns or list(SAMPLE_COLUMNS))


def journal_line(entry: dict[str, Any]) -> bytes:
    """One entry of a journal; ValueError for a number that JSON does not have."""
    return json.dumps(entry, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"
