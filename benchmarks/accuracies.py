"""Accuracy of every task and mode of a stored run, with 90 % Wilson intervals: the model card's table, BIG-Bench Hard.

    evalsuite run bbh --datasets SaylorTwift/bbh=FOLDER --arms bf16 --results RESULTS
    python benchmarks/accuracies.py RESULTS [--arm bf16] [--out results/reference/bbh.json]

Takes the newest run of the folder. Chance is the task's own, where its catalogue entry states one.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from evalsuite import machine, tasks
from evalsuite.judge.exact import wilson
from evalsuite.store import Store


def table(results: Path, arm: str) -> tuple[str, list[dict[str, Any]]]:
    """The run's id, and a row for each task and mode."""
    run = Store(results).run(None)
    samples = run.samples(["task", "mode", "arm", "correct"])
    found = []
    for (task, mode), rows in samples[samples["arm"] == arm].groupby(["task", "mode"]):
        right, n = int(rows["correct"].sum()), len(rows)
        found.append({"task": task, "mode": mode, "items": n, "right": right, "accuracy": right / n,
                      "interval_90": wilson(right, n), "chance": tasks.catalogue()[task].chance})  # fmt: skip
    return run.manifest.run_id, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--arm", default="bf16")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    run_id, found = table(args.results, args.arm)
    for row in found:
        low, high = row["interval_90"]
        shown = f"{row['accuracy']:.1%} [{low:.0%}, {high:.0%}]"
        print(f"{row['task']:55} {row['mode']:9} {shown:22} chance {row['chance'] or 'unknown'}")
    if args.out:
        command = f"python benchmarks/accuracies.py RESULTS --arm {args.arm}"
        report = {"run_id": run_id, "arm": args.arm, "tasks": found, "machine": machine.facts(),
                  "software": machine.software(), "command": command}  # fmt: skip
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
