"""Stored benches: `<bench-id>/bench.json` in the results folder."""

from pathlib import Path

from evalsuite.errors import UsageError, did_you_mean
from evalsuite.records import Bench
from evalsuite.store.documents import read_document


def read_bench(path: Path) -> Bench:
    """A `bench.json`; SchemaError for a newer or unversioned schema or a broken file."""
    return read_document(path, Bench, "a bench")


def read_benches(root: Path) -> list[Bench]:
    """All benches of a results folder, oldest first."""
    found = [read_bench(path) for path in sorted(root.glob("*/bench.json"))]
    return sorted(found, key=lambda bench: (bench.created, bench.bench_id))


def find_bench(root: Path, name: str) -> Bench:
    """The bench of that id (a unique beginning is enough), `last` for the newest, or a path; UsageError if none."""
    path = Path(name)
    if path.suffix == ".json" or (path / "bench.json").is_file():
        return read_bench(path if path.suffix == ".json" else path / "bench.json")
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
