"""Does evalsuite give lm-eval's answers? Per item, against stock lm-eval's `hf` model on the same task files.

    python benchmarks/agreement.py [--items N] [--out results/reference/agreement.json]

FP32: evalsuite and stock must agree on every item (ties apart). BF16: two correct programs differ, since a BF16 result
depends on the batch; so evalsuite's disagreement with stock is held against stock's own, batch size 1 against 64, on
the same items. Stock runs with `softmax_dtype=float32`: its default takes the log-softmax in BF16.

The model is the embedded one. Tasks: the project's own task files; generated answers in direct mode (chat template) and
multiple choice (raw prompt), at most N items a task; in FP32 also the thinking mode, at most THINKING items a task.
"""

import argparse
import json
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

import lm_eval
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from evalsuite import machine, resources, tasks
from evalsuite.engines.local import LocalEngine
from evalsuite.engines.models import weights_sha256
from evalsuite.harness import answer, prepare
from evalsuite.located import parse
from evalsuite.precision.recipes import RECIPES
from evalsuite.records import Arm, ModelRef
from evalsuite.spec import Overrides, resolve

logging.getLogger("lm_eval").setLevel(logging.ERROR)
BUDGET = {"direct": 16, "thinking": 352}
THINKING = 60
SUITE = """\
schema: 1
name: agreement
model: reference
arms: [bf16]
baseline: bf16
decision: {margin: 0.02}
tasks:
"""


def chosen() -> dict[str, bool]:
    """The project's tasks: name -> multiple choice."""
    return {name: spec.metric == "acc" for name, spec in tasks.catalogue().items() if name.startswith("ref_")}


def ours(recipe: str, items: int | None, mode: str = "direct") -> dict[str, float]:
    """Score by item id, by evalsuite."""
    budget = f"max_gen_toks: {{{mode}: {BUDGET[mode]}}}"
    lines = [f"  - {n}" if mc else f"  - {{task: {n}, modes: [{mode}], {budget}}}"
             for n, mc in chosen().items() if mode == "direct" or not mc]  # fmt: skip
    spec = resolve(parse(SUITE + "\n".join(lines), "agreement"), Overrides(limit=items))[0]
    engine = LocalEngine(ModelRef(id="reference"), {})
    found = {}
    with engine.open(Arm(id=recipe, model=engine.model, recipe=RECIPES[recipe])) as session:
        for workload in prepare(spec, engine):
            for group in workload.groups:
                rows = answer(session, workload, group, {"arm": recipe, "repeat": 0, "group": 0})
                found |= {row["item_id"]: row["score"] for row in rows}
                ties.update(row["item_id"] for row in rows if row["tie"])
    return found


ties: set[str] = set()


def stock(dtype: str, batch: int, wanted: set[str], *, thinking: bool = False) -> dict[str, float]:
    """Score by item id, by `lm_eval` with its `hf` model, as a user would run it on the files in `tasks/`."""
    os.chdir(resources.tasks())  # the files name their items relative to themselves
    kwargs = {"softmax_dtype": "float32"} if dtype == "bfloat16" else {}
    lm = HFLM(pretrained=str(resources.reference_model()), dtype=dtype, batch_size=batch, device="cpu",
              enable_thinking=thinking, think_end_token="</think>" if thinking else None, **kwargs)  # fmt: skip
    budget = BUDGET["thinking" if thinking else "direct"]
    manager = TaskManager(include_path=str(resources.tasks()), include_defaults=False)
    found = {}
    for name, mc in chosen().items():
        numbers = sorted(int(i.split("/")[1]) for i in wanted if i.startswith(name + "/"))
        if not numbers:
            continue
        made = lm_eval.simple_evaluate(lm, tasks=[name], task_manager=manager, apply_chat_template=not mc,
                                       samples={name: numbers}, log_samples=True, bootstrap_iters=0,
                                       gen_kwargs=None if mc else {"max_gen_toks": budget})  # fmt: skip
        metric = "acc" if mc else "exact_match"
        found |= {f"{name}/{s['doc_id']}": float(s[metric]) for s in made["samples"][name]}
    return found


