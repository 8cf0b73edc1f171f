"""`python -m evalsuite.reference.freeze`: write the frozen evaluation items.

One JSON object a line. `tasks/items/<family>.jsonl` has id, question and answer (in chat form the question carries
its options), and where there are options also `options` and `gold`. `tasks/items/<family>_mc.jsonl` is the raw form
for log-likelihoods: id, question, the candidate answers `(A)`, `(B)`, ... as `options`, and `gold`, the index of the
right one. The trainer drops every question found here. Freeze before training; items frozen later must be held against
the trainer's `seen.bin` (the first 8 bytes of the SHA-256 of each question trained on).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path

from evalsuite.reference.families import FAMILIES, Item
from evalsuite.reference.families.item import LETTERS
from evalsuite.reference.hashes import question_hashes, read_benchmark_hashes

ITEMS = Path(__file__).parents[2] / "tasks" / "items"
SEED = "frozen-1"
COUNT = 300
DIFFICULTY = (0.3, 1.0)
RANGES = {"tracking": (0.3, 1.4), "counting": (0.3, 1.3), "boolean": (0.7, 1.2)}
"""Difficulty of the easiest and the hardest items, where it is another: families that the model masters are asked for
more than most of what it was trained on, so that accuracy stays off the ceiling and a loss can show."""
CHOICE = ("ordering", "tracking")


def draw(name: str, seed: str, count: int) -> Iterator[Item]:
    """Distinct items of one family that match no benchmark item, from easy-ish to hardest."""
    rng, forbidden, seen = random.Random(f"{seed}:{name}"), read_benchmark_hashes(), set[str]()
    while count:
        item = FAMILIES[name](rng, rng.uniform(*RANGES.get(name, DIFFICULTY)))
        hashes = question_hashes(item.question)
        if hashes & forbidden or hashes & seen:
            continue
        seen |= hashes
        count -= 1
        yield item


def chat_row(item: Item, number: int) -> dict[str, object]:
    """A row of `<family>.jsonl`."""
    row: dict[str, object] = {"id": f"{item.family}-{number:04}", "question": item.question, "answer": item.answer}
    if item.options is not None:
        row |= {"options": list(item.options), "gold": LETTERS.index(item.answer[1])}
    return row


def choice_row(item: Item, number: int) -> dict[str, object]:
    """A row of `<family>_mc.jsonl`."""
    letters = [f"({letter})" for letter, _ in zip(LETTERS, item.options or (), strict=False)]
    return {
        "id": f"{item.family}_mc-{number:04}",
        "question": item.question,
        "options": letters,
        "gold": letters.index(item.answer),
    }


def freeze(folder: Path, count: int = COUNT) -> list[Path]:
    """Write every file and their checksums; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in FAMILIES:
        items = list(draw(name, SEED, count))
        written.append(_write(folder / f"{name}.jsonl", [chat_row(item, n) for n, item in enumerate(items)]))
        if name in CHOICE:
            written.append(_write(folder / f"{name}_mc.jsonl", [choice_row(item, n) for n, item in enumerate(items)]))
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(written)]
    (folder / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")
    return written


def _write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Write the frozen evaluation items of the reference model.")
    parser.add_argument(
        "--out", type=Path, default=ITEMS, help="folder to write to (default: tasks/items of this checkout)"
    )
    parser.add_argument("--count", type=int, default=COUNT, help="items a family")
    options = parser.parse_args()
    for path in freeze(options.out, options.count):
        print(path)


if __name__ == "__main__":
    main()
