"""What counting costs: the embedded model with counts of activations off, by blocks (always on) and by elements.

    python benchmarks/counting.py [--rounds N] [--out results/reference/counting.json]

Each round runs the three variants one after the other, in an order that rotates; a round gives one ratio of processor
seconds against "off", and the median over rounds is printed with the middle half of the rounds. Two kinds of work:
`prefill`, one forward pass over 16 rows of 128 tokens, and `decode`, 16 tokens one by one for 32 rows with a cache.
Processor time, not wall-clock: other programs then disturb less.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from transformers import AutoModelForCausalLM

from evalsuite import machine, resources
from evalsuite.engines.attention import use_fp32_attention
from evalsuite.precision import RECIPES, apply
from evalsuite.precision.activity import Tally

RECIPE = "fp8-ue8m0"
VARIANTS = ("off", "blocks", "elements")


def prefill(model: Any) -> None:
    model(input_ids=torch.arange(16 * 128).view(16, 128) % 1000 + 1, use_cache=False)


def decode(model: Any) -> None:
    cache = None
    for step in range(16):
        ids = torch.full((32, 1), step + 1)
        cache = model(input_ids=ids, past_key_values=cache, use_cache=True).past_key_values


WORK = {"prefill": prefill, "decode": decode}


def seconds(model: Any, applied: Any, variant: str, work: str) -> float:
    """Processor seconds of one piece of work."""
    applied.count("blocks" if variant == "off" else variant)
    with mock.patch.object(Tally, "add", Tally.add if variant != "off" else lambda *_: None):
        begin = time.process_time()
        WORK[work](model)
        applied.activity()
        return time.process_time() - begin


def measure(rounds: int) -> dict[str, Any]:
    """Ratios to "off" by kind of work and variant: median and quartiles."""
    model = AutoModelForCausalLM.from_pretrained(resources.reference_model(), dtype=torch.bfloat16).eval()
    use_fp32_attention(model)
    ratios: dict[tuple[str, str], list[float]] = {(w, v): [] for w in WORK for v in VARIANTS[1:]}
    with torch.no_grad(), apply(model, RECIPES[RECIPE]) as applied:
        for number in range(rounds + 1):
            for work in WORK:
                order = VARIANTS[number % 3 :] + VARIANTS[: number % 3]
                took = {variant: seconds(model, applied, variant, work) for variant in order}
                if number:  # the first round warms up
                    for variant in VARIANTS[1:]:
                        ratios[work, variant].append(took[variant] / took["off"])
    return {f"{work}, {variant}": {"median": round(statistics.median(found), 4),
                                   "quartiles": [round(q, 4) for q in statistics.quantiles(found, n=4)[::2]]}
            for (work, variant), found in ratios.items()}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(args.rounds)
    for name, row in found.items():
        low, high = row["quartiles"]
        print(f"{name:20} {row['median']:.3f} of the time without counts [{low:.3f}, {high:.3f}]")
    if args.out:
        report = {"ratios": found, "rounds": args.rounds, "recipe": RECIPE, "machine": machine.facts(),
                  "software": machine.software(), "command": f"python benchmarks/counting.py --rounds {args.rounds}"}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
