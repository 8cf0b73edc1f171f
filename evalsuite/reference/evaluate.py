"""`python -m evalsuite.reference.evaluate MODEL_DIR`: accuracy by family on the frozen items, for the trainer's eyes.

Greedy, in FP32, batches of similar length. The published figures come from the product itself, not from here.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evalsuite.reference.families import FAMILIES
from evalsuite.reference.freeze import CHOICE, ITEMS
from evalsuite.reference.prompts import Form, answer_in, prompt_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

BATCH = 50
BUDGET: dict[Form, int] = {"thinking": 352, "direct": 24, "choice": 4}


@dataclass(frozen=True, slots=True)
class Judge:
    """A loaded model and its tokenizer."""

    model: Qwen3ForCausalLM
    tokenizer: PreTrainedTokenizerFast

    def outputs(self, questions: list[str], form: Form) -> list[str]:
        """Greedy responses, in the order of the questions."""
        prompts = [prompt_of(question, form) for question in questions]
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        found = [""] * len(prompts)
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            for index, text in zip(chosen, self._generate([prompts[i] for i in chosen], BUDGET[form]), strict=True):
                found[index] = text
        return found

    def _generate(self, prompts: list[str], budget: int) -> list[str]:
        import torch

        batch = self.tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.inference_mode():
            output = self.model.generate(**batch, max_new_tokens=budget, do_sample=False)
        texts: list[str] = self.tokenizer.batch_decode(
            output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
        )
        return texts


def load(folder: Path) -> Judge:
    """Model in FP32, tokenizer padding on the left."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    return Judge(AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval(), tokenizer)


def accuracy(judge: Judge, rows: list[dict[str, str]], form: Form) -> float:
    """Share of rows whose stated answer is exactly right."""
    outputs = judge.outputs([row["question"] for row in rows], form)
    if form == "choice":
        right = [text.strip() == row["answer"] for text, row in zip(outputs, rows, strict=True)]
    else:
        right = [answer_in(text) == row["answer"] for text, row in zip(outputs, rows, strict=True)]
    return sum(right) / len(right)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Accuracy of a checkpoint on the frozen items, by family and form.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--items", type=Path, default=ITEMS)
    parser.add_argument("--limit", type=int, default=100, help="items a family")
    given = parser.parse_args()
    judge = load(given.model)
    for name in FAMILIES:
        lines = (given.items / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines[: given.limit]]
        forms: tuple[Form, ...] = ("thinking", "direct", "choice") if name in CHOICE else ("thinking", "direct")
        shares = [f"{form} {100 * accuracy(judge, rows, form):5.1f} %" for form in forms]
        print(f"{name:13}" + "   ".join(shares), flush=True)


if __name__ == "__main__":
    main()
