"""`verdict`, `show`, `publish`, `list`, `doctor`: look at what is stored and what is here; none needs torch."""

import difflib
import json
from pathlib import Path
from typing import Annotated

import typer

from evalsuite.cli import common
from evalsuite.cli.common import DEFAULT_RESULTS, AsJson, Results
from evalsuite.errors import UsageError


def verdict(
    run_id: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="Run id or its beginning; else the newest.")
    ] = None,
    results: Results = DEFAULT_RESULTS,
    as_json: AsJson = False,
) -> None:
    """Print the sentence and the gates of a run; the exit code is the verdict's."""
    common.answer_in_json(as_json)
    from evalsuite import workflow
    from evalsuite.store import Store

    store = Store(results)
    stored = store.run(run_id)
    judgement = workflow.judge(stored, store.runs())
    if as_json:
        common.print_json({"run": judgement.model_dump(mode="json")})
    else:
        common.print_judgement(stored.manifest, judgement)
    raise typer.Exit(judgement.exit_code)


def show(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="Run id or its beginning, or `last`.")],
    item: Annotated[str, typer.Argument(metavar="ITEM", help="Item id, e.g. ref_chain_sum/17.")],
    results: Results = DEFAULT_RESULTS,
    as_json: AsJson = False,
) -> None:
    """Follow one item: what each arm answered, and how it was scored."""
    common.answer_in_json(as_json)
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
        common.print_json({"samples": json.loads(rows.to_json(orient="records"))})
        return
    from evalsuite.report import item_view, print_view

    print_view(item_view(item, rows))


def publish(
    results: Results = DEFAULT_RESULTS,
    out: Annotated[Path | None, typer.Option(help="Folder of the site; default RESULTS/site.")] = None,
    as_json: AsJson = False,
) -> None:
    """Build the static site from every run in the results folder; works offline, without torch."""
    common.answer_in_json(as_json)
    from evalsuite import workflow

    page = workflow.publish(results, out)
    if as_json:
        common.print_json({"page": str(page)})
    else:
        typer.echo(page.resolve().as_uri())


def list_(
    what: Annotated[str, typer.Argument(metavar="recipes|tasks|suites|engines|meters|presets|runs|benches")],
    results: Results = DEFAULT_RESULTS,
    as_json: AsJson = False,
) -> None:
    """List what there is to run, or what was run."""
    common.answer_in_json(as_json)
    from evalsuite import report
    from evalsuite.errors import did_you_mean

    if what not in report.LISTS:
        raise UsageError(f"Unknown list '{what}'.{did_you_mean(what, report.LISTS)}")
    rows = report.LISTS[what](results)
    if as_json:
        common.print_json({what: rows})
        return
    report.print_view(report.rows_view(rows))


def doctor(results: Results = DEFAULT_RESULTS, as_json: AsJson = False) -> None:
    """Look at everything a run or a bench needs, and say what to do where something is missing."""
    common.answer_in_json(as_json)
    from evalsuite import doctor as checking

    checks = checking.look(results)
    possible = checking.possible(checks)
    if as_json:
        from evalsuite.report import LISTS

        common.print_json({"possible": possible, "checks": [check.model_dump() for check in checks],
                           "meters": LISTS["meters"](results)})  # fmt: skip
    else:
        from evalsuite.report import doctor_view, print_view

        print_view(doctor_view(checks))
    if not possible:
        raise typer.Exit(3)
