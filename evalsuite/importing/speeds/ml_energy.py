"""ML.ENERGY: `results.json` of a benchmark run, and the task files of its leaderboard (`public/data/tasks/*.json`).

Energy is that of the boards' counters, read by Zeus without tick alignment or cross-check: quality `L3-` from 30 s on.
In a run's `results.json` the energy a token is of the steady state and `output_throughput` of the whole run: two rows.
A leaderboard's figures are all of the steady state, which its makers accept from 30 s on.
"""

from typing import Any

from evalsuite.errors import UsageError
from evalsuite.importing.speeds.fields import Fields, Source, single
from evalsuite.importing.speeds.vllm_serve import latencies
from evalsuite.records import ForeignEnergy, ForeignQuality, ForeignSpeed, ForeignThroughput, ForeignWorkload

TOOL = "ml-energy"
METHOD = "zeus.total_energy_counter"
SHORTEST_S = 30.0
FIGURES = ("energy_per_token_joules", "output_throughput_tokens_per_sec")


def read_ml_energy(source: Source) -> list[ForeignSpeed]:
    """The rows of a run (two) or of a leaderboard task (one a configuration)."""
    document = single(source)
    if "configurations" in document.data:
        found = document.items("configurations")
        return [_configuration(one, i, document.text("task")) for i, one in enumerate(found)]
    document.require(("steady_state_energy", "steady_state_energy_per_token"), "a result of ML.ENERGY")
    return _run(document)


def _configuration(one: Fields, index: int, task: str | None) -> ForeignSpeed:
    one.require(FIGURES, "a configuration of a text task of ML.ENERGY")
    devices = one.count("num_gpus")
    energy = _energy(
        "L3-", devices, j_per_output_token=one.figure(FIGURES[0]), power_w=one.figure("avg_power_watts"),
        j_per_request=one.figure("energy_per_request_joules"),
    )  # fmt: skip
    names = {"p50": "median_itl_ms", "p90": "p90_itl_ms", "p95": "p95_itl_ms", "p99": "p99_itl_ms"}
    itl = {name: value / 1000 for name, key in names.items() if (value := one.number(key)) is not None}
    parallel = [f"{name} {size}" for name in ("tensor_parallel", "expert_parallel", "data_parallel")
                if (size := one.count(name)) is not None]  # fmt: skip
    places = one.count("max_num_seqs")
    return ForeignSpeed(
        **one.row(index, TOOL), label=task, model=one.text("model_id"), hardware=one.text("gpu_model"),
        precision=one.text("weight_precision"), framework="vllm", window="steady_state",
        workload=ForeignWorkload(
            output_tokens=one.figure("avg_output_len"), batch=one.figure("avg_batch_size"), devices=devices
        ),
        throughput=ForeignThroughput(output_tok_s=one.figure(FIGURES[1])), latency={"itl_s": itl} if itl else {},
        energy=energy, reasons=() if energy else ("no_meter",),
        notes=(*([", ".join(parallel)] if parallel else []),
               *([f"batch is the mean of at most {places}"] if places is not None else []), *one.notes),
    )  # fmt: skip


def _energy(quality: ForeignQuality, devices: int | None, **figures: float | None) -> tuple[ForeignEnergy, ...]:
    """The energy of a row; none where every figure is missing."""
    if all(value is None for value in figures.values()):
        return ()
    given: dict[str, Any] = dict(figures)
    return (ForeignEnergy(scope="gpu_board", method=METHOD, quality=quality, devices=devices, **given),)


def _run(run: Fields) -> list[ForeignSpeed]:
    devices, completed = run.count("num_gpus"), run.count("completed")
    steady_s = run.figure("steady_state_duration")
    short = steady_s is None or steady_s < SHORTEST_S
    steady = _energy("L1" if short else "L3-", devices, energy_j=run.figure("steady_state_energy"),
                     j_per_output_token=run.figure("steady_state_energy_per_token"))  # fmt: skip
    boards = run.inner("entire_benchmark_measurement").inner("gpu_energy")
    total = sum(boards.number(key) or 0.0 for key in boards.data)
    whole_s = run.figure("duration")
    whole = _energy("L3-" if (whole_s or 0) >= SHORTEST_S else "L1", devices, energy_j=total or None)
    place = run.figure("max_num_seqs") or run.figure("max_concurrency")
    common: dict[str, Any] = {
        "measured_at": run.text("date"), "model": run.text("model_id"), "hardware": run.text("gpu_model"),
        "framework": "vllm",
        "workload": ForeignWorkload(
            input_tokens=_mean(run, "total_input_tokens", completed), batch=place, requests=completed, devices=devices,
            output_tokens=_mean(run, "total_output_tokens", completed),
        ),
    }  # fmt: skip
    reasons = ["window_too_short"] * short + ["no_meter"] * (not steady)
    speed = ForeignThroughput(output_tok_s=run.figure("output_throughput"),
                              total_tok_s=run.figure("total_token_throughput"),
                              requests_s=run.figure("request_throughput"))  # fmt: skip
    notes = ("batch is the largest allowed", *run.notes)
    return [
        ForeignSpeed(**run.row(0, TOOL, **common), window="steady_state", duration_s=steady_s, energy=steady,
                     reasons=tuple(reasons), notes=notes),
        ForeignSpeed(**run.row(1, TOOL, **common), window="whole_run", duration_s=whole_s, throughput=speed,
                     latency=latencies(run), energy=whole, reasons=() if whole else ("no_meter",), notes=notes),
    ]  # fmt: skip


def _mean(run: Fields, key: str, completed: int | None) -> float | None:
    total = run.count(key)
    if total is not None and completed == 0:
        raise UsageError(f"{run.place('completed')}: expected 1 request or more, found 0.")
    return total / completed if total is not None and completed else None
