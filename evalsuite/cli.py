"""The command line: `evalsuite VERB`. Results go to stdout, narration to stderr; the only module that prints and exits.

Nothing heavy is imported at the top: `--help` answers in 0.3 s and imports neither torch nor lm_eval nor plotly.
"""

import difflib
import json
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evalsuite import __version__
from evalsuite.errors import EvalsuiteError, UsageError

if TYPE_CHECKING:
    from evalsuite.records import Judgement
    from evalsuite.workflow import Run

app = typer.Typer(
    name="evalsuite", no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False,
    help="Is FP8, with FP32 or UE8M0 scales, safe for this model? Same items, paired, with an error rate that holds.",
    epilog="Exit codes: 0 done or SAFE, 2 bad usage, 3 the environment can't, 4 some cells failed, 5 refused, "
           "10 UNSAFE, 11 INCONCLUSIVE, 12 INVALID, 130 interrupted. Start with: evalsuite run smoke",
)  # fmt: skip

Results = Annotated[Path, typer.Option("--results", envvar="EVALSUITE_RESULTS", help="Results folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
DEFAULT_RESULTS = Path("results")
_state = {"verbose": False, "json": False}


def _version(value: bool) -> None:
    if value:
        typer.echo(f"evalsuite {__version__}")
        raise typer.Exit


@app.callback()
def _global(
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show tracebacks.")] = False,
    version: Annotated[  # noqa: ARG001 - typer calls it
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    _state["verbose"] = verbose


def _split(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def _folders(pairs: list[str] | None) -> dict[str, str]:
    found = {}
    for pair in pairs or []:
        name, equals, folder = pair.partition("=")
        if not (name and equals and folder):
            raise UsageError(f"--datasets takes ID=FOLDER, e.g. openai/gsm8k=./gsm8k (found: '{pair}').")
        found[name] = str(Path(folder).expanduser().resolve())
    return found


def _print_json(document: dict[str, Any]) -> None:
    typer.echo(json.dumps({"schema_version": 1, **document}, indent=1, ensure_ascii=False, allow_nan=False))


# -------------------------------------------------------------------------------------------------------------- run


@app.command()
def run(
    suite: Annotated[str, typer.Argument(help="A suite file, or the name of a shipped suite.")] = "reference",
    model: Annotated[str | None, typer.Option(help="Model: `reference`, a folder, or a hub id.")] = None,
    arms: Annotated[str | None, typer.Option(help="Arms to run, comma-separated (the baseline always runs).")] = None,
    tasks: Annotated[str | None, typer.Option(help="Tasks to run, comma-separated.")] = None,
    engine: Annotated[str | None, typer.Option(help="Engine; see `evalsuite list engines`.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many items a task: a plan of its own.")] = None,
    datasets: Annotated[
        list[str] | None, typer.Option(help="Dataset in a local folder, ID=FOLDER; may be repeated.")
    ] = None,
    max_time: Annotated[str | None, typer.Option(help="End after this long (90s, 15m, 2h), resumable.")] = None,
    results: Results = DEFAULT_RESULTS,
    resume: Annotated[str | None, typer.Option(help="Continue this run (`last`, or the beginning of its id).")] = None,
    gate: Annotated[bool, typer.Option("--gate", help="Exit with the verdict's code.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved suite and stop.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a suite: measure every arm on the same items, judge, publish. Ends with the verdicts and the next command."""
    _state["json"] = as_json
    from evalsuite import spec as suites

    if resume is not None:
        specs: tuple[Any, ...] = ()
    else:
        located = suites.load(suite)
        overrides = suites.Overrides(
            model=model, arms=_split(arms), tasks=_split(tasks), engine=engine, limit=limit, datasets=_folders(datasets)
        )
        specs = suites.resolve(located, overrides)
        max_time = max_time or _suite_max_time(located)
    if dry_run:
        _print_json({"runs": [spec.model_dump(mode="json") for spec in specs]})
        return
    done = _measure(specs, results, suites.parse_duration(max_time), resume, quiet=as_json)
    _finish_run(done, results, gate=gate, as_json=as_json)


def _suite_max_time(located: Any) -> str | None:
    limits = located.data.get("limits") or {}
    value = limits.get("max_time")
    return None if value is None else str(value)


def _measure(
    specs: tuple[Any, ...], results: Path, max_time_s: float | None, resume: str | None, *, quiet: bool
) -> "list[Run]":
    from evalsuite import workflow
    from evalsuite.progress import Progress
    from evalsuite.store import Store

    with _interruptible() as interrupted, Progress(quiet=quiet) as progress:
        options = workflow.Options(
            results=results, max_time_s=max_time_s, interrupted=interrupted, reporter=progress,
            command=shlex.join(["evalsuite", *sys.argv[1:]]),
        )  # fmt: skip
        if resume is not None:
            old = Store(results).run(None if resume == "last" else resume)
            return [workflow.run(old.manifest.spec, options, resume=old)]
        return [workflow.run(spec, options) for spec in specs]


@contextmanager
def _interruptible() -> "Iterator[Any]":
    """Ctrl-C (or SIGTERM) once: finish the group and stop resumable. Twice: stop now."""
    seen: list[int] = []

    def handler(number: int, _: object) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)
        sys.stderr.write("\nStopping after the current group; once more to stop now.\n")

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
        _print_json({"runs": [j.model_dump(mode="json") for j in judged], "page": str(page)})
    else:
        for item, judgement in zip(done, judged, strict=True):
            _print_judgement(item.manifest, judgement)
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
        if item.manifest.status != "done":
            return f"evalsuite run --resume {item.manifest.run_id}{where}"
    return f"evalsuite verdict {done[-1].manifest.run_id}{where}"


# ------------------------------------------------------------------------------------------------------ verdict, show


@app.command()
def verdict(
    run_id: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="Run id or its beginning; else the newest.")
    ] = None,
    results: Results = DEFAULT_RESULTS,
    as_json: AsJson = False,
) -> None:
    """Print the sentence and the gates of a run; the exit code is the verdict's."""
    _state["json"] = as_json
    from evalsuite import workflow
    from evalsuite.store import Store

    store = Store(results)
    stored = store.run(run_id)
    judgement = workflow.judge(stored, store.runs())
    if as_json:
        _print_json({"run": judgement.model_dump(mode="json")})
    else:
        _print_judgement(stored.manifest, judgement)
    raise typer.Exit(judgement.exit_code)


def _print_judgement(manifest: Any, judgement: "Judgement") -> None:
    from evalsuite.report import judgement_view, print_view

    print_view(judgement_view(manifest, judgement))


@app.command()
def show(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="Run id or its beginning, or `last`.")],
    item: Annotated[str, typer.Argument(metavar="ITEM", help="Item id, e.g. ref_chain_sum/17.")],
    results: Results = DEFAULT_RESULTS,
    as_json: AsJson = False,
) -> None:
    """Follow one item: what each arm answered, and how it was scored."""
    _state["json"] = as_json
    from evalsuite.store import Store

    stored = Store(results).run(None if run_id == "last" else run_id)
    samples = stored.samples()
    rows = samples[samples["item_id"] == item]
    if rows.empty:
        ids = sorted(set(samples["item_id"]))
        near = difflib.get_close_matches(item, ids, n=3, cutoff=0.4)
        raise UsageError(f"No item '{item}' among the {len(ids)} of {stored.manifest.run_id}; "
                         f"near ones: {', '.join(near or ids[:3])}.")  # fmt: skip
    if as_json:
        _print_json({"samples": json.loads(rows.to_json(orient="records"))})
        return
    from evalsuite.report import item_view, print_view

    print_view(item_view(item, rows))


# ------------------------------------------------------------------------------------------------------------ publish


@app.command()
def publish(
    results: Results = DEFAULT_RESULTS,
    out: Annotated[Path | None, typer.Option(help="Folder of the site; default RESULTS/site.")] = None,
    as_json: AsJson = False,
) -> None:
    """Build the static site from every run in the results folder; works offline, without torch."""
    _state["json"] = as_json
    from evalsuite import workflow

    page = workflow.publish(results, out)
    if as_json:
        _print_json({"page": str(page)})
    else:
        typer.echo(page.resolve().as_uri())


# --------------------------------------------------------------------------------------------------------------- list


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(metavar="recipes|tasks|suites|engines|runs")],
    results: Results = DEFAULT_RESULTS,
    as_json: AsJson = False,
) -> None:
    """List what there is to run, or what was run."""
    _state["json"] = as_json
    from evalsuite import report
    from evalsuite.errors import did_you_mean

    if what not in report.LISTS:
        raise UsageError(f"Unknown list '{what}'.{did_you_mean(what, report.LISTS)}")
    rows = report.LISTS[what](results)
    if as_json:
        _print_json({what: rows})
        return
    report.print_view(report.rows_view(rows))


# --------------------------------------------------------------------------------------------------------------- main


def main() -> None:
    """Run the command line; every expected error becomes one message and its exit code."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app()
    except EvalsuiteError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("Interrupted. What was finished is stored; continue with `evalsuite run --resume last`.", 130)
    except OSError as error:
        _fail(f"{error.filename or 'results'}: {error.strerror or error}. What was finished is stored.", 3)


def _fail(message: str, code: int) -> None:
    if _state["verbose"]:
        raise  # noqa: PLE0704 - re-raises the error being handled, with its traceback
    if _state["json"]:
        _print_json({"error": {"exit_code": code, "message": message}})
    sys.stderr.write(f"error: {message}\n")
    sys.exit(code)
