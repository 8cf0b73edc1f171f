"""How wrong is a ratio of two speeds or energies when the machine drifts? Rounds in turn, against one after the other.

    python benchmarks/estimator.py [--sims 2000] [--out results/reference/estimator.json]

A simulated machine loses speed over the bench, two arms of known ratio run on it, and a counter that is updated every
100 ms is read at the windows' edges, which fall between two updates (the worst case: a real meter waits for one). The
judge's own functions make ratio and interval from the windows (`effects.effect`); a sample of simulations goes through
`judge_bench` as whole documents. Shown are the bias of the ratio and how often the 95 % interval holds the true one:
for rounds in balanced order and for the usual way, all windows of one arm and then all of the other. Nothing here is
measured on hardware.
"""

import argparse
import json
import math
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from evalsuite.judge import judge_bench
from evalsuite.judge.effects import bca, effect
from evalsuite.measure.rounds import order
from evalsuite.records import Arm, Bench, BenchSpec, Energy, Host, Measurement, ModelRef, Recipe, Window, Workload

ARMS = ("bf16", "bf16@null", "fp8")
TRUE = {"tokens_per_s": math.log(1.07), "j_per_token": math.log(0.93)}
WINDOW_S, WARM_S, TICK_S, POWER_W, TOKENS_PER_S = 10.0, 2.0, 0.1, 500.0, 1000.0
DRIFTS = (0.0, -0.03, -0.10)
NOISE = 0.01
HOST = Host(steal=0.0, involuntary_switches_per_s=0.0, others_cpu=0.0)
POINT = Workload(preset="simulated", runner="static", phase="decode", batch=1, input_tokens=1, output_tokens=1)


def places(rounds: int, *, sequential: bool) -> Any:
    """(rounds, arms): turn of each arm's window in each round, from 0."""
    n = len(ARMS)
    if sequential:
        return np.arange(n) * rounds + np.arange(rounds)[:, None]
    turns = [[int(arm) for arm in order(tuple(map(str, range(n))), r)] for r in range(rounds)]
    return np.argsort(turns, axis=1) + n * np.arange(rounds)[:, None]


def simulate(drift: float, turns: Any, sims: int, rng: np.random.Generator) -> dict[str, Any]:
    """Quantity -> (sims, rounds, arms). `drift`: change of ln speed over the bench; power stays, so joules rise."""
    start = turns * (WINDOW_S + WARM_S)
    whole = turns.size * (WINDOW_S + WARM_S)
    arm_speed = np.where(np.array(ARMS) == "fp8", TRUE["tokens_per_s"], 0.0)
    arm_power = arm_speed + np.where(np.array(ARMS) == "fp8", TRUE["j_per_token"], 0.0)
    shape = (sims, *turns.shape)
    speed = TOKENS_PER_S * np.exp(arm_speed + drift * start / whole + NOISE * rng.standard_normal(shape))
    power = POWER_W * np.exp(arm_power + NOISE * rng.standard_normal(shape))
    # A window is a few iterations longer than asked, and begins anywhere between two updates of the counter.
    seconds, phase = WINDOW_S + 0.2 * rng.random(shape), TICK_S * rng.random(shape)
    # The counter shows what it held at its last update, so a window is wrong by up to one of its hundred ticks.
    joules = power * TICK_S * np.floor((phase + seconds) / TICK_S)
    return {"tokens_per_s": speed, "j_per_token": joules / (speed * seconds), "seconds": seconds}


def documents(made: dict[str, Any], sim: int) -> Bench:
    """One simulation as the document of a bench."""
    rows = []
    for at, arm in enumerate(ARMS):
        windows = []
        for r in range(made["seconds"].shape[1]):
            seconds = float(made["seconds"][sim, r, at])
            tokens = round(1e6 * float(made["tokens_per_s"][sim, r, at]) * seconds)  # fine grained: no rounding error
            joules = float(made["j_per_token"][sim, r, at]) * tokens
            energy = Energy(meter="fake", scope="gpu_board", method="fake.counter", quality="L3", energy_j=joules,
                            power_w=joules / seconds, by_device_j={"0": joules})  # fmt: skip
            windows.append(Window(
                round=r, position=at, attempt=0, arm=arm, start_s=0.0, duration_s=seconds, iterations=1,
                input_tokens=0, output_tokens=tokens, requests=1, energy=(energy,), host=HOST,
            ))  # fmt: skip
        rows.append(Measurement(row_id=arm, arm=arm, workload=POINT, execution="native", realised=None,
                                speed_valid=True, windows=tuple(windows)))  # fmt: skip
    model = ModelRef(id="simulated")
    spec = BenchSpec(
        suite="simulated", model=model, baseline="bf16", null_arm="bf16@null", engine="none", presets=("simulated",),
        arms=tuple(Arm(id=a, model=model, recipe=Recipe(id=a, label=a)) for a in ("bf16", "fp8")), rounds=len(windows),
        window_s=WINDOW_S, warm_s=WARM_S,
    )  # fmt: skip
    return Bench(bench_id="simulated", created="2026-01-01T00:00:00Z", status="done", spec=spec, machine={},
                 software={}, measurements=tuple(rows))  # fmt: skip


