"""`run`: measure a suite, judge it, publish it."""

import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evalsuite.cli import common
from evalsuite.cli.common import DEFAULT_RESULTS, AsJson, Results
from evalsuite.errors import RefusedError, UsageError

if TYPE_CHECKING:
    from evalsuite.records import RunSpec
    from evalsuite.workflow import Run


def run(
    suite: Annotated[str, typer.Argument(help="A suite file, or the name of a shipped suite.")] = "reference",
    model: Annotated[str | None, typer.Option(help="Model: `reference`, a folder, or a hub id.")] = None,
    arms: Annotated[str | None, typer.Option(help="Arms to run, comma-separated (the baseline always runs).")] = None,
    tasks: Annotated[str | None, typer.Option(help="Tasks to run, comma-separated.")] = None,
    engine: Annotated[str | None, typer.Option(help="Engine; see `evalsuite list engines`.")] = None,
    endpoint: Annotated[
        list[str] | None,
        typer.Option(help="Server of an arm, ARM=URL; may be repeated. Implies that engine; with --resume: it moved."),
    ] = None,
    design: Annotated[
        str | None, typer.Option(help="`fixed`: one verdict at the end; `sequential`: look after each window.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many items a task: a plan of its own.")] = None,
    datasets: Annotated[
        list[str] | None, typer.Option(help="Dataset in a local folder, ID=FOLDER; may be repeated.")
    ] = None,
    max_time: Annotated[str | None, typer.Option(help="End after this long (90s, 15m, 2h), resumable.")] = None,
    results: Results = DEFAULT_RESULTS,
    resume: Annotated[str | None, typer.Option(help="Continue this run (`last`, or the beginning of its id).")] = None,
    more: Annotated[
        int, typer.Option(min=0, help="With --resume: this many further items a mode (sequential design).")
    ] = 0,
    gate: Annotated[bool, typer.Option("--gate", help="Exit with the verdict's code.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved suite and stop.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a suite: measure every arm on the same items, judge, publish. Ends with the verdicts and the next command."""
    common.answer_in_json(as_json)
    from evalsuite import spec as suites

    if resume is not None:
        specs: tuple[Any, ...] = ()
    else:
        located = suites.load(suite)
        overrides = suites.Overrides(
            model=model, arms=common.split(arms), tasks=common.split(tasks), engine=engine, limit=limit,
            design=common.design(design),
            datasets=common.folders(datasets), endpoints=common.endpoints(endpoint),
        )  # fmt: skip
        specs = suites.resolve(located, overrides)
        max_time = max_time or _suite_max_time(located)
    if dry_run:
        common.print_json({"runs": [spec.model_dump(mode="json") for spec in specs]})
        return
    again = Again(resume, more, common.endpoints(endpoint))
    done = _measure(specs, results, suites.parse_duration(max_time), again, quiet=as_json)
    _finish_run(done, results, gate=gate, as_json=as_json)


@dataclass(frozen=True)
class Again:
    """What is to be continued."""

    run: str | None
    more: int
    """Further items a mode."""
    endpoints: dict[str, str]
    """Servers that moved: arm -> URL."""

    def moved(self, spec: "RunSpec") -> "RunSpec":
        """The stored suite, asking servers where they are now."""
        if not self.endpoints:
            return spec
        if spec.engine != "endpoint":
            raise UsageError(f"--endpoint says where a server moved; this run's engine is '{spec.engine}'.")
        urls = {**(spec.engine_options.get("endpoints") or {}), **self.endpoints}
        return spec.model_copy(update={"engine_options": {**spec.engine_options, "endpoints": urls}})


def _suite_max_time(located: Any) -> str | None:
    limits = located.data.get("limits") or {}
    value = limits.get("max_time")
    return None if value is None else str(value)


def _measure(
    specs: tuple[Any, ...], results: Path, max_time_s: float | None, again: "Again", *, quiet: bool
) -> "list[Run]":
    from evalsuite import workflow
    from evalsuite.progress import Progress
    from evalsuite.store import Store

    with interruptible() as interrupted, Progress(quiet=quiet) as progress:
        options = workflow.Options(
            results=results, max_time_s=max_time_s, interrupted=interrupted, reporter=progress,
            command=shlex.join(["evalsuite", *sys.argv[1:]]),
        )  # fmt: skip
        if again.run is not None:
            old = Store(results).run(None if again.run == "last" else again.run)
            if old.manifest.provenance != "measured":
                origin = old.manifest.provenance
                raise RefusedError(f"{old.manifest.run_id} was {origin}, not measured: there is nothing to resume.")
            return [workflow.run(again.moved(old.manifest.spec), options, resume=old, more=again.more)]
        if again.more:
            raise UsageError("--more continues a stored run: name it with --resume RUN.")
        return [workflow.run(spec, options) for spec in specs]


@contextmanager
def interruptible(said: str = "Stopping after the current group; once more to stop now.") -> "Iterator[Any]":
    """Ctrl-C (or SIGTERM) once: finish the unit in flight and stop. Twice: stop now."""
    seen: list[int] = []

    def handler(number: int, _: object) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)
        sys.stderr.write(f"\n{said}\n")

    old = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(seen)
    finally:
        for number, previous in old.items():
            signal.signal(number, previous)


def _finish_run(done: "list[Run]", results: Path, *, gate: bool, as_json: bool) -> None:
    from evalsuite import workflow
    from evalsuite.records import VERDICT_EXIT, worst

    judged = [item.judgement() for item in done]
    page = workflow.publish(results)
    if as_json:
        common.print_json({"runs": [j.model_dump(mode="json") for j in judged], "page": str(page)})
    else:
        for item, judgement in zip(done, judged, strict=True):
            common.print_judgement(item.manifest, judgement)
        typer.echo(f"\npages   {page.resolve().as_uri()}")
        typer.echo(f"next    {_next_command(done, results)}")
    states = [item.manifest.status for item in done]
    if "interrupted" in states:
        raise typer.Exit(130)
    if "partial" in states:
        raise typer.Exit(4)
    if gate:
        raise typer.Exit(VERDICT_EXIT[worst([j.verdict for j in judged])])


def _next_command(done: "list[Run]", results: Path) -> str:
    where = "" if results == DEFAULT_RESULTS else f" --results {shlex.quote(str(results))}"
    for item in done:
        open_ = any(f.code == "MISSING" for record in item.manifest.cells.values() for f in record.findings)
        if item.manifest.status != "done" or open_:
            return f"evalsuite run --resume {item.manifest.run_id}{where}"
    return f"evalsuite verdict {done[-1].manifest.run_id}{where}"
