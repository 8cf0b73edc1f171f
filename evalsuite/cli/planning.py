"""`plan`: what a suite can decide, before any compute."""

from typing import Annotated

import typer

from evalsuite.cli import common
from evalsuite.cli.common import DEFAULT_RESULTS, AsJson, Results
from evalsuite.errors import UsageError


def plan(
    suite: Annotated[str, typer.Argument(help="A suite file, or the name of a shipped suite.")] = "reference",
    model: Annotated[str | None, typer.Option(help="Model: `reference`, a folder, or a hub id.")] = None,
    arms: Annotated[str | None, typer.Option(help="Arms to run, comma-separated (the baseline always runs).")] = None,
    tasks: Annotated[str | None, typer.Option(help="Tasks to run, comma-separated.")] = None,
    design: Annotated[str | None, typer.Option(help="`fixed` or `sequential`.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many items a task.")] = None,
    datasets: Annotated[
        list[str] | None, typer.Option(help="Dataset in a local folder, ID=FOLDER; may be repeated.")
    ] = None,
    psi: Annotated[
        float | None, typer.Option(help="Share of differing items to assume where no earlier run tells, e.g. 0.08.")
    ] = None,
    price: Annotated[float | None, typer.Option(min=0, help="Price of this machine an hour, for the cost.")] = None,
    results: Results = DEFAULT_RESULTS,
    as_json: AsJson = False,
) -> None:
    """Items, margins that can be certified, power, time and cost of a suite, before it is run."""
    common.answer_in_json(as_json)
    from evalsuite import spec as suites
    from evalsuite import workflow

    if psi is not None and not 0 < psi <= 1:
        raise UsageError(f"--psi is a share in (0, 1], e.g. 0.05 (found: {psi}).")
    overrides = suites.Overrides(
        model=model, arms=common.split(arms), tasks=common.split(tasks), limit=limit, design=common.design(design),
        datasets=common.folders(datasets),
    )  # fmt: skip
    made = []
    for spec in suites.resolve(suites.load(suite), overrides):
        if psi is not None:
            spec = spec.model_copy(update={"decision": spec.decision.model_copy(update={"psi_plan": psi})})
        made.append(workflow.plan(spec, results, price))
    if as_json:
        common.print_json({"plans": [one.model_dump(mode="json") for one in made]})
        return
    from evalsuite.report import plan_view, print_view

    for one in made:
        print_view(plan_view(one))
