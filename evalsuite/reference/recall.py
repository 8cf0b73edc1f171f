"""Exercises in looking things up: a list of pairs, then one half of each pair asked for the other.

Following names through a text ("who has the book that Ann had?") is what most families rest on, and a small model
learns it late from reasoning alone, because few tokens of a solution depend on it. These exercises have almost nothing
else in them. They are trained on only, never evaluated, and are no reasoning family. All words are the families' own.
"""

from __future__ import annotations

import random

from evalsuite.reference.families.item import LETTERS
from evalsuite.reference.families.words import BOOKS, CITIES, COLOURS, KEYS, PEOPLE, VEHICLES

Pairs = list[tuple[str, str]]
SMALLEST, LARGEST = 3, 9
"""Pairs in a list."""
NUMBERS = tuple(str(number) for number in range(10, 99))
KEYED = (PEOPLE, PEOPLE, CITIES, COLOURS, VEHICLES)
"""Words that are asked with; people most."""
VALUED = (*KEYED, NUMBERS, NUMBERS, tuple(LETTERS), tuple(LETTERS), BOOKS, KEYS)
"""Words that are asked for."""
FORWARD = (" {} {}", " {} gets {}.", " {} passes the letter to {}.", " {} has the {}.", " {}, {}", " {} says {} lies.")
BACKWARD = (" {1} says {0} lies.", " ({1}) The {0}", " {1} passes the letter to {0}.", " {1} {0}")


def exercise(rng: random.Random) -> tuple[str, Pairs]:
    """A list of pairs as text, and every (key, value) to be asked for."""
    keyed, valued = rng.choice(KEYED), rng.choice(VALUED)
    n = rng.randint(SMALLEST, LARGEST)
    keys = rng.sample(keyed, min(n, len(keyed) // 2))
    free = [word for word in valued if word not in keys]  # people and books share a name, and both may be one list
    if valued == tuple(LETTERS):
        free = free[:n]  # options are lettered from A on
    pairs = list(zip(keys, rng.sample(free, min(len(keys), len(free))), strict=False))
    template, end = rng.choice((*FORWARD, *BACKWARD)), rng.choice(("\n", ""))
    text = end.join(template.format(*pair) for pair in pairs)
    rng.shuffle(pairs)
    return text + "\n", pairs
