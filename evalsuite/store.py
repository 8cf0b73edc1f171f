"""The results folder on disk: the only thing the two halves share at run time.

    results/<run-id>/manifest.json                  a `Manifest`; written first, replaced atomically
                     cells/<cell>/samples.parquet   one row an item; written when the cell ends
                     cells/<cell>/divergence.parquet   one row a token of the baseline's answers
                     journal/<cell>.jsonl           finished request groups of a running cell, appended and flushed
                     lock                           held (flock) by the one process that writes the run

A request group is the unit that can be lost: a group whose line is complete in the journal is kept, whatever happens to
the process. Files are written under a temporary name, flushed to the disk and renamed, so a reader never sees half a
file. Nothing is ever changed in place; `results/README.md` documents every key and column.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from evalsuite.errors import CannotRunError, RefusedError, SchemaError, UsageError, did_you_mean
from evalsuite.records import DIVERGENCE_COLUMNS, SAMPLE_COLUMNS, SCHEMA, CellRecord, Manifest

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


def read_manifest(path: Path) -> Manifest:
    """Read `manifest.json`; SchemaError for a newer or unversioned schema or a broken file."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise SchemaError(f"{path}:{error.lineno}:{error.colno}: not valid JSON ({error.msg}).") from None
    except OSError as error:
        raise CannotRunError(f"{path}: cannot be read ({error.strerror}).") from None
    version = data.get("schema_version") if isinstance(data, dict) else None
    if not isinstance(version, int):
        raise SchemaError(f"{path}: no schema_version; this is not a manifest that evalsuite wrote.")
    if version > SCHEMA:
        raise SchemaError(f"{path}: schema {version}; this evalsuite reads up to {SCHEMA}. Upgrade evalsuite.")
    try:
        return Manifest.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SchemaError(f"{path}: {where}: {first['msg']} (and {error.error_count() - 1} more).") from None


@dataclass(frozen=True)
class StoredRun:
    """One run in the store, as a reader sees it."""

    path: Path
    manifest: Manifest

    def samples(self, columns: list[str] | None = None) -> "pd.DataFrame":
        """All samples of the run (rows: items; columns: `SAMPLE_COLUMNS` or those named), in cell and item order.

        Finished cells come from Parquet, unfinished ones from their journal.
        """
        import pandas as pd

        frames = []
        for key in self.manifest.cells:
            parquet = self.path / "cells" / key / "samples.parquet"
            if parquet.is_file():
                frames.append(_read(parquet, columns))
            else:
                rows = [row for group in read_journal(self.path, key).groups.values() for row in group]
                if rows:
                    frame = _table(sorted(rows, key=lambda row: int(row["position"]))).to_pandas()
                    frames.append(frame[columns] if columns else frame)
        if not frames:
            return pd.DataFrame(columns=columns or list(SAMPLE_COLUMNS))
        samples: pd.DataFrame = pd.concat(frames, ignore_index=True)
        return samples

    def divergence(self) -> "pd.DataFrame":
        """Divergence of all cells that have it (rows: tokens; columns: `arm`, `mode` and `DIVERGENCE_COLUMNS`)."""
        import pandas as pd
        import pyarrow.parquet as pq

        frames = []
        for key, record in self.manifest.cells.items():
            if record.divergence_sha256 is not None:
                frame = pq.read_table(self.path / "cells" / key / "divergence.parquet").to_pandas()
                frames.append(frame.assign(arm=record.cell.arm, mode=record.cell.mode))
        if not frames:
            return pd.DataFrame(columns=["arm", "mode", *DIVERGENCE_COLUMNS])
        rows: pd.DataFrame = pd.concat(frames, ignore_index=True)
        return rows

    @property
    def is_running(self) -> bool:
        """True while a process holds the run's lock."""
        try:
            with (self.path / "lock").open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False


def _read(parquet: Path, columns: list[str] | None) -> "pd.DataFrame":
    """A Parquet file, its columns as far as it has them: files of older versions lack some."""
    import pyarrow.parquet as pq

    have = pq.read_schema(parquet).names
    frame: pd.DataFrame = pq.read_table(parquet, columns=[c for c in columns or have if c in have]).to_pandas()
    return frame.reindex(columns=columns or list(SAMPLE_COLUMNS))


