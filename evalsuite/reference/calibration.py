"""`python -m evalsuite.reference.calibration`: write the texts that static scales of the reference model come from.

Generated like the frozen items, from another seed, answered in the model's own thinking and direct form. None of them
is a frozen item or a benchmark's. One JSON object a line, with `text`.
"""

import json
import random
from pathlib import Path

from evalsuite.calibration import reference_texts
from evalsuite.reference.families import FAMILIES
from evalsuite.reference.freeze import CHOICE
from evalsuite.reference.hashes import question_hashes, read_benchmark_hashes
from evalsuite.reference.prompts import Form, prompt_of, response_of
from evalsuite.tasks import read_json_lines

SEED = "calibration-1"
COUNT = 6
"""Texts of each family in each form; `choice` only where the frozen items have that form."""
FORMS: tuple[Form, ...] = ("thinking", "direct", "choice")


def texts(frozen: Path) -> list[str]:
    """The texts; *frozen*: the folder with the frozen items."""
    forbidden = set(read_benchmark_hashes())
    for path in sorted(frozen.glob("*.jsonl")):
        for row in read_json_lines(path):
            forbidden |= question_hashes(row["question"])
    made = []
    for name, family in FAMILIES.items():
        rng = random.Random(f"{SEED}:{name}")
        for form in FORMS if name in CHOICE else FORMS[:2]:
            drawn: list[str] = []
            while len(drawn) < COUNT:
                item = family(rng, rng.random())
                hashes = question_hashes(item.question)
                if not hashes & forbidden:
                    forbidden |= hashes
                    drawn.append(prompt_of(item.question, form) + response_of(item, form))
            made += drawn
    return made


if __name__ == "__main__":
    target = reference_texts()
    target.parent.mkdir(exist_ok=True)
    rows = texts(target.parents[1] / "items")
    target.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in rows), encoding="utf-8")
