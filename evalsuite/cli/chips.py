"""`conformance`: what a device does with 8-bit numbers, against golden values."""

from typing import TYPE_CHECKING, Annotated

import typer

from evalsuite.cli import common
from evalsuite.cli.common import AsJson

if TYPE_CHECKING:
    from evalsuite.precision.conformance import Conformance

FAILED = 10
"""The check that was asked for failed."""


def conformance(
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, npu, mlu, musa, xpu, or a package's own; default: this machine's.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a device's codes, scales, rounding, saturation and NaN against golden values; exit 10 where one fails."""
    common.answer_in_json(as_json)
    from evalsuite.precision import devices
    from evalsuite.precision.conformance import examine

    found = examine(devices.present(device or devices.best()))
    if as_json:
        common.print_json({"conformance": found.model_dump(mode="json"), "passed": found.passed})
    else:
        _print(found)
    if not found.passed:
        raise typer.Exit(FAILED)


def _print(found: "Conformance") -> None:
    from evalsuite.precision.conformance import AMAX, detector
    from evalsuite.report import print_view, rows_view

    seen = found.capabilities
    typer.echo(f"{seen.device}: {seen.label}" + (f" ({found.note})" if found.note else ""))
    typer.echo(f"native FP8: {'none, ' + seen.obstacle if seen.obstacle else seen.fp8 or 'none'}\n")
    print_view(rows_view([{"check": c.name, "": c.status, "found": c.found, "expected": c.expected}
                          for c in found.checks]))  # fmt: skip
    typer.echo("\nUE8M0 code of a block by its largest magnitude, for each rule")
    users = {rule: ", ".join(r for r, f in found.rounding.items() if f == rule) for rule in detector()}
    print_view(rows_view([{"rule": rule, **{f"{a:g}": c for a, c in zip(AMAX, codes, strict=True)},
                           "this device": users[rule] and f"for {users[rule]}"}
                          for rule, codes in detector().items()]))  # fmt: skip
    failed = [check.name for check in found.checks if check.status == "fail"]
    typer.echo("\n" + (f"failed: {'; '.join(failed)}" if failed else "no check failed"))