@dataclass(frozen=True)
class Journal:
    """The finished groups of one cell: `groups[g]` holds the rows of group `g`."""

    resume_key: str | None
    groups: dict[int, list[Row]]


def read_journal(run: Path, cell_key: str) -> Journal:
    """Read a cell's journal. An incomplete last line (a killed writer) is dropped; an absent file is empty."""
    path = run / "journal" / f"{cell_key}.jsonl"
    key, groups = None, {}
    if path.is_file():
        for line in path.read_bytes().split(b"\n")[:-1]:
            try:
                entry = json.loads(line)
            except ValueError:
                break  # a torn write: everything after it is recomputed
            if "resume_key" in entry:
                key = entry["resume_key"]
            else:
                groups[int(entry["group"])] = entry["rows"]
    return Journal(key, groups)


def _table(rows: list[Row], columns: dict[str, str] = SAMPLE_COLUMNS) -> Any:
    import pyarrow as pa

    lists = {"list<int32>": pa.list_(pa.int32()), "list<float64>": pa.list_(pa.float64())}
    schema = pa.schema([(name, lists.get(kind) or pa.type_for_alias(kind)) for name, kind in columns.items()])
    return pa.Table.from_pylist(rows, schema=schema)


class RunWriter:
    """The one writer of a run. Made by `Store.create` or `Store.reopen`; holds the lock until `close`."""

    def __init__(self, path: Path, manifest: Manifest, lock: Any) -> None:
        self.path = path
        self.manifest = manifest
        self._lock = lock

    def update(self, **fields: Any) -> None:
        """Replace fields of the manifest, on disk at once."""
        self.manifest = self.manifest.model_copy(update=fields)
        write_atomic(self.path / "manifest.json", self.manifest.model_dump_json(indent=1).encode() + b"\n")

    def update_cell(self, record: CellRecord) -> None:
        """Replace one cell's record."""
        self.update(cells={**self.manifest.cells, record.cell.key: record})

    @contextmanager
    def journal(self, record: CellRecord) -> Iterator[Callable[[int, list[Row]], None]]:
        """Open a cell's journal for appending; yields `append(group, rows)`, which returns once the rows are on disk.

        A journal under another resume key is discarded first; a torn last line is cut off.
        """
        key = record.cell.key
        path = self.path / "journal" / f"{key}.jsonl"
        path.parent.mkdir(exist_ok=True)
        old = read_journal(self.path, key)
        keep = old.groups if old.resume_key == record.resume_key else {}
        head = [{"resume_key": record.resume_key}] + [{"group": g, "rows": rows} for g, rows in keep.items()]
        write_atomic(path, b"".join(_line(entry) for entry in head))
        with path.open("ab") as file:

            def append(group: int, rows: list[Row]) -> None:
                file.write(_line({"group": group, "rows": rows}))
                file.flush()
                os.fsync(file.fileno())

            yield append

    def fold(self, record: CellRecord) -> CellRecord:
        """Turn a cell's journal into `samples.parquet`, mark the cell done, and drop the journal."""
        key = record.cell.key
        rows = [row for group in read_journal(self.path, key).groups.values() for row in group]
        target = self.path / "cells" / key / "samples.parquet"
        write_atomic(target, _parquet(_table(sorted(rows, key=lambda row: int(row["position"])))))
        done = record.model_copy(
            update={"status": "done", "n_done": len(rows), "samples_sha256": file_sha256(target), "error": None}
        )
        self.update_cell(done)
        (self.path / "journal" / f"{key}.jsonl").unlink(missing_ok=True)
        return done

    def write_divergence(self, cell_key: str, rows: list[Row]) -> None:
        """Store a cell's divergence, one row a token."""
        target = self.path / "cells" / cell_key / "divergence.parquet"
        write_atomic(target, _parquet(_table(rows, DIVERGENCE_COLUMNS)))
        record = self.manifest.cells[cell_key]
        self.update_cell(record.model_copy(update={"divergence_sha256": file_sha256(target)}))

    def read(self, cell_key: str, columns: list[str]) -> list[Row]:
        """Samples of a finished cell."""
        import pyarrow.parquet as pq

        table = pq.read_table(self.path / "cells" / cell_key / "samples.parquet", columns=columns)
        rows: list[Row] = table.to_pylist()
        return rows

    def is_folded(self, record: CellRecord) -> bool:
        """Whether a cell's samples are stored, as they were written."""
        file = self.path / "cells" / record.cell.key / "samples.parquet"
        return record.status == "done" and file.is_file() and file_sha256(file) == record.samples_sha256

    def unfold(self, record: CellRecord, grown: CellRecord) -> None:
        """Turn a finished cell's samples back into a journal, under the resume key of the record that replaces it."""
        import pyarrow.parquet as pq

        parquet = self.path / "cells" / record.cell.key / "samples.parquet"
        groups: dict[int, list[Row]] = {}
        if parquet.is_file():
            for row in pq.read_table(parquet).to_pylist():
                groups.setdefault(int(row["group"]), []).append(row)
        else:
            groups = read_journal(self.path, record.cell.key).groups
        head = [{"resume_key": grown.resume_key}] + [{"group": g, "rows": rows} for g, rows in groups.items()]
        write_atomic(self.path / "journal" / f"{record.cell.key}.jsonl", b"".join(_line(entry) for entry in head))
        parquet.unlink(missing_ok=True)

    def discard(self, cell_key: str) -> None:
        """Drop everything stored of a cell, to recompute it under another key."""
        (self.path / "journal" / f"{cell_key}.jsonl").unlink(missing_ok=True)
        for name in ("samples.parquet", "divergence.parquet"):
            (self.path / "cells" / cell_key / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Release the lock."""
        self._lock.close()


def _parquet(table: Any) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _line(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"


class Store:
    """A results folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def runs(self) -> list[StoredRun]:
        """All runs, oldest first. SchemaError if one was written by a newer evalsuite."""
        found = [StoredRun(p.parent, read_manifest(p)) for p in sorted(self.root.glob("*/manifest.json"))]
        return sorted(found, key=lambda run: (run.manifest.created, run.manifest.run_id))

    def run(self, name: str | None = None) -> StoredRun:
        """The run of that id (a unique beginning is enough), or the newest; UsageError if there is none."""
        runs = {run.manifest.run_id: run for run in self.runs()}
        if not runs:
            raise UsageError(f"{self.root}: no runs here. Make one with `evalsuite run`, or name another --results.")
        if name is None:
            return list(runs.values())[-1]
        matches = [run for run_id, run in runs.items() if run_id.startswith(name)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise UsageError(f"'{name}' begins {len(matches)} runs; give more of it.")
        raise UsageError(f"Unknown run '{name}' in {self.root}.{did_you_mean(name, runs)}")

    def check_writable(self) -> None:
        """CannotRunError if no run can be made here; nothing is left behind."""
        probe = self.root / ".writable"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise CannotRunError(
                f"{self.root}: results cannot be written here ({error.strerror}). Name another folder with --results."
            ) from None

    def create(self, manifest: Manifest) -> RunWriter:
        """Make a run's folder and write its manifest."""
        self.check_writable()
        path = self.root / manifest.run_id
        try:
            path.mkdir()
        except FileExistsError:
            raise RefusedError(f"{path}: this run exists. Continue it with --resume {manifest.run_id}.") from None
        writer = RunWriter(path, manifest, _acquire(path))
        writer.update()
        return writer

    def reopen(self, run: StoredRun) -> RunWriter:
        """Open a run to continue it; RefusedError while another process writes it."""
        return RunWriter(run.path, run.manifest, _acquire(run.path))


def _acquire(path: Path) -> Any:
    lock = (path / "lock").open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        holder = lock.read().strip() or "another process"
        lock.close()
        raise RefusedError(f"{path}: {holder} is writing this run. Wait for it, or stop it first.") from None
    lock.truncate(0)
    lock.write(f"process {os.getpid()}")
    lock.flush()
    return lock