def differing(a: dict[str, float], b: dict[str, float]) -> list[str]:
    assert set(a) == set(b), "not the same items"
    return sorted(i for i in a if a[i] != b[i])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, help="at most this many items a task (default: all)")
    parser.add_argument("--fp32-only", action="store_true", help="leave out BF16 (stock batch size 1 takes long)")
    parser.add_argument("--work", type=Path, help="keep each stage's scores here, and take them from here")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    out, work = args.out and args.out.resolve(), args.work and args.work.resolve()
    stages = {
        "evalsuite fp32": lambda _: ours("fp32", args.items),
        "stock fp32, batch 64": lambda made: stock("float32", 64, set(made["evalsuite fp32"])),
        "evalsuite fp32, thinking": lambda _: ours("fp32", min(args.items or THINKING, THINKING), "thinking"),
        "stock fp32, batch 64, thinking": lambda made: stock(
            "float32", 64, set(made["evalsuite fp32, thinking"]), thinking=True),
        "evalsuite bf16": lambda _: ours("bf16", args.items),
        "stock bf16, batch 64": lambda made: stock("bfloat16", 64, set(made["evalsuite fp32"])),
        "stock bf16, batch 1": lambda made: stock("bfloat16", 1, set(made["evalsuite fp32"])),
    }  # fmt: skip
    made: dict[str, dict[str, float]] = {}
    seconds: dict[str, float | None] = {}
    weights = weights_sha256(resources.reference_model())
    for name, stage in stages.items():
        if args.fp32_only and "bf16" in name:
            continue
        made[name], seconds[name] = kept(work, f"{name}, {args.items}, {weights[:8]}", lambda stage=stage: stage(made))
        print(f"{name}: {seconds[name]} s, {len(made[name])} items", file=sys.stderr, flush=True)
    text = json.dumps(report(made, seconds, args.items), indent=1)
    print(text)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n", encoding="utf-8")


def kept(work: Path | None, name: str, stage: Callable[[], dict[str, float]]) -> tuple[dict[str, float], float]:
    """Scores and seconds of a stage: from the work folder if it has them (long stages survive a kill), else made."""
    file = work / f"{name}.json" if work else None
    if file and file.is_file():
        stored = json.loads(file.read_text(encoding="utf-8"))
        ties.update(stored["ties"])
        return stored["scores"], stored["seconds"]
    clock = time.perf_counter()
    scores = stage()
    took = round(time.perf_counter() - clock, 1)
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"scores": scores, "seconds": took, "ties": sorted(ties)}), encoding="utf-8")
    return scores, took


def report(made: dict[str, dict[str, float]], seconds: dict[str, float], items: int | None) -> dict[str, Any]:
    """What the stages say together; null for what was not run."""
    fp32 = made["evalsuite fp32"]
    wrong = [i for i in differing(fp32, made["stock fp32, batch 64"]) if i not in ties]
    thinking = differing(made["evalsuite fp32, thinking"], made["stock fp32, batch 64, thinking"])
    bf16: dict[str, Any] | None = None
    if "stock bf16, batch 1" in made:
        own = len(differing(made["stock bf16, batch 1"], made["stock bf16, batch 64"]))
        against = {b: len(differing(made["evalsuite bf16"], made[f"stock bf16, batch {b}"])) for b in (1, 64)}
        allowed = 2 * own + 0.005 * len(fp32)
        pairs = {"stock 1, stock 64": ("stock bf16, batch 1", "stock bf16, batch 64"),
                 "evalsuite, stock 64": ("evalsuite bf16", "stock bf16, batch 64"),
                 "evalsuite, fp32": ("evalsuite bf16", "evalsuite fp32"),
                 "stock 64, fp32": ("stock bf16, batch 64", "evalsuite fp32")}  # fmt: skip
        by_task = {name: Counter(i.split("/")[0] for i in differing(made[a], made[b]))
                   for name, (a, b) in pairs.items()}  # fmt: skip
        bf16 = {"stock_1_against_64": own, "evalsuite_against_stock": against, "allowed": allowed,
                "passes": max(against.values()) <= allowed, "differing_by_task": by_task}  # fmt: skip
    return {
        "fp32": {"items": len(fp32), "ties": len(ties), "differing": wrong, "items_thinking":
                 len(made["evalsuite fp32, thinking"]), "differing_thinking": thinking,
                 "passes": not wrong and not thinking},
        "bf16": bf16, "seconds": seconds,
        "accuracy": {name: round(sum(v.values()) / len(v), 4) for name, v in made.items()},
        "weights_sha256": weights_sha256(resources.reference_model()),
        "threads": torch.get_num_threads(), "machine": machine.facts(), "software": machine.software(),
        "command": "python benchmarks/agreement.py" + (f" --items {items}" if items else ""),
    }  # fmt: skip


if __name__ == "__main__":
    main()
