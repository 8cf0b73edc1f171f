"""How long does judging take? `exact_p` on 14,042 items, and a whole run of 20 tasks and 200,000 items.

    python benchmarks/judge_speed.py [--out results/reference/judge_speed.json]

Synthetic samples: baseline, candidate and noise floor over 10,000 items in each of 20 tasks, half of them multiple
choice; 5 % of the answers differ. Times are the best of three, in one thread: processor time, which the limits concern,
and wall time, which other programs on the machine lengthen. Memory is the peak of the whole process.
"""

import argparse
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd

from evalsuite.judge import judge_run, stats
from evalsuite.records import (
    SCHEMA,
    Arm,
    Cell,
    CellRecord,
    DecisionSpec,
    Manifest,
    ModelRef,
    Plan,
    Recipe,
    RunSpec,
    Sampling,
    TaskSpec,
)

TASKS, ITEMS = 20, 10_000
LIMITS = {"exact_p_cpu_s": 0.1, "judge_run_cpu_s": 5.0, "peak_rss_bytes": 1e9}
ARMS = ("bf16", "fp8-ue8m0", "bf16@aa")


def best(call: Callable[[], Any], times: int = 3) -> tuple[float, float]:
    """Shortest processor time and wall time of some repetitions, in seconds."""
    found = []
    for _ in range(times):
        start = time.process_time(), time.perf_counter()
        call()
        found.append((time.process_time() - start[0], time.perf_counter() - start[1]))
    return min(cpu for cpu, _ in found), min(wall for _, wall in found)


def task(number: int) -> str:
    return f"task_{number:02d}"


def manifest() -> Manifest:
    """Three arms over all tasks."""
    model = ModelRef(id="synthetic")
    arms = tuple(Arm(id=a, model=model, recipe=Recipe(id=a, label=a), noise_floor=a.endswith("@aa")) for a in ARMS)
    specs = tuple(
        TaskSpec(task=task(i), metric="acc", filter="none", modes=("direct",), role="monitor", margin=0.02,
                 max_gen_toks=None if i % 2 else {"direct": 64}) for i in range(TASKS)
    )  # fmt: skip
    items = {f"{t.task}.direct": tuple(f"{t.task}{i:012x}" for i in range(ITEMS)) for t in specs}
    plans = {f"{t.task}.direct": Plan(margin=0.02, n_planned=ITEMS, role="monitor") for t in specs}
    cells = [Cell(arm=a, task=t.task, mode="direct") for a in ARMS for t in specs]
    spec = RunSpec(name="speed", model=model, arms=arms, baseline="bf16", tasks=specs,
                   decision=DecisionSpec(margin=0.01), sampling={"direct": Sampling()})  # fmt: skip
    return Manifest(
        schema_version=SCHEMA, run_id="speed", created="2026-01-01T00:00:00Z", status="done", spec=spec,
        spec_sha256=spec.digest(), plans={**plans, "pooled.direct": Plan(margin=0.01, n_planned=TASKS * ITEMS)},
        items=items, machine={}, software={},
        cells={c.key: CellRecord(cell=c, status="done", resume_key="", n_planned=ITEMS, n_done=ITEMS) for c in cells},
    )  # fmt: skip


def samples(of: Manifest) -> pd.DataFrame:
    """Rows as `StoredRun.samples` gives them."""
    rng, frames = np.random.default_rng(0), []
    for i in range(TASKS):
        truth = rng.random(ITEMS) < 0.7
        for arm in ARMS:
            flips = rng.random(ITEMS) < 0.025
            choices = list(rng.normal(-5, 1, (ITEMS, 4))) if i % 2 else [None] * ITEMS
            frames.append(pd.DataFrame({
                "task": task(i), "item_hash": of.items[f"{task(i)}.direct"], "prompt_hash": "p", "arm": arm,
                "mode": "direct", "repeat": np.int32(0), "position": np.arange(ITEMS, dtype=np.int32),
                "correct": truth ^ flips, "parsed": True, "truncated": False, "n_output_tokens": np.int32(20),
                "choice_loglikelihoods": choices, "tie": False,
            }))  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    exact = max(best(lambda b=b, c=c: stats.exact_p(b, c, 14_042, 0.01)) for b, c in ((0, 0), (350, 350), (1400, 1400)))
    of = manifest()
    rows = samples(of)
    judged = best(lambda: judge_run(of, rows))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    measured = {"exact_p_cpu_s": round(exact[0], 4), "judge_run_cpu_s": round(judged[0], 3), "peak_rss_bytes": peak}
    found = {
        "command": " ".join(["python", "benchmarks/judge_speed.py", *sys.argv[1:]]),
        "python": platform.python_version(),
        "exact_p_items": 14_042, "tasks": TASKS, "items": TASKS * ITEMS, "rows": len(rows),
        "verdict": judge_run(of, rows).verdict, **measured, "limits": LIMITS,
        "exact_p_wall_s": round(exact[1], 4), "judge_run_wall_s": round(judged[1], 3),
    }  # fmt: skip
    print(json.dumps(found, indent=1))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.exit(0 if all(measured[name] <= limit for name, limit in LIMITS.items()) else 10)


if __name__ == "__main__":
    main()
