"""`bench`: throughput, memory and energy of the arms, side by side."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evalsuite.cli import common
from evalsuite.cli.common import DEFAULT_RESULTS, AsJson, Results
from evalsuite.errors import UsageError

if TYPE_CHECKING:
    from evalsuite.records import Bench, EnergyModel


def bench(
    suite: Annotated[str, typer.Argument(help="A suite file, or the name of a shipped suite.")] = "reference",
    model: Annotated[str | None, typer.Option(help="Model: `reference`, a folder, or a hub id.")] = None,
    arms: Annotated[str | None, typer.Option(help="Arms to run, comma-separated (the baseline always runs).")] = None,
    presets: Annotated[str | None, typer.Option(help="Workloads, comma-separated; see `list presets`.")] = None,
    rounds: Annotated[int | None, typer.Option(min=2, help="Rounds: 3 in CI, 6, 10 for publication.")] = None,
    window: Annotated[str | None, typer.Option(help="Length of a window: 3s on processors, 12s elsewhere.")] = None,
    engine: Annotated[str | None, typer.Option(help="`local`, `vllm` or `endpoint`.")] = None,
    endpoint: Annotated[
        list[str] | None, typer.Option(help="Server of an arm, ARM=URL; may be repeated. Implies that engine.")
    ] = None,
    devices: Annotated[
        str | None, typer.Option(help="Numbers of devices, e.g. 1,2,4: when does adding one stop paying?")
    ] = None,
    meters: Annotated[str | None, typer.Option(help="Meters, comma-separated; default: those that answer.")] = None,
    tdp: Annotated[
        float | None, typer.Option(min=0, help="Model the processor's energy from its TDP (watts): an interval, apart.")
    ] = None,
    host_threads: Annotated[int | None, typer.Option(min=1, help="With --tdp: threads of the whole host.")] = None,
    price: Annotated[float | None, typer.Option(min=0, help="Price of one device an hour.")] = None,
    max_time: Annotated[str | None, typer.Option(help="End after this long (90s, 15m, 2h).")] = None,
    results: Results = DEFAULT_RESULTS,
    as_json: AsJson = False,
) -> None:
    """Measure speed, memory and joules of the arms in balanced rounds on one device; only what was measured is shown.

    Emulated arms have neither. Every ratio stands beside the limit that physics sets, and beside the baseline against
    itself.
    """
    common.answer_in_json(as_json)
    from evalsuite import machine, workflow
    from evalsuite import spec as suites
    from evalsuite.cli.running import interruptible
    from evalsuite.progress import BenchProgress

    overrides = suites.BenchOverrides(
        model=model, arms=common.split(arms), engine=engine, presets=common.split(presets), rounds=rounds,
        window_s=suites.parse_duration(window), price_per_hour=price or None, endpoints=common.endpoints(endpoint),
        devices=_counts(devices), energy_model=_model(tdp, host_threads),
    )  # fmt: skip
    quick = machine.facts()["accelerator"] is None
    specs = suites.resolve_bench(suites.load(suite), overrides, quick=quick)
    seconds = suites.parse_duration(max_time)
    made = []
    with interruptible("Stopping after this window; once more to stop now.") as interrupted:
        for spec in specs:
            options = workflow.BenchOptions(
                results=results, meters=common.split(meters), interrupted=interrupted, max_time_s=seconds,
                reporter=BenchProgress(quiet=as_json), command=shlex.join(["evalsuite", *sys.argv[1:]]),
            )  # fmt: skip
            made.append(workflow.bench(spec, options))
    _finish(made, results, as_json=as_json)


def _model(tdp: float | None, host_threads: int | None) -> "EnergyModel | None":
    from evalsuite.records import EnergyModel

    if not tdp:
        if host_threads:
            raise UsageError("--host-threads goes with --tdp.")
        return None
    return EnergyModel(tdp_w=tdp, host_threads=host_threads)


def _counts(text: str | None) -> tuple[int, ...] | None:
    parts = common.split(text)
    if parts is None:
        return None
    if not parts or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"--devices takes numbers of devices, e.g. 1,2,4 (found: '{text}').")
    return tuple(int(part) for part in parts)


def _finish(made: "list[Bench]", results: Path, *, as_json: bool) -> None:
    from evalsuite import workflow
    from evalsuite.report import print_view
    from evalsuite.report_bench import bench_view

    judged = [workflow.judge_bench(one, results) for one in made]
    if as_json:
        pairs = [{"bench": one.model_dump(mode="json"), "judgement": told.model_dump(mode="json")}
                 for one, told in zip(made, judged, strict=True)]  # fmt: skip
        common.print_json({"benches": pairs})
    else:
        for one, told in zip(made, judged, strict=True):
            print_view(bench_view(one, told))
            typer.echo(f"\nraw     {results / one.bench_id / 'bench.json'}")
    states = {one.status for one in made}
    if "interrupted" in states:
        raise typer.Exit(130)
    if "partial" in states:
        raise typer.Exit(4)
