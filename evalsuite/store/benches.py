"""Benches in the results folder: `results/<bench-id>/bench.json`, and beside it the meters' readings, `trace.jsonl`.

One process writes a bench and replaces the document after every window; readers see a whole one or the one before.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from evalsuite.errors import CannotRunError, SchemaError, UsageError, did_you_mean
from evalsuite.records import SCHEMA, Bench
from evalsuite.store.files import write_atomic

NAME = "bench.json"


def save_bench(results: Path, bench: Bench) -> Path:
    """Write the document; returns its folder."""
    folder = results / bench.bench_id
    write_atomic(folder / NAME, bench.model_dump_json(indent=1).encode() + b"\n")
    return folder


def save_trace(folder: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write the readings of all meters, a JSON object a line."""
    lines = [json.dumps(row, allow_nan=False, separators=(",", ":")) for row in rows]
    if lines:
        write_atomic(folder / "trace.jsonl", ("\n".join(lines) + "\n").encode())


def read_bench(path: Path) -> Bench:
    """The document of a bench folder or file.

    Raises:
        CannotRunError: there is none, or it cannot be read.
        SchemaError: written by a newer evalsuite.
    """
    file = path / NAME if path.is_dir() else path
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CannotRunError(f"{file}: no bench can be read here ({error}).") from None
    version = data.get("schema_version") if isinstance(data, dict) else None
    if not isinstance(version, int):
        raise SchemaError(f"{file}: no `schema_version`; not a bench of evalsuite.")
    if version > SCHEMA:
        raise SchemaError(f"{file}: schema {version} is newer than this evalsuite reads ({SCHEMA}). Update evalsuite.")
    try:
        return Bench.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise CannotRunError(f"{file}: {where}: {first['msg']}.") from None


def benches(results: Path) -> tuple[Bench, ...]:
    """All benches of a results folder, oldest first."""
    found = [read_bench(file) for file in results.glob(f"*/{NAME}")]
    return tuple(sorted(found, key=lambda bench: (bench.created, bench.bench_id)))


def find_bench(results: Path, name: str | None) -> Bench:
    """The bench whose id begins with `name`; the newest for None. UsageError if there is none or several."""
    known = {bench.bench_id: bench for bench in benches(results)}
    if not known:
        raise UsageError(f"No bench in {results}. Run `evalsuite bench` first.")
    if name is None or name == "last":
        return list(known.values())[-1]
    fits = [bench_id for bench_id in known if bench_id.startswith(name)]
    if len(fits) != 1:
        what = "No bench" if not fits else f"{len(fits)} benches"
        raise UsageError(f"{what} in {results} whose id begins with '{name}'.{did_you_mean(name, known)}")
    return known[fits[0]]
