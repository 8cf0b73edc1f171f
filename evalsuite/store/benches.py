"""Benches in the results folder: `<bench-id>/bench.json`, and beside it the meters' readings, `trace.jsonl`.

One process writes a bench and replaces the document after every window; readers see a whole one or the one before.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from evalsuite.errors import UsageError, did_you_mean
from evalsuite.records import Bench
from evalsuite.store.documents import read_document
from evalsuite.store.files import write_atomic

NAME = "bench.json"


def save_bench(root: Path, bench: Bench) -> Path:
    """Write the document; returns its folder."""
    write_atomic(root / bench.bench_id / NAME, bench.model_dump_json(indent=1).encode() + b"\n")
    return root / bench.bench_id


def save_trace(folder: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write the readings of all meters, a JSON object a line; nothing where there are none."""
    lines = [json.dumps(row, allow_nan=False, separators=(",", ":")) for row in rows]
    if lines:
        write_atomic(folder / "trace.jsonl", ("\n".join(lines) + "\n").encode())


def read_bench(path: Path) -> Bench:
    """A `bench.json`, or the folder of one; SchemaError for a newer or unversioned schema or a broken file."""
    return read_document(path / NAME if path.is_dir() else path, Bench, "a bench")


def read_benches(root: Path) -> list[Bench]:
    """All benches of a results folder, oldest first."""
    found = [read_bench(path) for path in sorted(root.glob(f"*/{NAME}"))]
    return sorted(found, key=lambda bench: (bench.created, bench.bench_id))


def find_bench(root: Path, name: str = "last") -> Bench:
    """The bench of that id (a unique beginning is enough), `last` for the newest, or a path; UsageError if none."""
    path = Path(name)
    if path.suffix == ".json" or (path / NAME).is_file():
        return read_bench(path if path.suffix == ".json" else path / NAME)
    benches = {bench.bench_id: bench for bench in read_benches(root)}
    if not benches:
        raise UsageError(f"{root}: no benches here. Make one with `evalsuite bench`, or name another --results.")
    if name == "last":
        return list(benches.values())[-1]
    matches = [bench for bench_id, bench in benches.items() if bench_id.startswith(name)]
    if name in benches or len(matches) == 1:
        return benches.get(name) or matches[0]
    if matches:
        raise UsageError(f"'{name}' begins {len(matches)} benches; give more of it.")
    raise UsageError(f"Unknown bench '{name}' in {root}.{did_you_mean(name, benches)}")
