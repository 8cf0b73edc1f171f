"""The results folder on disk: the only thing the two halves share at run time.

    results/<run-id>/manifest.json                  a `Manifest`; written first, replaced atomically
                     cells/<cell>/samples.parquet   one row an item; written when the cell ends
                     cells/<cell>/divergence.parquet   one row a token of the baseline's answers
                     journal/<cell>.jsonl           finished request groups of a running cell, appended and flushed
                     lock                           held (flock) by the one process that writes the run
    results/<bench-id>/bench.json                   a `Bench`
    results/imported/<hash>-<tool>.json             a `ForeignFile`: speed results of another program, as read

A request group is the unit that can be lost: a group whose line is complete in the journal is kept, whatever happens to
the process. Files are written under a temporary name, flushed to the disk and renamed, so a reader never sees half a
file. Nothing is ever changed in place; `results/README.md` documents every key and column.
"""

from evalsuite.store.benches import find_bench, read_bench, read_benches, save_bench, save_trace
from evalsuite.store.files import Row, file_sha256, write_atomic
from evalsuite.store.foreign import keep_foreign, read_foreign
from evalsuite.store.reading import Journal, StoredRun, read_journal, read_manifest
from evalsuite.store.writing import RunWriter, Store

__all__ = [
    "Journal", "Row", "RunWriter", "Store", "StoredRun", "file_sha256", "find_bench", "keep_foreign", "read_bench",
    "read_benches", "read_foreign", "read_journal", "read_manifest", "save_bench", "save_trace", "write_atomic",
]  # fmt: skip
