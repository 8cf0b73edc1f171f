"""`quantize`, `stress`: write checkpoints: that of an arm, as it was judged; a copy with a planted fault."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evalsuite.cli import common
from evalsuite.cli.common import AsJson

if TYPE_CHECKING:
    from evalsuite.precision.writing import Written

LINE_EVERY_S = 5.0
"""Seconds between two lines of progress."""


def quantize(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="`reference`, a folder or a hub id: BF16 weights.")],
    recipe: Annotated[str, typer.Option(help="Recipe of the arm, e.g. fp8-ue8m0.")],
    out: Annotated[Path, typer.Option(help="Folder to write: a new one, or an empty one.")],
    as_json: AsJson = False,
) -> None:
    """Write the checkpoint of an arm: its codes and scales, in the layout that transformers and vLLM load."""
    common.answer_in_json(as_json)
    from evalsuite.engines.models import locate
    from evalsuite.precision.folders import check_target
    from evalsuite.precision.layouts import layout_of
    from evalsuite.precision.recipes import recipe as named
    from evalsuite.precision.writing import check_master, write
    from evalsuite.records import ModelRef

    wanted = named(recipe)
    layout_of(wanted)
    check_target(out)
    folder = locate(ModelRef(id=model))
    check_master(folder)
    from evalsuite.engines.shipped import plan

    done = write(plan(folder, wanted), out, _Lines(quiet=as_json))
    if as_json:
        common.print_json({"checkpoint": _document(done, recipe)})
        return
    found = done.checkpoint.found
    size = f"{done.size_bytes / 1e6:,.1f} MB"
    typer.echo(f"{done.folder}: {found.weights} weights in {recipe}, {size}, {done.layout} layout")
    if done.odd:
        typer.echo(f"note    {len(done.odd)} weights are no multiple of 128 in size ({done.odd[0]} first): "
                   "transformers and vLLM refuse such shapes; evalsuite runs them")  # fmt: skip
    typer.echo(f"next    an arm `{{id: shipped, model: {done.folder}, recipe: as-shipped}}` in a suite")


def stress(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="`reference`, a folder or a hub id.")],
    out: Annotated[Path, typer.Option(help="Folder to write: a new one, or an empty one.")],
    fault: Annotated[
        str, typer.Option(help="`outlier-channels` (computes the same in BF16) or `weight-noise` (a real loss).")
    ] = "outlier-channels",
    strength: Annotated[
        float | None, typer.Option(help="How strong: default 64 times, or noise of 0.1 of a matrix's spread.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a copy of a model with a planted fault: does the format, does the suite notice?"""
    common.answer_in_json(as_json)
    from evalsuite.engines.models import locate, weights_sha256
    from evalsuite.precision.stress import plant
    from evalsuite.records import ModelRef

    strength = strength if strength is not None else 0.1 if fault == "weight-noise" else 64.0
    changed = plant(locate(ModelRef(id=model)), fault, strength, out)
    if as_json:
        digest = weights_sha256(out)
        document = {"path": str(out), "fault": fault, "strength": strength, "tensors": changed}
        common.print_json({"stressed": {**document, "weights_sha256": digest}})
        return
    typer.echo(f"{out}: {fault} of strength {strength:g} in {changed} tensors")
    typer.echo(f"next    evalsuite run --model {out} --arms int8-row,fp8-ue8m0")


def _document(done: "Written", recipe: str) -> dict[str, Any]:
    from dataclasses import asdict

    from evalsuite.engines.models import weights_sha256

    return {
        "path": str(done.folder), "recipe": recipe, "layout": done.layout, "size_bytes": done.size_bytes,
        "weights_sha256": weights_sha256(done.folder), "found": asdict(done.checkpoint.found), "counts": done.counts,
        "quantised": sorted(done.checkpoint.layers), "odd_shapes": list(done.odd),
    }  # fmt: skip


class _Lines:
    """Progress on stderr: a line now and then, and one at the end."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet, self._last = quiet, time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if not self._quiet and (done == total or now - self._last >= LINE_EVERY_S):
            self._last = now
            sys.stderr.write(f"{done} of {total} tensors\n")
