"""Does our offline load cost anything? Tokens a second of `VllmRig` against a bare `LLM.generate` on the same prompts.

    PYTHON_OF_VLLM benchmarks/offline.py [--model FOLDER] [--batch 4] [--output 64] [--seconds 8] [--rounds 6] [--out F]

Both sides use the same `LLM`, in turn, in the order AB BA AB ...: our load runs until its steady state is long enough;
`generate` then gets exactly the requests of such a run. Whole runs are compared with whole runs, filling up and running
dry included; the speed of the steady state, which is what a bench reports, stands beside them.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from evalsuite import resources
from evalsuite.measure.vllm_offline import VllmLoad, VllmRig
from evalsuite.precision.recipes import RECIPES
from evalsuite.records import Arm, ModelRef, Workload


def bare(llm: Any, load: VllmLoad, requests: int) -> float:
    """Tokens a second of `generate` over the first prompts of our load."""
    from vllm import SamplingParams

    prompts = [{"prompt_token_ids": load.prompt(number)} for number in range(requests)]
    length = load.sampling.max_tokens
    start = time.perf_counter()
    outputs = llm.generate(prompts, SamplingParams(temperature=0.0, max_tokens=length, ignore_eos=True), use_tqdm=False)
    taken = time.perf_counter() - start
    return sum(len(one.outputs[0].token_ids) for one in outputs) / taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(resources.reference_model()))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--input", type=int, default=64)
    parser.add_argument("--output", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    model = ModelRef(id=args.model)
    arm = Arm(id="bf16", model=model, recipe=RECIPES["bf16"], engine="vllm")
    rig = VllmRig(model, {"max_num_seqs": args.batch})
    rig.open(arm)
    work = Workload(preset="offline", runner="offline", phase="whole", batch=args.batch, input_tokens=args.input,
                    output_tokens=args.output)  # fmt: skip
    load = rig.load(arm, work)
    assert isinstance(load, VllmLoad)
    load.warm(3.0)
    rows = []
    done = load.run(args.seconds).whole_run
    for number in range(args.rounds):
        row: dict[str, float] = {}
        for side in ("ours", "bare") if number % 2 == 0 else ("bare", "ours"):
            if side == "ours":
                ran = load.run(args.seconds)
                done = ran.whole_run
                row["steady"], row["ours"] = ran.output_tokens / ran.seconds, done.output_tokens / done.duration_s
            else:
                row["bare"] = bare(rig.llm_of(arm), load, done.requests)
        rows.append(row)
        shown = ", ".join(f"{name} {row[name]:.0f}" for name in ("ours", "bare", "steady"))
        print(f"round {number + 1}, tokens/s: {shown}", file=sys.stderr)
    ratios = sorted(row["ours"] / row["bare"] for row in rows)
    report = {"facts": rig.facts["bf16"], "workload": work.model_dump(), "rounds": rows,
              "ours_over_bare": {"median": median(ratios), "least": ratios[0], "most": ratios[-1]}}  # fmt: skip
    rig.close()
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    spread = f"{ratios[0]:.3f} to {ratios[-1]:.3f}"
    print(f"ours over bare LLM.generate: {median(ratios):.3f} ({spread}), {len(rows)} rounds")


if __name__ == "__main__":
    main()
