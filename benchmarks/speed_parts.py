"""What the parts of `speed.py` share: models, tasks, alternating pairs, and the two sides of a comparison."""

import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM

from evalsuite import resources
from evalsuite.engines.local import LocalEngine
from evalsuite.harness import EngineLM
from evalsuite.harness.loading import _Task
from evalsuite.precision.recipes import RECIPES
from evalsuite.records import Arm, ModelRef
from evalsuite.reference.families import FAMILIES
from evalsuite.reference.prompts import prompt_of

PROMPTS, NEW = 400, 96


def say(text: str) -> None:
    """Progress, on standard error."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)


def random_llama(folder: Path) -> Path:
    """A Llama with SmolLM2-135M's dimensions and random weights, and the reference model's tokenizer."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    if not (folder / "model.safetensors").is_file():
        tokenizer = AutoTokenizer.from_pretrained(resources.reference_model())
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
            num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True, rope_theta=100000.0,
            bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def choice_task(data: Path, options: str, items: int) -> Any:
    """Five-shot logical deduction over five objects as multiple choice: by letter, or by the text of the option."""
    rows = []
    for example in json.loads((data / "bbh" / "logical_deduction_five_objects.json").read_text())["examples"]:
        texts = [line.split(") ", 1)[1] for line in example["input"].split("Options:\n")[1].splitlines()]
        letters = list("ABCDE"[: len(texts)])  # each one token with the space before it: stock reads a context once
        rows.append({"question": example["input"], "choices": letters if options == "letters" else texts,
                     "gold": letters.index(example["target"].strip("()"))})  # fmt: skip
    config = {
        "task": f"deduction_{options}", "output_type": "multiple_choice", "test_split": "test", "num_fewshot": 5,
        "fewshot_split": "train", "doc_to_text": "Question: {{question}}\nAnswer:", "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{gold}}", "fewshot_config": {"sampler": "first_n"},
        "metric_list": [{"metric": "acc"}], "metadata": {"version": 1.0},
    }  # fmt: skip
    return _Task(config, {"train": rows[:5], "test": rows[5 : 5 + items]})


def thinking_prompts() -> list[str]:
    """Questions of all families, in the form that the reference model thinks in."""
    rng = random.Random("speed")
    names = list(FAMILIES)
    return [prompt_of(FAMILIES[names[i % len(names)]](rng, rng.random()).question, "thinking") for i in range(PROMPTS)]


def stock(folder: Path, dtype: str, batch: int) -> Any:
    """lm-eval's `hf` model as a user would run it, but with the log-softmax in FP32."""
    kwargs = {"softmax_dtype": "float32"} if dtype == "bfloat16" else {}
    return HFLM(pretrained=str(folder), dtype=dtype, batch_size=batch, device="cpu", **kwargs)


@contextmanager
def ours(folder: str | Path, recipe: str, **options: Any) -> Iterator[EngineLM]:
    """Our engine behind lm-eval's interface, in one arm."""
    engine = LocalEngine(ModelRef(id=str(folder)), options)
    with engine.open(Arm(id=recipe, model=engine.model, recipe=RECIPES[recipe])) as session:
        yield EngineLM(engine, "direct", session)


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes. Not `getrusage`: that one survives exec."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def paired(sides: dict[str, Callable[[], Any]], pairs: int) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of each side over alternating rounds, the order turned each time, and each side's last result."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    results: dict[str, Any] = {}
    names = list(sides)
    for number in range(pairs):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            took, results[name] = timed(sides[name])
            seconds[name].append(round(took, 4))
            say(f"round {number + 1} of {pairs}: {name} {took:.2f} s")
    return seconds, results


def ratio(seconds: dict[str, list[float]], one: str, two: str) -> dict[str, float]:
    """Median, least and largest over rounds of the time of `one` in units of that of `two`."""
    found = [a / b for a, b in zip(seconds[one], seconds[two], strict=True)]
    middle = statistics.median(found)
    return {"median": round(middle, 3), "least": round(min(found), 3), "largest": round(max(found), 3),
            "rounds": len(found)}  # fmt: skip
