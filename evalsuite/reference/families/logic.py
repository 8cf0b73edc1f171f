"""Truth-tellers, Boolean expressions and ordering.

* truth: each line names who is known, who speaks about them, what is claimed, and the verdict. A line begins with the
name that the line before ended on, so the next speaker is found by looking that very name up.
* boolean: the whole expression is written again after each kind of reduction in one bracket.
* ordering: statements become letter relations (the letters of the options), one a line behind the names; then place
after place is filled with a letter that stands behind no other, and what is left of relations and letters is written
again; last the place asked for.
"""

from __future__ import annotations

import itertools
import random
import re
from dataclasses import dataclass

from evalsuite.reference.families.item import LETTERS, Item, arrange, listing, span, thinking, with_options
from evalsuite.reference.families.words import BIRDS, COLOURS, FRUIT_STAND, NAMES, PEOPLE, VEHICLES

WORD = {True: "truth", False: "lie"}
TELLS = {True: "tells the truth", False: "lies"}
IS = {True: "is honest", False: "is a liar"}


def truth(rng: random.Random, difficulty: float) -> Item:
    """Web of lies; in the harder half the statements stand in any order, so the chain has to be followed."""
    people = rng.sample(PEOPLE, span(rng, difficulty, 3, 8))
    known = rng.random() < 0.5
    words = TELLS if rng.random() < 0.7 else IS
    sentences, lines = [f"{people[0]} {words[known]}."], [f"{people[0]} {WORD[known]}"]
    for before, name in itertools.pairwise(people):
        claim = rng.random() < 0.5
        sentences.append(f"{name} says {before} {words[claim]}.")
        lines.append(f"{before} {WORD[known]}, {name} says {WORD[claim]}: {name} {WORD[claim == known]}")
        known = claim == known
    if rng.random() < difficulty:
        rng.shuffle(sentences)
    ask = f"Does {people[-1]} tell the truth?" if words is TELLS else f"Is {people[-1]} honest?"
    prefix = "Question: " if words is TELLS and rng.random() < 0.5 else ""
    return Item("truth", prefix + " ".join([*sentences, ask]), thinking(lines), "Yes" if known else "No")


def _expression(rng: random.Random, size: int, depth: int) -> list[str]:
    """Tokens of a random expression with about `size` values."""
    tokens: list[str] = []
    while size > 0:
        if tokens:
            tokens.append(rng.choice(("and", "or")))
        tokens += ["not"] * rng.choice((0, 0, 1, 1, 2))
        inner = rng.randint(1, min(size, 3)) if depth and rng.random() < 0.4 else 0
        tokens += ["(", *_expression(rng, inner, depth - 1), ")"] if inner else [rng.choice(("True", "False"))]
        size -= max(inner, 1)
    return tokens


REDUCTIONS = (
    (re.compile(r"\( (True|False) \)"), lambda m: m[1]),
    (re.compile(r"not (True|False)\b"), lambda m: str(m[1] == "False")),
    (re.compile(r"(True|False) and (True|False)"), lambda m: str(m[1] == m[2] == "True")),
    (re.compile(r"(True|False) or (True|False)"), lambda m: str("True" in (m[1], m[2]))),
)
LETTERED = "pqrstuvwxyz"
INNERMOST = re.compile(r"\( ([^()]*) \)")


def _reduce(text: str) -> str:
    """All reductions of one kind in the first innermost bracket, or in the whole text; a bracket around one value goes
    along."""
    bracket = INNERMOST.search(text)
    start, end = (bracket.start(1), bracket.end(1)) if bracket else (0, len(text))
    part = text[start:end]
    for pattern, result in REDUCTIONS:
        if pattern.search(part):
            part = pattern.sub(result, part)
            break
    return re.sub(r"\( (True|False) \)", r"\1", text[:start] + part + text[end:])


def boolean(rng: random.Random, difficulty: float) -> Item:
    """A Boolean expression, sometimes with letters whose values are given first."""
    target = rng.choice(("True", "False"))
    while True:
        text = " ".join(_expression(rng, span(rng, difficulty, 2, 10), 3))
        lines = [text]
        while lines[-1] not in ("True", "False"):
            lines.append(_reduce(lines[-1]))
        if lines[-1] == target and len(lines) > 1 and len(text.split()) <= 32 * max(1.0, difficulty):
            break
    if rng.random() < 0.3 and len(re.findall("True|False", text)) <= len(LETTERED):
        names = iter(rng.sample(LETTERED, len(LETTERED)))
        given: list[str] = []

        def rename(match: re.Match[str]) -> str:
            given.append(f"{next(names)} = {match[0]}")
            return given[-1][0]

        shown = re.sub("True|False", rename, text)
        question = f"Let {', '.join(given)}. What is the value of {shown}?"
    else:
        question = rng.choice(
            ("{} is", "{} is", "Evaluate: {}", "What is the value of {}?", "True or false: {}")
        ).format(text)
        lines = lines[1:]
    return Item("boolean", question, thinking(lines), target)


@dataclass(frozen=True, slots=True)
class _Scene:
    """How one row of things is spoken of. Places count from the `near` end."""

    intro: str
    pool: tuple[str, ...]
    label: str
    near: str
    far: str
    first: str
    last: str
    nth: str
    nth_last: str
    verb: str