def check(made: dict[str, Any], count: int) -> int:
    """Whole documents through `judge_bench`: the same ratios and intervals as from the arrays; returns how many."""
    for sim in range(count):
        for ratio in judge_bench(documents(made, sim)).ratios:
            if ratio.arm == "fp8" and ratio.value is not None:
                logs = np.log(made[ratio.quantity][sim])
                found = effect(logs[:, 2] - logs[:, 0])
                assert abs(math.log(ratio.value) - float(found.value)) < 1e-6
                assert ratio.ci95 is not None
                assert abs(math.log(ratio.ci95[0]) - float(found.low)) < 1e-6
    return count


def row(quantity: str, logs: Any) -> dict[str, float]:
    """Bias, coverage and failed null arms of one quantity; `logs`: (sims, rounds, arms)."""
    found, null = effect(logs[..., 2] - logs[..., 0]), effect(logs[..., 1] - logs[..., 0])
    true = TRUE[quantity]
    return {
        "bias_percent": round(100 * float(np.mean(found.value) - true), 3),
        "rms_percent": round(100 * float(np.sqrt(np.mean((found.value - true) ** 2))), 3),
        "coverage_percent": round(100 * float(np.mean((found.low <= true) & (true <= found.high))), 2),
        "half_width_percent": round(100 * float(np.median(found.half)), 3),
        "null_arm_failed_percent": round(100 * float(np.mean((null.low > 0) | (null.high < 0))), 2),
    }


def measure(sims: int) -> dict[str, Any]:
    """Everything that the table shows."""
    rng, rows, checked = np.random.default_rng(20_261_201), [], 0
    for rounds in (3, 6, 10):
        for drift in DRIFTS:
            for sequential in (False, True):
                made = simulate(drift, places(rounds, sequential=sequential), sims, rng)
                checked += check(made, min(2, sims))
                head = {"rounds": rounds, "drift_percent": round(100 * drift, 1),
                        "order": "sequential" if sequential else "interleaved"}  # fmt: skip
                rows += [{**head, "quantity": quantity, **row(quantity, np.log(made[quantity]))} for quantity in TRUE]
    return {"sims": sims, "noise_percent": 100 * NOISE, "standard_error_of_coverage_percent":
            round(100 * math.sqrt(0.95 * 0.05 / sims), 2), "documents_checked_with_judge_bench": checked,
            "rows": rows, "bootstrap_beside": bootstrap(min(sims, 400), rng)}  # fmt: skip


def bootstrap(sims: int, rng: np.random.Generator) -> dict[str, Any]:
    """Coverage of the bootstrap interval at ten rounds, beside the t interval, for even and for skewed scatter."""
    shapes = {"normal": rng.standard_normal((sims, 10)), "skewed": rng.exponential(size=(sims, 10)) - 1}
    made: dict[str, Any] = {"sims": sims}
    for name, y in shapes.items():
        both, t = [bca(one) for one in y], effect(y)
        held = [one is not None and one[0] <= 0 <= one[1] for one in both]
        made[f"bca_{name}_percent"] = round(100 * float(np.mean(held)), 1)
        made[f"t_{name}_percent"] = round(100 * float(np.mean((t.low <= 0) & (t.high >= 0))), 1)
    return made


def markdown(found: dict[str, Any]) -> str:
    """The table for people."""
    lines = ["| rounds | drift | order | quantity | bias | RMS error | 95 % interval covers | null arm fails |",
             "|---:|---:|---|---|---:|---:|---:|---:|"]  # fmt: skip
    lines += [
        f"| {r['rounds']} | {r['drift_percent']:g} % | {r['order']} | {r['quantity']} | {r['bias_percent']:+.2f} % | "
        f"{r['rms_percent']:.2f} % | {r['coverage_percent']:.1f} % | {r['null_arm_failed_percent']:.1f} % |"
        for r in found["rows"]
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sims", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    start = time.perf_counter()
    found = measure(options.sims)
    command = " ".join(["python", "benchmarks/estimator.py", *sys.argv[1:]])
    found = {"command": command, "python": platform.python_version(),
             "duration_s": round(time.perf_counter() - start, 1), **found}  # fmt: skip
    print(markdown(found))
    print(f"\n{found['duration_s']} s; bootstrap beside the t interval at ten rounds: {found['bootstrap_beside']}")
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    low = [r for r in found["rows"] if r["order"] == "interleaved" and r["coverage_percent"] < 93]
    sys.exit(10 if low else 0)


if __name__ == "__main__":
    main()
