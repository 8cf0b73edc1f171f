"""The command line: `evalsuite VERB`. Results go to stdout, narration to stderr; the only room that prints and exits.

A verb is a function in one of the modules here and one line in `VERBS`. Nothing heavy is imported at the top: `--help`
answers in 0.3 s and imports neither torch nor lm_eval nor plotly.
"""

import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from evalsuite import __version__
from evalsuite.cli import benching, checkpoints, chips, common, importing, looking, planning, running, speeds
from evalsuite.errors import EvalsuiteError

VERBS: dict[str, Callable[..., None]] = {
    "run": running.run,
    "plan": planning.plan,
    "bench": benching.bench,
    "verdict": looking.verdict,
    "show": looking.show,
    "quantize": checkpoints.quantize,
    "stress": checkpoints.stress,
    "publish": looking.publish,
    "list": looking.list_,
    "doctor": looking.doctor,
    "import": importing.import_,
    "export": speeds.export,
    "conformance": chips.conformance,
}
"""All verbs, in the order of the help text."""

app = typer.Typer(
    name="evalsuite", no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False,
    context_settings={"max_content_width": 120},
    rich_markup_mode=None,  # rich's help takes 0.15 s to import, half of what `--help` may take
    help="Is FP8, with FP32 or UE8M0 scales, safe for this model? Same items, paired, with an error rate that holds.",
    epilog="Exit codes: 0 done or SAFE, 2 bad usage, 3 the environment can't, 4 some cells failed, 5 refused, "
           "10 UNSAFE, 11 INCONCLUSIVE, 12 INVALID, 130 interrupted. Start with: evalsuite run smoke",
)  # fmt: skip


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
    common.state["verbose"] = verbose


for _name, _verb in VERBS.items():
    app.command(_name)(_verb)


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
        _fail("Interrupted. What was finished is stored; `evalsuite run --resume last` continues a run.", 130)
    except OSError as error:
        _fail(f"{error.filename or 'results'}: {error.strerror or error}. What was finished is stored.", 3)


def _fail(message: str, code: int) -> None:
    if common.state["verbose"]:
        raise  # noqa: PLE0704 - re-raises the error being handled, with its traceback
    if common.state["json"]:
        common.print_json({"error": {"exit_code": code, "message": message}})
    sys.stderr.write(f"error: {message}\n")
    sys.exit(code)
