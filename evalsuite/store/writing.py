"""The one writer of a run, and the results folder that makes it."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evalsuite.errors import CannotRunError, RefusedError, UsageError, did_you_mean
from evalsuite.records import DIVERGENCE_COLUMNS, CellRecord, ForeignFile, Manifest
from evalsuite.store.files import Row, file_sha256, journal_line, parquet_bytes, rows_table, write_atomic
from evalsuite.store.foreign import read_foreign
from evalsuite.store.reading import StoredRun, read_journal, read_manifest


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
        write_atomic(path, b"".join(journal_line(entry) for entry in head))
        with path.open("ab") as file:

            def append(group: int, rows: list[Row]) -> None:
                file.write(journal_line({"group": group, "rows": rows}))
                file.flush()
                os.fsync(file.fileno())

            yield append

    def fold(self, record: CellRecord) -> CellRecord:
        """Turn a cell's journal into `samples.parquet`, mark the cell done, and drop the journal."""
        key = record.cell.key
        rows = [row for group in read_journal(self.path, key).groups.values() for row in group]
        target = self.path / "cells" / key / "samples.parquet"
        write_atomic(target, parquet_bytes(rows_table(sorted(rows, key=lambda row: int(row["position"])))))
        done = record.model_copy(
            update={"status": "done", "n_done": len(rows), "samples_sha256": file_sha256(target), "error": None}
        )
        self.update_cell(done)
        (self.path / "journal" / f"{key}.jsonl").unlink(missing_ok=True)
        return done

    def write_divergence(self, cell_key: str, rows: list[Row]) -> None:
        """Store a cell's divergence, one row a token."""
        target = self.path / "cells" / cell_key / "divergence.parquet"
        write_atomic(target, parquet_bytes(rows_table(rows, DIVERGENCE_COLUMNS)))
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
        target = self.path / "journal" / f"{record.cell.key}.jsonl"
        write_atomic(target, b"".join(journal_line(entry) for entry in head))
        parquet.unlink(missing_ok=True)

    def discard(self, cell_key: str) -> None:
        """Drop everything stored of a cell, to recompute it under another key."""
        (self.path / "journal" / f"{cell_key}.jsonl").unlink(missing_ok=True)
        for name in ("samples.parquet", "divergence.parquet"):
            (self.path / "cells" / cell_key / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Release the lock."""
        self._lock.close()


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

    def foreign(self) -> list[ForeignFile]:
        """Speed results of other programs that were imported here, oldest import first."""
        return read_foreign(self.root)

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
