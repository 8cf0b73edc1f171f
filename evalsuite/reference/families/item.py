"""One generated question, and the few helpers that every family shares.

A family is a function ``(rng, difficulty) -> Item``. ``difficulty`` runs from 0 to 1 and only sets sizes: how many
terms, swaps, people. The same generator state gives the same item on every machine, so nothing here may depend on
hash order, time or a global random state.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

LETTERS = "ABCDEFGH"


@dataclass(frozen=True, slots=True)
class Item:
    """A question with its worked thinking and its one right answer."""

    family: str
    """Key in `FAMILIES`."""
    question: str
    """What the user asks; options, where there are any, are part of it."""
    steps: str
    """Worked thinking, one small step a line."""
    answer: str
    """Short, and exactly what the model has to write after "The answer is"."""
    options: tuple[str, ...] | None = None
    """Texts behind (A), (B), ... ; None where the answer is free."""


Family = Callable[[random.Random, float], Item]


def span(rng: random.Random, difficulty: float, low: int, high: int) -> int:
    """A size between `low` and `high` that grows with difficulty and varies by one or two."""
    top = low + round(difficulty * (high - low))
    return rng.randint(max(low, top - 1), top)


def thinking(lines: Sequence[str]) -> str:
    """Lines of thought; one that begins with a letter is indented, so its words are the tokens of a sentence."""
    return "\n".join(f" {line}" if line[0].isalpha() else line for line in lines)


def listing(parts: Sequence[str]) -> str:
    """`a, b, and c`, with the comma before "and" that BIG-Bench Hard uses."""
    if len(parts) == 1:
        return parts[0]
    return ", ".join(parts[:-1]) + ", and " + parts[-1]


def with_options(stem: str, options: Sequence[str]) -> str:
    """The question followed by its lettered options."""
    return (
        stem + "\nOptions:\n" + "\n".join(f"({letter}) {text}" for letter, text in zip(LETTERS, options, strict=False))
    )


def arrange(rng: random.Random, options: Sequence[str]) -> list[str]:
    """Options in the order of the text (as BIG-Bench Hard has them) three times in four, otherwise shuffled."""
    shown = list(options)
    if rng.random() < 0.25:
        rng.shuffle(shown)
    return shown
