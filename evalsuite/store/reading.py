"""Stored runs as a reader sees them, whether finished, running or killed."""

import fcntl
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evalsuite.records import DIVERGENCE_COLUMNS, SAMPLE_COLUMNS, Manifest
from evalsuite.store.documents import read_document
from evalsuite.store.files import Row, read_parquet, rows_table

if TYPE_CHECKING:
    import pandas as pd


def read_manifest(path: Path) -> Manifest:
    """Read `manifest.json`; SchemaError for a newer or unversioned schema or a broken file."""
    return read_document(path, Manifest, "a manifest")


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
                frames.append(read_parquet(parquet, columns))
            else:
                rows = [row for group in read_journal(self.path, key).groups.values() for row in group]
                if rows:
                    frame = rows_table(sorted(rows, key=lambda row: int(row["position"]))).to_pandas()
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
