"""Does vLLM give the embedded engine's answers? Item by item in BF16, on the embedded model.

    EVALSUITE_VLLM_PYTHON=PYTHON_OF_VLLM python benchmarks/engines.py [--items N] [--work DIR] [--out FILE]

Two correct engines differ, since a BF16 result depends on the batch. So the share of items whose correctness differs
between vLLM and the embedded engine (batches of 64) is held against the embedded engine's own, one item a batch against
64: at most twice that and half a point more. Tasks: the project's own, generated answers in direct mode and multiple
choice, at most N items a task (170 of each of the twelve). Every difference is listed with the first token that
differs. vLLM's side runs in vLLM's environment, as this script with `--side`. `--work` keeps what a side found.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from evalsuite import machine, tasks
from evalsuite.engines import ENGINES
from evalsuite.harness import answer, prepare
from evalsuite.located import parse
from evalsuite.precision.recipes import RECIPES
from evalsuite.records import Arm, ModelRef
from evalsuite.spec import Overrides, resolve

BUDGET = 16
SUITE = """\
schema: 1
name: engines
model: reference
arms: [bf16]
baseline: bf16
decision: {margin: 0.02}
tasks:
"""
SIDES: dict[str, tuple[str, int | None]] = {"local-1": ("local", 1), "local-64": ("local", 64), "vllm": ("vllm", None)}
"""Side -> engine, items a batch (None: the harness's groups, which vLLM makes its batches from)."""


def answers(side: str, items: int) -> dict[str, Any]:
    """What one side says, by item id: `score`, `tokens` (null for multiple choice), `said` (the option or the text)."""
    name, batch = SIDES[side]
    lines = [f"  - {task}" if spec.metric == "acc" else
             f"  - {{task: {task}, modes: [direct], max_gen_toks: {{direct: {BUDGET}}}}}"
             for task, spec in tasks.catalogue().items() if task.startswith("ref_")]  # fmt: skip
    spec = resolve(parse(SUITE + "\n".join(lines), "engines"), Overrides(limit=items, engine=name))[0]
    engine = ENGINES[name](ModelRef(id="reference"), {})
    found: dict[str, Any] = {}
    with engine.open(Arm(id="bf16", model=engine.model, recipe=RECIPES["bf16"], engine=name)) as session:
        workloads, began = prepare(spec, engine), time.perf_counter()
        for workload in workloads:
            for group in workload.groups:
                size = batch or len(group)
                for part in (group[at : at + size] for at in range(0, len(group), size)):
                    for row in answer(session, workload, part, {"arm": "bf16", "repeat": 0, "group": 0}):
                        said = row["prediction"] if row["output_text"] is None else row["output_text"]
                        found[row["item_id"]] = {"score": row["score"], "tokens": row["output_token_ids"], "said": said}
        realised = session.realised.model_dump(mode="json")
    return {"answers": found, "seconds": round(time.perf_counter() - began, 1), "realised": realised,
            "software": machine.software()}  # fmt: skip


def asked(side: str, items: int, work: Path) -> dict[str, Any]:
    """A side's answers: from the work folder, or by a process of its own in the side's environment."""
    file = work / f"{side}-{items}.json"
    if not file.is_file():
        python = os.environ["EVALSUITE_VLLM_PYTHON"] if side == "vllm" else sys.executable
        subprocess.run([python, __file__, "--side", side, "--items", str(items), "--out", file], check=True)
    made: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    print(f"{side}: {len(made['answers'])} items in {made['seconds']} s", file=sys.stderr, flush=True)
    return made


def first_unlike(a: list[int] | None, b: list[int] | None) -> int | None:
    """Position of the first token that differs; None for multiple choice, or if none does."""
    pairs = enumerate(itertools.zip_longest(a or [], b or []))
    return next((i for i, (x, y) in pairs if x != y), None)


def compared(one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    """How two sides differ."""
    a, b = one["answers"], two["answers"]
    assert set(a) == set(b), "not the same items"
    unlike = sorted(item for item in a if a[item]["score"] != b[item]["score"])
    texts = [item for item in a if a[item]["tokens"] is not None]
    return {
        "items": len(a), "differing": len(unlike), "share": len(unlike) / len(a),
        "texts": len(texts), "texts_differing": sum(a[i]["tokens"] != b[i]["tokens"] for i in texts),
        "by_task": Counter(item.split("/")[0] for item in unlike),
        "differences": [
            {"item": item, "first_diverging_token": first_unlike(a[item]["tokens"], b[item]["tokens"]),
             "said": [a[item]["said"], b[item]["said"]], "score": [a[item]["score"], b[item]["score"]]}
            for item in unlike
        ],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=170, help="at most this many items a task")
    parser.add_argument("--side", choices=SIDES, help="answer as this side alone, and write that")
    parser.add_argument("--work", type=Path, help="keep each side's answers here, and take them from here")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.side:
        args.out.write_text(json.dumps(answers(args.side, args.items)), encoding="utf-8")
        return
    with tempfile.TemporaryDirectory() as scratch:
        work = args.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        made = {side: asked(side, args.items, work) for side in SIDES}
    own, other = compared(made["local-1"], made["local-64"]), compared(made["local-64"], made["vllm"])
    allowed = 2 * own["share"] + 0.005
    report = {
        "local_1_against_64": own, "local_64_against_vllm": other, "allowed_share": allowed,
        "passes": other["share"] <= allowed,
        "accuracy": {side: sum(a["score"] for a in one["answers"].values()) / len(one["answers"])
                     for side, one in made.items()},
        "seconds": {side: one["seconds"] for side, one in made.items()},
        "realised": {side: one["realised"] for side, one in made.items()},
        "software": {side: one["software"] for side, one in made.items()},
        "machine": machine.facts(), "command": f"python benchmarks/engines.py --items {args.items}",
    }  # fmt: skip
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for name, found in (("embedded 1 against 64", own), ("embedded 64 against vLLM", other)):
        print(f"{name}: correctness differs in {found['differing']} of {found['items']} items "
              f"({found['share']:.2%}), tokens in {found['texts_differing']} of {found['texts']} texts")  # fmt: skip
    print(f"allowed {allowed:.2%}: {'passes' if report['passes'] else 'FAILS'}")
    sys.exit(0 if report["passes"] else 1)


if __name__ == "__main__":
    main()
