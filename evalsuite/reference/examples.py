"""The stream of training examples, and their packing into rows of one shape.

Example number `n` depends on the seed, `n` and the progress of training alone, so a stream resumes from a single
integer. A row holds several examples; each sees only itself (block-diagonal causal mask) and counts its positions
from 0. Questions are most of the tokens, so one question carries a thinking and a direct response as two branches
that do not see each other. A label of -100 carries no loss.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from evalsuite.reference import recall
from evalsuite.reference.families import FAMILIES, Item
from evalsuite.reference.hashes import question_hashes
from evalsuite.reference.prompts import END, Form, prompt_of, response_of

IGNORED = -100
WEIGHTS = {
    "tracking": 1.6, "ordering": 1.5, "lookup": 1.5, "calendar": 1.3, "truth": 1.2, "chain_sum": 1.2,
    "word_problem": 1.2,
}  # fmt: skip
CHOICE_SHARE = 0.2
DIRECT_SHARE = 0.4
EASY_START = 0.25
EASY_UNTIL = 0.2
RECALL_START = 0.6
RECALL_END = 0.1
RECALL_UNTIL = 0.15
Encode = Callable[[str], list[int]]


@dataclass(frozen=True, slots=True)
class Example:
    """A question with one or two responses. Responses are branches: each sees the question and itself, never the other.
"""

    family: int
    question: list[int]
    """Tokens shared by all branches."""
    branches: list[tuple[list[int], list[int]]]
    """For each form: the tail of its prompt, which carries no loss, and its response."""

    @property
    def size(self) -> int:
        """Tokens in all."""
        return len(self.question) + sum(len(tail) + len(response) for tail, response in self.branches)


@dataclass(slots=True)
class Row:
    """One packed row, not yet padded. Branch 0 is the question, seen by all branches of its document."""

    tokens: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    documents: list[int] = field(default_factory=list)
    branches: list[int] = field(default_factory=list)
    families: list[int] = field(default_factory=list)

    def add(self, example: Example) -> None:
        """Append an example as a document of its own."""
        document = self.documents[-1] + 1 if self.documents else 1
        asked = len(example.question)
        self._extend(example.question, [IGNORED] * asked, 0, 0)
        for branch, (tail, response) in enumerate(example.branches, start=1):
            self._extend(tail + response, [IGNORED] * len(tail) + response, asked, branch)
        self.documents += [document] * example.size
        self.families += [example.family] * example.size

    def _extend(self, tokens: list[int], labels: list[int], start: int, branch: int) -> None:
        self.tokens += tokens
        self.labels += labels
        self.positions += range(start, start + len(tokens))
        self.branches += [branch] * len(tokens)


def ceiling(progress: float) -> float:
    """The hardest difficulty drawn at this point of training: easy first, everything from a fifth on."""
    return min(1.0, EASY_START + (1 - EASY_START) * progress / EASY_UNTIL)


def recall_share(progress: float) -> float:
    """Share of examples that are exercises in looking up: most at first, then a few so that it is not lost."""
    return max(RECALL_END, RECALL_START + (RECALL_END - RECALL_START) * progress / RECALL_UNTIL)


def choose_forms(rng: random.Random, item: Item) -> tuple[Form, ...]:
    """Raw multiple choice sometimes, where there are options; otherwise thinking, often beside a direct answer."""
    draw = rng.random()
    if item.options is not None and draw < CHOICE_SHARE:
        return ("choice",)
    return ("thinking", "direct") if draw > 1 - DIRECT_SHARE else ("thinking",)


class Stream:
    """Examples without end, none of them forbidden."""

    def __init__(self, seed: int, encode: Encode, forbidden: frozenset[str], longest: int) -> None:
        self.seed, self.encode, self.forbidden, self.longest = seed, encode, forbidden, longest
        self.number = 0
        self.dropped = 0
        self.questions: list[bytes] = []

    def next(self, progress: float) -> Example:
        """The next example that is not forbidden and fits a row."""
        names = list(FAMILIES)
        weights = [WEIGHTS.get(name, 1.0) for name in names]
        while True:
            rng = random.Random(f"{self.seed}:{self.number}")
            self.number += 1
            if rng.random() < recall_share(progress):
                return self._recall(rng, len(names))
            name = rng.choices(names, weights)[0]
            item = FAMILIES[name](rng, rng.uniform(0.0, ceiling(progress)))
            if question_hashes(item.question) & self.forbidden:
                self.dropped += 1
                continue
            example = self._build(names.index(name), item, choose_forms(rng, item))
            if example.size > self.longest:
                self.dropped += 1
                continue
            self.questions.append(hashlib.sha256(item.question.encode()).digest()[:8])
            return example

    def _recall(self, rng: random.Random, family: int) -> Example:
        """A list of pairs as the question, and each pair as a branch: its key without loss, its value with."""
        text, pairs = recall.exercise(rng)
        branches = [(self.encode(f" {key}"), self.encode(f" {value}")) for key, value in pairs]
        return Example(family, self.encode(text), branches)

    def _build(self, family: int, item: Item, forms: tuple[Form, ...]) -> Example:
        prompts = [prompt_of(item.question, form) for form in forms]
        cut = 0 if len(forms) == 1 else prompts[0].index(END) + len(END)
        shared = prompts[0][:cut]
        tails = [self.encode(prompt[cut:]) for prompt in prompts]
        responses = [self.encode(response_of(item, form)) for form in forms]
        return Example(family, self.encode(shared) if shared else [], list(zip(tails, responses, strict=True)))


class Packer:
    """First-fit packing of a stream into rows of one length."""

    def __init__(self, stream: Stream, length: int, open_rows: int) -> None:
        self.stream, self.length, self.open_rows = stream, length, open_rows
        self.waiting: list[Example] = []

    def batch(self, rows: int, progress: float) -> list[Row]:
        """`rows` packed rows; examples that did not fit wait for the next batch."""
        packed = [Row() for _ in range(rows)]
        held, self.waiting = self.waiting, []
        misses = 0
        while misses < self.open_rows:
            example = held.pop(0) if held else self.stream.next(progress)
            room = [row for row in packed if len(row.tokens) + example.size <= self.length]
            if room:
                max(room, key=lambda row: len(row.tokens)).add(example)
            else:
                self.waiting.append(example)
                misses += 1
        self.waiting += held
        return packed
