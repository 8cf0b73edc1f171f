"""How fast is evaluation, against what people use today? Each part runs both sides in turn and checks their answers.

    python benchmarks/speed.py choice --options texts --dtype float32 --data DATA [--items 40] [--pairs 3]
    python benchmarks/speed.py generate [--pairs 8] [--vllm PYTHON]
    python benchmarks/speed.py emulation [--pairs 8]
    python benchmarks/speed.py harness --data DATA [--pairs 3]
    python benchmarks/speed.py matrix [--limit 10]
    python benchmarks/speed.py growth
    python benchmarks/speed.py forward
    python benchmarks/speed.py memory
    python benchmarks/speed.py accuracy --data DATA [--stock]

Every part adds its report to the file that `--out` names. `--data` holds `bbh/` and `gsm8k/`. Models: a Llama with
SmolLM2-135M's dimensions and random weights for `choice` and `emulation`, the embedded one elsewhere.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

import lm_eval
import lm_eval.utils
import numpy as np
import torch
from lm_eval.api.instance import Instance
from speed_parts import (
    NEW,
    choice_task,
    ours,
    paired,
    peak_memory,
    random_llama,
    ratio,
    say,
    stock,
    thinking_prompts,
    timed,
)

from evalsuite import engines, machine, resources, workflow
from evalsuite.engines import Generation, Realised, Score, ScoreRequest, Trace
from evalsuite.engines.cascade import Prefix
from evalsuite.engines.local import LocalEngine
from evalsuite.engines.own import OwnDecoding, OwnForward
from evalsuite.groups import cut
from evalsuite.harness.loading import load_task
from evalsuite.harness.sharing import size_of
from evalsuite.located import parse
from evalsuite.precision import compiled
from evalsuite.precision.recipes import RECIPES
from evalsuite.records import Arm, ModelRef
from evalsuite.spec import Overrides, load, resolve

RECIPE_OF = {"float32": "fp32", "bfloat16": "bf16"}
HEAD = "schema: 1\nname: speed\nmodel: reference\nbaseline: bf16\ndecision: {margin: 0.02}\n"


def choice(args: argparse.Namespace) -> dict[str, Any]:
    """Few-shot multiple choice: seconds inside `_loglikelihood_tokens`, run through `simple_evaluate`."""
    folder = random_llama(args.work / "llama")
    inside: dict[str, float] = {}

    def side(lm: Any, name: str) -> Callable[[], list[Any]]:
        real = lm._loglikelihood_tokens

        def watched(requests: Any, *given: Any, **named: Any) -> Any:
            if name == "evalsuite":
                lm._live._forward._prefix = Prefix()  # each round reads the few-shot block anew
            inside[name], made = timed(lambda: real(requests, *given, **named))
            return made

        lm._loglikelihood_tokens = watched
        task = choice_task(args.data, args.options, args.items)
        return lambda: lm_eval.simple_evaluate(lm, tasks=[task], bootstrap_iters=0)["samples"][task.config.task]

    batch = {"texts": 4, "letters": 4 if args.dtype == "float32" else 1}[args.options]
    with ours(folder, RECIPE_OF[args.dtype]) as lm:
        sides = {"stock": side(stock(folder, args.dtype, batch), "stock"), "evalsuite": side(lm, "evalsuite")}
        own: dict[str, list[float]] = {name: [] for name in sides}
        samples: dict[str, Any] = {}
        sides["evalsuite"]()  # warm
        for number in range(args.pairs):
            for name in list(sides)[:: 1 if number % 2 else -1]:
                samples[name] = sides[name]()
                own[name].append(round(inside[name], 3))
                say(f"round {number + 1} of {args.pairs}: {name} {inside[name]:.2f} s")
    values = {name: [[float(r[0][0]) for r in s["resps"]] for s in made] for name, made in samples.items()}
    flat = [abs(a - b) for x, y in zip(values["stock"], values["evalsuite"], strict=True)
            for a, b in zip(x, y, strict=True)]  # fmt: skip
    picks = [max(range(5), key=x.__getitem__) == max(range(5), key=y.__getitem__)
             for x, y in zip(values["stock"], values["evalsuite"], strict=True)]  # fmt: skip
    return {"seconds": own, "stock_batch": batch, "items": args.items,
            "stock_over_evalsuite": ratio(own, "stock", "evalsuite"), "same_picks": sum(picks),
            "loglikelihood_difference": {"max": max(flat), "mean": sum(flat) / len(flat)}}  # fmt: skip


def accuracy(args: argparse.Namespace) -> dict[str, Any]:
    """Log-likelihoods of multi-token options in BF16: mean error against FP32, ours and stock's own."""
    folder, task = random_llama(args.work / "llama"), choice_task(args.data, "texts", args.items)
    values = {}

    def read(lm: Any) -> list[list[float]]:
        made = lm_eval.simple_evaluate(lm, tasks=[task], bootstrap_iters=0)["samples"][task.config.task]
        return [[float(r[0][0]) for r in s["resps"]] for s in made]

    for recipe in ("fp32", "bf16"):
        with ours(folder, recipe) as lm:
            values[recipe] = read(lm)
    if args.stock:
        from lm_eval.models.huggingface import HFLM

        values["stock bf16"] = read(HFLM(pretrained=str(folder), dtype="bfloat16", batch_size=4, device="cpu"))
    report = {}
    for name, found in values.items():
        if name == "fp32":
            continue
        flat = [abs(a - b) for x, y in zip(found, values["fp32"], strict=True) for a, b in zip(x, y, strict=True)]
        changed = sum(max(range(5), key=x.__getitem__) != max(range(5), key=y.__getitem__)
                      for x, y in zip(found, values["fp32"], strict=True))  # fmt: skip
        report[name] = {"mean_error": sum(flat) / len(flat), "max_error": max(flat), "picks_changed": changed}
    return {"items": args.items, "against_fp32": report}