_SCENES = (
    _Scene("On a shelf, there are {n} books: {list}.", COLOURS, "{} book", "to the left of", "to the right of",
           "the leftmost", "the rightmost",
           "the {} from the left", "the {} from the right", "is"),
    _Scene("On a branch, there are {n} birds: {list}.", BIRDS, "{}", "to the left of", "to the right of",
           "the leftmost", "the rightmost",
           "the {} from the left", "the {} from the right", "is"),
    _Scene("In an antique car show, there are {n} vehicles: {list}.", VEHICLES, "{}", "newer than", "older than",
           "the newest", "the oldest",
           "the {}-newest", "the {}-oldest", "is"),
    _Scene("A fruit stand sells {n} fruits: {list}.", FRUIT_STAND, "{}", "more expensive than",
           "less expensive than", "the most expensive",
           "the cheapest", "the {}-most expensive", "the {}-cheapest", "are"),
    _Scene("In a golf tournament, there were {n} golfers: {list}.", NAMES[:10], "{}", "above", "below", "first",
           "last", "{}", "{}-to-last", "finished"),
)  # fmt: skip
PREAMBLE = (
    "The following paragraphs each describe a set of {n} objects arranged in a fixed order. "
    "The statements are logically consistent within each paragraph. "
)
COUNT = {3: "three", 4: "four", 5: "five"}
ORDINAL = ("", "first", "second", "third", "fourth", "fifth")


def _place(scene: _Scene, rank: int, size: int, rng: random.Random) -> str:
    """A way to say "at place `rank` of `size`"."""
    if rank == 1:
        return scene.first
    if rank == size:
        return scene.last
    backwards = size + 1 - rank
    if backwards < rank or (backwards == rank and rng.random() < 0.3):
        return scene.nth_last.format(ORDINAL[backwards])
    return scene.nth.format(ORDINAL[rank])


Clue = tuple[int, str, int]


def _holds(order: tuple[int, ...], clue: Clue) -> bool:
    """Clue (a, '<', b): a stands before b; (a, '=', k): a stands at place k. `order[thing]` is its place."""
    thing, sign, other = clue
    return order[thing] < order[other] if sign == "<" else order[thing] == other


def _clues(rng: random.Random, order: tuple[int, ...]) -> list[Clue]:
    """Clues that leave exactly this order, each of which rules something out."""
    size = len(order)
    pairs: list[Clue] = [(a, "<", b) for a in range(size) for b in range(size) if order[a] < order[b]]
    places: list[Clue] = [(a, "=", order[a]) for a in range(size)]
    rng.shuffle(pairs)
    rng.shuffle(places)
    left, chosen = list(itertools.permutations(range(1, size + 1))), []
    while len(left) > 1:
        clue = (places if places and rng.random() < 0.3 else pairs).pop()
        kept = [other for other in left if _holds(other, clue)]
        if len(kept) < len(left):
            chosen.append(clue)
            left = kept
    rng.shuffle(chosen)
    return chosen


def _say(scene: _Scene, names: list[str], clue: Clue, rng: random.Random) -> str:
    thing, sign, other = clue
    if sign == "=":
        return f"{names[thing]} {scene.verb} {_place(scene, other, len(names), rng)}."
    if rng.random() < 0.5:
        return f"{names[thing]} {scene.verb} {scene.near} {names[other]}."
    return f"{names[other]} {scene.verb} {scene.far} {names[thing]}."


def ordering(rng: random.Random, difficulty: float) -> Item:
    """Logical deduction over three to five things in a row."""
    size = span(rng, difficulty, 3, 5)
    scene = rng.choice(_SCENES)
    things = [scene.label.format(word) for word in rng.sample(scene.pool, size)]
    person = scene.verb == "finished"
    plural = scene.verb == "are"
    shown = things if person or plural else [f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}" for thing in things]
    names = things if person else [f"The {thing}" for thing in things]
    order = tuple(rng.sample(range(1, size + 1), size))
    clues = _clues(rng, order)
    rank = rng.randint(1, size)
    place = _place(scene, rank, size, rng)
    stem = (PREAMBLE.format(n=COUNT[size]) if rng.random() < 0.4 else "") + scene.intro.format(
        n=COUNT[size], list=listing(shown)
    )
    stem += "".join(" " + re.sub(r"(?<=\w )The ", "the ", _say(scene, names, clue, rng)) for clue in clues)
    letters, options = _lettered(rng, [f"{name} {scene.verb} {place}" for name in names])
    lines = [_relation(things, letters, clue) for clue in clues]
    left = sorted(range(size), key=lambda thing: letters[thing])
    told: list[Clue] = []  # the relations stand above the first line already
    for k in range(1, size):
        lines += [_remaining(letters, told, left), f"{k} {letters[order.index(k)]}"]
        left.remove(order.index(k))
        told = [clue for clue in clues if clue[0] in left]
    lines += [f"{size} {letters[order.index(size)]}", f"? {rank} {letters[order.index(rank)]}"]
    answer = f"({letters[order.index(rank)]})"
    return Item("ordering", with_options(stem, options), thinking(lines), answer, tuple(options))


def _relation(things: list[str], letters: list[str], clue: Clue) -> str:
    """A clue with the letters of its things: `hatchback B < taxi C`."""
    thing, sign, other = clue
    second = str(other) if sign == "=" else f"{things[other]} {letters[other]}"
    return f"{things[thing]} {letters[thing]} {sign} {second}"


def _remaining(letters: list[str], clues: list[Clue], left: list[int]) -> str:
    """What still has to be decided: relations, then the letters without a place."""
    told = [f"{letters[a]}{sign}{letters[b] if sign == '<' else b}" for a, sign, b in clues]
    return f"{' '.join([*told, ';'])} {' '.join(letters[thing] for thing in left)}"


def _lettered(rng: random.Random, options: list[str]) -> tuple[list[str], list[str]]:
    """The letter of each option, and the options in the order shown."""
    shown = arrange(rng, options)
    return [LETTERS[shown.index(option)] for option in options], shown
