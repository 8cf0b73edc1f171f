"""Speed formats of `import`, and `export`: other programs' files into the store, our benches as their files."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from evalsuite.cli import common
from evalsuite.cli.common import DEFAULT_RESULTS, AsJson, Results
from evalsuite.errors import UsageError, did_you_mean


def import_speeds(kind: str, paths: list[Path], results: Path, *, as_json: bool) -> None:
    """Read all files, then keep them; a file that cannot be read leaves nothing behind."""
    from evalsuite.importing.speeds import read_speeds
    from evalsuite.report import foreign_view, print_view
    from evalsuite.store import Store, keep_foreign

    files = [read_speeds(kind, path, shlex.join(["evalsuite", *sys.argv[1:]])) for path in paths]
    Store(results).check_writable()
    kept = []
    for path, file in zip(paths, files, strict=True):
        where, new = keep_foreign(results, file)
        kept.append({"path": str(where), "new": new, "import": file.model_dump(mode="json")})
        if not new:
            sys.stderr.write(f"note: {path} was imported before, as {where}\n")
    if as_json:
        common.print_json({"imported": kept})
        return
    print_view(foreign_view(files))
    for one in kept:
        typer.echo(f"kept    {one['path']}")


def export(
    kind: Annotated[str, typer.Argument(metavar="FORMAT", help="See below; an unknown one lists all.")],
    bench: Annotated[str, typer.Argument(metavar="BENCH", help="Bench id or its beginning, `last`, or a bench.json.")],
    out: Annotated[Path | None, typer.Option(help="Write here instead of stdout.")] = None,
    results: Results = DEFAULT_RESULTS,
    as_json: AsJson = False,
) -> None:
    """Write a bench as another program's file: vllm-serve, llama-bench, llama-bench-md, ml-energy, csv, prometheus.

    Medians over the kept rounds. Emulated arms have neither tokens a second nor joules and are left out.
    """
    common.answer_in_json(as_json)
    from evalsuite.exporting import EXPORTS
    from evalsuite.store import find_bench, write_atomic

    if kind not in EXPORTS:
        raise UsageError(f"Unknown format '{kind}'.{did_you_mean(kind, EXPORTS)}")
    made = EXPORTS[kind](find_bench(results, bench))
    for note in made.notes:
        sys.stderr.write(f"note: {note}\n")
    if out is not None:
        write_atomic(out, made.text.encode())
    if as_json:
        common.print_json({"format": kind, "out": None if out is None else str(out), "notes": list(made.notes),
                           "text": made.text if out is None else None})  # fmt: skip
    elif out is None:
        sys.stdout.write(made.text)
    else:
        typer.echo(f"wrote   {out}")
