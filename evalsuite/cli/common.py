"""What all verbs share: the options they have in common, and how they print."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from evalsuite.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from evalsuite.records import Judgement

Results = Annotated[Path, typer.Option("--results", envvar="EVALSUITE_RESULTS", help="Results folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
DEFAULT_RESULTS = Path("results")
state = {"verbose": False, "json": False}
"""How errors are printed, set by the options of the call."""


def answer_in_json(as_json: bool) -> None:
    """Remember that errors, too, are to be one JSON document."""
    state["json"] = as_json


def split(text: str | None) -> tuple[str, ...] | None:
    """The parts of a comma-separated option; None where it was not given."""
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def design(name: str | None) -> Literal["fixed", "sequential"] | None:
    """The value of `--design`; UsageError for any other."""
    match name:
        case None | "fixed" | "sequential":
            return name
    raise UsageError(f"Unknown design '{name}'.{did_you_mean(name, ('fixed', 'sequential'))}")


def folders(pairs: list[str] | None) -> dict[str, str]:
    """`ID=FOLDER` options as a table of absolute folders; UsageError for anything else."""
    found = {}
    for pair in pairs or []:
        name, equals, folder = pair.partition("=")
        if not (name and equals and folder):
            raise UsageError(f"--datasets takes ID=FOLDER, e.g. openai/gsm8k=./gsm8k (found: '{pair}').")
        found[name] = str(Path(folder).expanduser().resolve())
    return found


def endpoints(pairs: list[str] | None) -> dict[str, str]:
    """`ARM=URL` options as a table; UsageError for anything else."""
    found = {}
    for pair in pairs or []:
        arm, equals, url = pair.partition("=")
        if not (arm and equals and url.startswith(("http://", "https://"))):
            raise UsageError(f"--endpoint takes ARM=URL, e.g. bf16=http://127.0.0.1:8000 (found: '{pair}').")
        found[arm] = url
    return found


def print_json(document: dict[str, Any]) -> None:
    """The one document of a verb, on stdout."""
    typer.echo(json.dumps({"schema_version": 1, **document}, indent=1, ensure_ascii=False, allow_nan=False))


def print_judgement(manifest: Any, judgement: "Judgement") -> None:
    """Sentences, gates and findings of a judged run."""
    from evalsuite.report import judgement_view, print_view

    print_view(judgement_view(manifest, judgement))
