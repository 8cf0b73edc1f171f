"""`import`: logs of other programs into the store, and their verdict; needs no torch.

The speed formats (`speeds`) share the verb and nothing else: no arms, no verdict, one table.
"""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from evalsuite.cli import common
from evalsuite.cli.common import DEFAULT_RESULTS, AsJson, Results
from evalsuite.errors import UsageError, did_you_mean


def import_(
    kind: Annotated[str, typer.Argument(metavar="FORMAT", help="`lm-eval`, or speeds: `vllm-serve`, `llama-bench`...")],
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Two folders, baseline first; or files.")],
    noise: Annotated[Path | None, typer.Option(help="A second run of the baseline: the noise floor.")] = None,
    baseline_name: Annotated[str | None, typer.Option(help="Name of the baseline; else from its log.")] = None,
    candidate_name: Annotated[str | None, typer.Option(help="Name of the candidate; else from its log.")] = None,
    margin: Annotated[float, typer.Option(help="Largest tolerated loss, pooled, as a fraction.")] = 0.01,
    alpha: Annotated[float, typer.Option(help="One-sided error rate.")] = 0.05,
    tasks: Annotated[str | None, typer.Option(help="Tasks, groups or patterns to compare, comma-separated.")] = None,
    metric: Annotated[list[str] | None, typer.Option(help="NAME or TASK=NAME, where a log holds several.")] = None,
    filter_: Annotated[list[str] | None, typer.Option("--filter", help="NAME or TASK=NAME, likewise.")] = None,
    results: Results = DEFAULT_RESULTS,
    gate: Annotated[bool, typer.Option("--gate", help="Exit with the verdict's code.")] = False,
    as_json: AsJson = False,
) -> None:
    """Judge two runs of lm-evaluation-harness by their sample logs (`--log_samples`), and keep them as a run.

    Or keep speed and energy results of other programs, shown beside our own and never mixed with them.
    """
    common.answer_in_json(as_json)
    from evalsuite import workflow
    from evalsuite.cli.speeds import import_speeds
    from evalsuite.importing import FORMATS, Asked, keep
    from evalsuite.importing.speeds import SPEEDS
    from evalsuite.store import Store

    if kind in SPEEDS:
        given = {"--noise": noise, "--baseline-name": baseline_name, "--candidate-name": candidate_name,
                 "--tasks": tasks, "--metric": metric, "--filter": filter_, "--gate": gate}  # fmt: skip
        if wrong := [name for name, value in given.items() if value]:
            raise UsageError(f"{', '.join(wrong)}: only for lm-eval; {kind} has speeds and no answers to judge.")
        import_speeds(kind, paths, results, as_json=as_json)
        return
    if kind not in FORMATS:
        raise UsageError(f"Unknown format '{kind}'.{did_you_mean(kind, [*FORMATS, *SPEEDS])}")
    if len(paths) != 2:
        raise UsageError(f"import {kind} takes two folders, the baseline's and the candidate's (found {len(paths)}). "
                         "A second baseline run goes behind --noise.")  # fmt: skip
    if not (0 < margin < 0.5 and 0 < alpha < 0.5):
        raise UsageError(f"--margin and --alpha are fractions between 0 and 0.5 (found {margin} and {alpha}).")
    store = Store(results)
    read = FORMATS[kind](Asked(
        baseline=paths[0], candidate=paths[1], noise=noise, names=(baseline_name, candidate_name), margin=margin,
        alpha=alpha, tasks=common.split(tasks), metrics=tuple(metric or ()), filters=tuple(filter_ or ()),
    ))  # fmt: skip
    stored, new = keep(read, store, shlex.join(["evalsuite", *sys.argv[1:]]))
    for note in read.notes:
        sys.stderr.write(f"note: {note}\n")
    if not new:
        sys.stderr.write(f"note: these logs were imported before, as {stored.manifest.run_id}\n")
    judgement = workflow.judge(stored, store.runs())
    if as_json:
        common.print_json({"run": judgement.model_dump(mode="json"), "notes": list(read.notes)})
    else:
        common.print_judgement(stored.manifest, judgement)
        where = "" if results == DEFAULT_RESULTS else f" --results {shlex.quote(str(results))}"
        typer.echo(f"\nnext    evalsuite publish{where}")
    if gate:
        raise typer.Exit(judgement.exit_code)
