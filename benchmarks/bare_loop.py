"""Does `evalsuite bench` report the speed of the engine, or its own? Its loads against bare timed loops, in turn.

    python benchmarks/bare_loop.py [--pairs 8] [--seconds 2] [--out FILE]

A bare loop calls the same engine with nothing around it: prompts read once (prefill), or one token after the other
behind prompts that lie in the cache (decode). Both sides run in one process, alternating; what is printed is the load's
tokens a second over the bare loop's.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from evalsuite import machine
from evalsuite.engines import GenerateRequest
from evalsuite.measure import presets
from evalsuite.measure.local import LocalRig
from evalsuite.precision.recipes import RECIPES
from evalsuite.records import Arm, ModelRef, Workload


def bare(rig: LocalRig, arm: Arm, point: Workload, seconds: float) -> float:
    """Tokens a second of a plain loop over the session."""
    session = rig._sessions[arm.id]
    rows = rig.prompts([point.input_tokens] * point.batch)
    asked = [GenerateRequest(row, point.output_tokens or 1, ()) for row in rows]
    tokens = 0
    with torch.no_grad():
        if point.phase == "prefill":
            session.decoding(asked).next(None)
            start = time.perf_counter()
            while time.perf_counter() - start < seconds:
                session.decoding(asked).next(None)
                tokens += point.batch * point.input_tokens
            return tokens / (time.perf_counter() - start)
        spent = 0.0
        while spent < seconds:
            decoding = session.decoding(asked)
            token = decoding.next(None).argmax(-1)
            start = time.perf_counter()
            for _ in range(point.output_tokens):
                token = decoding.next(token).argmax(-1)
            spent += time.perf_counter() - start
            tokens += point.batch * point.output_tokens
    return tokens / spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--presets", default="cpu-smoke,cpu-std")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rig = LocalRig(ModelRef(id="reference"), {})
    arm = Arm(id="bf16", model=rig.model, recipe=RECIPES["bf16"])
    rig.open(arm)
    found = {}
    for point in (point for name in args.presets.split(",") for point in presets.points(name, "static")):
        load, ratios = rig.load(arm, point), []
        load.warm(0.5)
        bare(rig, arm, point, 0.2)
        for number in range(args.pairs):
            speeds: dict[str, float] = {}
            for side in ("load", "bare") if number % 2 else ("bare", "load"):
                if side == "bare":
                    speeds[side] = bare(rig, arm, point, args.seconds)
                else:
                    work = load.run(args.seconds)
                    speeds[side] = (work.input_tokens + work.output_tokens) / work.seconds
            ratios.append(speeds["load"] / speeds["bare"])
        load.close()
        found[point.key] = {"median": round(statistics.median(ratios), 3), "least": round(min(ratios), 3),
                            "largest": round(max(ratios), 3), "rounds": len(ratios)}  # fmt: skip
        print(point.key, found[point.key], flush=True)
    rig.close()
    report = {"load_over_bare": found, "machine": machine.facts(), "software": machine.software(),
              "command": "python benchmarks/bare_loop.py"}  # fmt: skip
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