def generate(args: argparse.Namespace) -> dict[str, Any]:
    """400 thinking prompts, greedy, at most 96 tokens."""
    folder = resources.reference_model()
    if args.once:
        return _once(args.once, folder)
    with ours(folder, "bf16") as lm:
        lm.max_gen_toks = NEW
        theirs = stock(folder, "bfloat16", 64)
        asked = thinking_prompts()

        kwargs = {"until": ["<|end|>"], "max_gen_toks": NEW, "do_sample": False}
        made = [Instance("generate_until", {}, (prompt, kwargs), i) for i, prompt in enumerate(asked)]
        sides = {"stock": lambda: theirs.generate_until(made), "evalsuite": lambda: whole_texts(lm, asked)}
        warm = sides["evalsuite"]()
        seconds, texts = paired(sides, args.pairs)
    counts = {name: sum(len(lm.tokenizer.encode(t, add_special_tokens=False)) for t in made)
              for name, made in texts.items()}  # fmt: skip
    report: dict[str, Any] = {
        "seconds": seconds, "stock_over_evalsuite": ratio(seconds, "stock", "evalsuite"), "tokens": counts,
        "tokens_per_s": {name: round(counts[name] / sorted(s)[len(s) // 2]) for name, s in seconds.items()},
        "same_texts_as_stock": sum(a == b for a, b in zip(texts["stock"], texts["evalsuite"], strict=True)),
        "same_texts_twice": warm == texts["evalsuite"],
    }  # fmt: skip
    started = []
    for _ in range(3):
        command = [sys.executable, __file__, "generate", "--once", "evalsuite"]
        took, _ = timed(lambda command=command: subprocess.run(command, check=True, capture_output=True))
        started.append(round(took, 2))
    report["evalsuite_start_to_result_s"] = started
    if args.vllm:
        report["vllm"] = _vllm(args.vllm, folder, asked)
    return report


def whole_texts(lm: Any, prompts: list[str]) -> list[str]:
    """Answers with their thoughts, as stock gives them: `EngineLM` itself returns what a reader sees."""
    requests = [lm.generate_request(p, {"until": ["<|end|>"], "max_gen_toks": NEW}) for p in prompts]
    texts = [""] * len(requests)
    for group in cut([size_of([request]) for request in requests]):
        for i, made in zip(group, lm._live.generate([requests[i] for i in group]), strict=True):
            texts[i] = made.text
    return texts


def _once(side: str, folder: Path) -> dict[str, Any]:
    """One side from nothing to its first full result, for a process of its own."""
    with ours(folder, "bf16") as lm:
        texts = whole_texts(lm, thinking_prompts())
    return {"side": side, "answers": len(texts)}


VLLM = """
import json, sys, time
def main():
    from vllm import LLM, SamplingParams
    begin = time.time()
    asked = json.load(open(sys.argv[2]))
    llm = LLM(model=sys.argv[1], dtype="bfloat16", max_model_len=1024, max_num_seqs=256, enforce_eager=True)
    how = SamplingParams(temperature=0, max_tokens=int(sys.argv[3]))
    found = []
    for _ in range(3):
        start = time.time()
        made = llm.generate(asked, how, use_tqdm=False)
        found.append({"seconds": round(time.time() - start, 2), "start_to_result_s": round(time.time() - begin, 1),
                      "tokens": sum(len(m.outputs[0].token_ids) for m in made)})
    print("FOUND" + json.dumps(found))
if __name__ == "__main__":
    main()
"""


def _vllm(python: Path, folder: Path, asked: list[str]) -> Any:
    """vLLM on the same prompts, in its own environment: the first run is cold, the others warm."""
    import tempfile

    with tempfile.TemporaryDirectory() as work:
        (Path(work) / "asked.json").write_text(json.dumps(asked))
        (Path(work) / "side.py").write_text(VLLM)
        command = [str(python), str(Path(work) / "side.py"), str(folder), str(Path(work) / "asked.json"), str(NEW)]
        environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "2", "PATH": f"{python.parent}:{os.environ['PATH']}"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND")]
    return json.loads(lines[0].removeprefix("FOUND")) if lines else {"failed": done.stderr.splitlines()[-1:]}


def emulation(args: argparse.Namespace) -> dict[str, Any]:
    """An emulated FP8 arm against the BF16 arm: a prefill of 8 x 512 tokens, and decode steps of 64 rows."""
    folder, report = random_llama(args.work / "llama"), {}
    rows = [ScoreRequest(tuple((i * 31 + j * j) % 1500 + 1 for j in range(512)), (7,)) for i in range(8)]
    prompts = [engines.GenerateRequest(tuple((i + j) % 1500 + 1 for j in range(8)), 99, ()) for i in range(64)]
    token = torch.arange(64)
    for way in ("compiled", "eager"):
        with ExitStack() as stack:
            if way == "eager":
                stack.enter_context(mock.patch.object(compiled, "loaded", return_value=None))
            elif compiled.loaded() is None:
                report[way] = "no C++ compiler here"
                continue
            forwards = {recipe: stack.enter_context(ours(folder, recipe))._live._forward for recipe in args.recipes}
            for work in ("prefill", "decode"):
                sides: dict[str, Callable[[], Any]] = {}
                for recipe, forward in forwards.items():
                    if work == "prefill":
                        sides[recipe] = lambda forward=forward: list(forward.logits(rows))
                    else:
                        decoding = forward.decode(prompts)
                        decoding.next(None)
                        sides[recipe] = lambda decoding=decoding: [decoding.next(token) for _ in range(8)]
                for call in sides.values():
                    call()
                seconds, _ = paired(sides, args.pairs)
                report[f"{way}, {work}"] = {"seconds": seconds, "over_bf16": {
                    recipe: ratio(seconds, recipe, "bf16") for recipe in forwards if recipe != "bf16"}}  # fmt: skip
    return report


class Instant:
    """A session that answers at once, so that all the rest can be timed."""

    def __init__(self, recipe: str) -> None:
        self.realised = Realised(recipe=recipe, execution="native", kernel="none", gemm_mode="none",
                                 logits_dtype="float32", device="cpu", threads=1, modules=(), params_quantised=0.0,
                                 macs_quantised=0.0)  # fmt: skip

    def generate(self, requests: Any) -> list[Generation]:
        return [Generation((1, 2, 3), "So the answer is 18.\n#### 18", "eos") for _ in requests]

    def score(self, requests: Any) -> list[Score]:
        return [Score(-1.0 - len(r.continuation), False) for r in requests]

    def trace(self, requests: Any, top_k: int, support: Any = None) -> list[Trace]:
        made = []
        for i, request in enumerate(requests):
            n = len(request.continuation)
            tokens = np.tile(np.arange(top_k), (n, 1)) if support is None else support[i]
            even = np.full(tokens.shape, -3.0, np.float32)
            made.append(Trace(tokens, even, even[:, 0], tokens[:, 0], even[:, 0]))
        return made

    def activity(self) -> dict[str, Any]:
        return {}


class InstantEngine(LocalEngine):
    """The embedded engine's prompts without its model."""

    from contextlib import contextmanager

    @contextmanager
    def open(self, arm: Any) -> Any:
        yield Instant(arm.recipe.id)


def harness(args: argparse.Namespace) -> dict[str, Any]:
    """GSM8K, 1,319 items 5-shot, three arms: everything but forward passes, and the same by `simple_evaluate`."""
    import tempfile

    from lm_eval.api.model import LM

    suite = HEAD + (f"arms: [bf16, fp8-e4m3, fp8-ue8m0]\nengine: instant\nchat: off\n"
                    f"datasets: {{openai/gsm8k: {args.data / 'gsm8k'}}}\n"
                    "tasks: [{task: gsm8k, metric: exact_match, filter: flexible-extract, modes: [direct],"
                    " max_gen_toks: 256, role: certify, margin: 0.02}]\n")  # fmt: skip

    class Dummy(LM):
        def generate_until(self, requests: Any) -> list[str]:
            return ["So the answer is 18.\n#### 18" for _ in requests]

        def loglikelihood(self, requests: Any) -> Any:
            raise NotImplementedError

        def loglikelihood_rolling(self, requests: Any) -> Any:
            raise NotImplementedError

    def own() -> None:
        with tempfile.TemporaryDirectory() as folder:
            spec = resolve(parse(suite, "speed"), Overrides())[0]
            workflow.run(spec, workflow.Options(results=Path(folder)))

    def theirs() -> None:
        spec = resolve(parse(suite, "speed"), Overrides())[0]
        plain = lm_eval.utils.env.from_string.__wrapped__  # without our cache of compiled templates
        with mock.patch.object(lm_eval.utils.env, "from_string", plain):
            three(spec)

    def three(spec: Any) -> None:
        for _ in range(3):
            lm_eval.simple_evaluate(Dummy(), tasks=[load_task(spec.tasks[0], spec.datasets)], bootstrap_iters=0)

    known = {"instant": InstantEngine}
    with mock.patch.dict(engines.ENGINES, known), mock.patch.dict(engines.OPTIONS, {"instant": ()}):
        own()
        seconds, _ = paired({"stock": theirs, "evalsuite": own}, args.pairs)
    return {"seconds": seconds, "stock_over_evalsuite": ratio(seconds, "stock", "evalsuite")}


def matrix(args: argparse.Namespace) -> dict[str, Any]:
    """The reference suite's four arms in one run, pages and all, against four stock runs over the same items."""
    import tempfile

    import agreement

    spec = resolve(load(resources.tasks() / "suites" / "reference.yaml"), Overrides(limit=args.limit))[0]

    def own() -> Any:
        with tempfile.TemporaryDirectory() as folder:
            run = workflow.run(spec, workflow.Options(results=Path(folder)))
            samples = run.samples()
            return set(samples.item_id[samples.arm == "bf16"])

    def theirs() -> Any:
        made = {}
        for _ in range(4):
            for thinking in (False, True):
                made = agreement.stock("bfloat16", 64, wanted, thinking=thinking)
        return made

    took, wanted = timed(own)
    say(f"evalsuite {took:.1f} s, {len(wanted)} items")
    slow, _ = timed(theirs)
    again, _ = timed(own)
    return {"seconds": {"evalsuite": [round(took, 1), round(again, 1)], "stock, four runs": [round(slow, 1)]},
            "stock_over_evalsuite": round(slow / max(took, again), 2), "limit": args.limit}  # fmt: skip


def growth(args: argparse.Namespace) -> dict[str, Any]:
    """Time and peak memory of a run over 100 to 10,000 items, each in a process of its own."""
    import tempfile

    if args.once:
        with tempfile.TemporaryDirectory() as folder:
            _growing(int(args.once), Path(folder))
        return {"peak_rss_bytes": peak_memory()}
    found = {}
    for count in (100, 300, 1000, 3000, 10_000):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out.json"
            command = [sys.executable, __file__, "growth", "--once", str(count), "--out", str(out)]
            took, _ = timed(lambda command=command: subprocess.run(command, check=True, capture_output=True))
            peak = json.loads(out.read_text())["growth"]["peak_rss_bytes"]
        found[str(count)] = {"seconds": round(took, 2), "peak_rss_bytes": peak}
        say(f"{count} items: {took:.1f} s, {peak / 1e6:.0f} MB")
    return found


def _growing(count: int, folder: Path) -> None:
    """Direct answers to generated sums."""
    import random

    from evalsuite.reference.families import FAMILIES

    rng, seen = random.Random("growth"), {}
    while len(seen) < count:
        item = FAMILIES["chain_sum"](rng, rng.random())
        seen[item.question] = item.answer
    rows = [json.dumps({"id": f"g{i}", "question": q, "answer": a}) for i, (q, a) in enumerate(seen.items())]
    (folder / "items.jsonl").write_text("\n".join(rows) + "\n")
    suite = HEAD + (f"arms: [bf16]\ntasks: [{{task: sums, items: {folder / 'items.jsonl'}, metric: exact_match,"
                    " filter: answer, modes: [direct], max_gen_toks: 16, role: certify, margin: 0.02}]\n")  # fmt: skip
    spec = resolve(parse(suite, "growth"), Overrides())[0]
    workflow.run(spec, workflow.Options(results=folder / "results"))


def forward(args: argparse.Namespace) -> dict[str, Any]:
    """What share of the reference suite's wall time is spent inside forward passes."""
    import tempfile

    spent = 0.0

    def watched(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            nonlocal spent
            took, made = timed(lambda: real(*given, **named))
            spent += took
            return made

        return call

    logits = OwnForward.logits
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(OwnForward, "decode", watched(OwnForward.decode)),
        mock.patch.object(OwnDecoding, "next", watched(OwnDecoding.next)),
        mock.patch.object(OwnForward, "logits", watched(lambda *given: list(logits(*given)))),
    ):
        command = load(resources.tasks() / "suites" / "reference.yaml")
        spec = resolve(command, Overrides(limit=args.limit))[0]
        begin = time.perf_counter()
        workflow.run(spec, workflow.Options(results=Path(folder)))
        whole = time.perf_counter() - begin
    return {"whole_s": round(whole, 1), "forward_s": round(spent, 1), "share": round(spent / whole, 3),
            "limit": args.limit}  # fmt: skip


def memory(args: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of a run of arms, in units of the BF16 weights: a process of its own that scores a little."""
    folder = random_llama(args.work / "llama")
    weights = (folder / "model.safetensors").stat().st_size
    if not args.once:
        out = args.work / "memory.json"
        out.unlink(missing_ok=True)
        command = [sys.executable, __file__, "memory", "--once", "1", "--out", str(out), "--work", str(args.work)]
        subprocess.run(command, check=True, capture_output=True)
        found: dict[str, Any] = json.loads(out.read_text())["memory"]
        return found
    before = peak_memory()
    engine = LocalEngine(ModelRef(id=str(folder)), {})
    for recipe in args.recipes:
        with engine.open(Arm(id=recipe, model=engine.model, recipe=RECIPES[recipe])) as session:
            session.score([ScoreRequest(tuple(range(1, 65)), (5, 6))])
            kernel = session.realised.kernel
    peak = peak_memory()
    return {"weights_bytes": weights, "peak_over_weights": round((peak - before) / weights, 2), "kernel": kernel}


ALL = (choice, accuracy, generate, emulation, harness, matrix, growth, forward, memory)
PARTS = {part.__name__: part for part in ALL}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--data", type=Path, help="folder with bbh/ and gsm8k/")
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="where the random model is kept")
    parser.add_argument("--options", choices=("texts", "letters"), default="texts")
    parser.add_argument("--dtype", choices=tuple(RECIPE_OF), default="float32")
    parser.add_argument("--items", type=int, default=40)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--limit", type=int, help="items a task (default: the suite's)")
    parser.add_argument("--recipes", nargs="+", default=["bf16", "fp8-e4m3", "fp8-ue8m0"])
    parser.add_argument("--stock", action="store_true", help="accuracy: also stock's BF16, which takes long")
    parser.add_argument("--vllm", type=Path, help="generate: the Python of an environment with vLLM")
    parser.add_argument("--once", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.data, args.work = args.data and args.data.resolve(), args.work.resolve()
    args.work.mkdir(parents=True, exist_ok=True)
    report = PARTS[args.part](args)
    key = f"{args.part} {args.options} {args.dtype}" if args.part == "choice" else args.part
    print(json.dumps({key: report}, indent=1))
    if args.out:
        kept = json.loads(args.out.read_text(encoding="utf-8")) if args.out.is_file() else {}
        where = {"machine": machine.facts(), "software": machine.software(), "threads": torch.get_num_threads()}
        kept |= {key: report} | ({} if args.once else where)
        args.out.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
