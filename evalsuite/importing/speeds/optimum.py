"""optimum-benchmark: `benchmark_report.json`, or `benchmark.json` with the configuration beside the report.

One row a phase (prefill, decode, generate). Decode is not measured: it is generate minus prefill, of two loops. Where
`per_token` is there, the throughput of `generate` is computed from the tokens of decode and is left out. Energy comes
from codecarbon: `gpu` is measured, `ram` modelled, `cpu` either; `total` mixes them and is not read.
"""

from collections.abc import Callable
from typing import Any

from evalsuite.errors import UsageError
from evalsuite.importing.speeds.fields import Fields, Source, single
from evalsuite.records import ForeignEnergy, ForeignEstimate, ForeignSpeed, ForeignThroughput, ForeignWorkload
from evalsuite.records.foreign import LatencyKind

TOOL = "optimum-benchmark"
KWH_J = 3.6e6
PHASES: dict[str, Callable[[float | None], ForeignThroughput]] = {
    "prefill": lambda rate: ForeignThroughput(prefill_tok_s=rate),
    "decode": lambda rate: ForeignThroughput(decode_tok_s=rate),
    "generate": lambda rate: ForeignThroughput(output_tok_s=rate),
}


def read_optimum(source: Source) -> list[ForeignSpeed]:
    """One row a phase of text generation."""
    document = single(source)
    report = document.inner("report") if "report" in document.data else document
    phases = [phase for phase in PHASES if report.data.get(phase) is not None]
    if not phases:
        raise UsageError(f"{source.path}: not a report of text generation by optimum-benchmark: none of "
                         f"{', '.join(PHASES)} in it.")  # fmt: skip
    known = _configuration(document.inner("config"))
    return [_row(report, phase, i, known) for i, phase in enumerate(phases)]


def _configuration(config: Fields) -> dict[str, Any]:
    backend, scenario = config.inner("backend"), config.inner("scenario")
    shapes, generation = scenario.inner("input_shapes"), scenario.inner("generate_kwargs")
    machine = config.inner("environment")
    boards = machine.values("gpu") if isinstance(machine.data.get("gpu"), list) else []
    hardware = boards[0] if boards and isinstance(boards[0], str) else machine.data.get("cpu")
    return {
        "model": backend.text("model"), "framework": backend.text("name"),
        "precision": backend.text("quantization_scheme") or backend.text("torch_dtype") or backend.text("dtype"),
        "source_version": machine.text("optimum_benchmark_version"),
        "source_commit": machine.text("optimum_benchmark_commit"),
        "hardware": Fields(config.source, {"hardware": hardware}, config.where).text("hardware"),
        "workload": ForeignWorkload(
            input_tokens=shapes.number("sequence_length"), batch=shapes.number("batch_size"),
            output_tokens=generation.number("max_new_tokens"),
        ),
    }  # fmt: skip


def _row(report: Fields, phase: str, index: int, known: dict[str, Any]) -> ForeignSpeed:
    target = Fields(report.source, report.inner(phase).data, report.inner(phase).where)
    times = target.inner("latency")
    unit = times.text("unit")
    if unit not in (None, "s"):
        raise UsageError(f"{times.place('unit')}: expected 's', found '{unit}'.")
    stats = {"mean": "mean", "std": "stdev", "p50": "p50", "p90": "p90", "p95": "p95", "p99": "p99"}
    found = {name: value for name, key in stats.items() if (value := times.number(key)) is not None}
    latency: dict[LatencyKind, dict[str, float]] = {"e2el_s": found} if found and phase == "generate" else {}
    if phase == "decode":
        target.notes.append("decode is generate minus prefill, of two loops")
    elif found:
        target.notes.append(f"{phase}: mean {found.get('mean', 0):.6g} s a batch")
    rate = _rate(target, computed=phase == "generate" and report.data.get("per_token") is not None)
    energy, estimates = _energy(target)
    return ForeignSpeed(
        **target.row(index, TOOL, **known), label=phase, window="whole_run", duration_s=times.figure("total"),
        repeats=times.count("count"), throughput=PHASES[phase](rate), latency=latency, energy=energy,
        energy_estimate=estimates, notes=tuple(target.notes), reasons=() if energy else ("no_meter",),
    )  # fmt: skip


def _rate(target: Fields, *, computed: bool) -> float | None:
    """Tokens a second, where the file states them in tokens."""
    speed = target.inner("throughput")
    unit = speed.text("unit")
    if unit is None:
        return None
    if unit != "tokens/s":
        target.notes.append(f"throughput is in {unit}, not in tokens, and left out")
        return None
    if computed:
        target.notes.append("throughput of generate was computed from the tokens of decode, and is left out")
        return None
    return speed.figure("value")


def _energy(target: Fields) -> tuple[tuple[ForeignEnergy, ...], tuple[ForeignEstimate, ...]]:
    table = target.inner("energy")
    unit = table.text("unit")
    if unit not in (None, "kWh"):
        raise UsageError(f"{table.place('unit')}: expected 'kWh', found '{unit}'.")
    gpu, cpu, ram = (table.figure(key, KWH_J) for key in ("gpu", "cpu", "ram"))
    method = "codecarbon"
    measured = () if gpu is None else (
        ForeignEnergy(scope="gpu_board", method=method, quality="L1", energy_j=gpu),)  # fmt: skip
    if gpu is not None:
        target.notes.append("energy as stated; for how many repetitions the file does not say")
    guesses = []
    if cpu is not None:
        guesses.append(ForeignEstimate(provenance="imported_unknown", scope="cpu_package", method=method, energy_j=cpu))
    if ram is not None:
        guesses.append(ForeignEstimate(provenance="modelled", scope="dram", method=method, energy_j=ram))
    return measured, tuple(guesses)
