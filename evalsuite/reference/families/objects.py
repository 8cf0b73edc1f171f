"""Things that change hands, are counted or are looked up.

* tracking: each person with the thing and its letter (that of the option); a swap names what both hold, then the full
state is written again; last the person asked for.
* counting: a running total, one line a kind of thing; what does not count is said not to.
* lookup: one line a hop through a list of arrows (from, to), or one line a row of a table, with the comparison made.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise

from evalsuite.reference.families.arithmetic import equation
from evalsuite.reference.families.item import LETTERS, Item, arrange, listing, span, thinking, with_options
from evalsuite.reference.families.words import (
    BOOKS,
    CITIES,
    COLOURS,
    FIRST_FIVE,
    KEYS,
    NUMBER_WORDS,
    PARTNERS,
    PEOPLE,
    POSITIONS,
    THINGS,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Scene:
    """One way to tell of swaps."""

    intro: str
    holds: str
    middle: str
    swap: str
    end: str
    pool: tuple[str, ...]


_SCENES = (
    _Scene("{} are dancers at a square dance. At the start of a song, they each have a partner: ",
           "{} is dancing with {}",
           "Throughout the song, the dancers often trade partners.", "{} and {} switch partners",
           "At the end of the dance, {} is dancing with", PARTNERS),
    _Scene("{} are friends and avid readers who occasionally trade books. "
           "At the start of the semester, they each buy one new book: ",
           "{} gets {}", "As the semester proceeds, they start trading around the new books.", "{} and {} swap books",
           "At the end of the semester, {} has", BOOKS),
    _Scene("{} are on the same team in a soccer match. "
           "At the start of the match, they are each assigned to a position: ",
           "{} is playing {}", "As the game progresses, pairs of players occasionally swap positions.",
           "{} and {} trade positions",
           "At the end of the match, {} is playing", POSITIONS),
    _Scene("{} are playing a game. At the start of the game, they are each holding a ball: ", "{} has a {}",
           "As the game progresses, pairs of players trade balls.", "{} and {} swap balls",
           "At the end of the game, {} has the",
           tuple(f"{colour} ball" for colour in COLOURS)),
    _Scene("{} are holding a white elephant gift exchange. "
           "At the start of the event, they are each holding a present of a different color: ",
           "{} has a {}", "As the event progresses, pairs of people swap gifts.", "{} and {} swap their gifts",
           "At the end of the event, {} has the",
           tuple(f"{colour} {what}" for colour in COLOURS for what in ("present", "ball"))),
    _Scene("{} share a flat. In the morning, each takes one key: ", "{} takes the {}",
           "During the day some of them trade.",
           "{} and {} trade keys", "In the evening, {} has the", KEYS),
)  # fmt: skip


def tracking(rng: random.Random, difficulty: float) -> Item:
    """Swaps of things between three to five people."""
    count = span(rng, difficulty, 3, 5)
    people = list(FIRST_FIVE[:count]) if rng.random() < 0.5 and count <= 5 else rng.sample(PEOPLE, count)
    scene = rng.choice(_SCENES)
    things = rng.sample(scene.pool, count)
    swaps = [rng.sample(people, 2) for _ in range(span(rng, difficulty, 2, 5))]
    shown = arrange(rng, things)
    state = {person: LETTERS[shown.index(thing)] for person, thing in zip(people, things, strict=True)}
    lines = [f"{person} {thing} {state[person]}" for person, thing in zip(people, things, strict=True)]
    lines.append(" ".join(f"{person} {letter}" for person, letter in state.items()))
    for one, two in swaps:
        before = f"{one} {state[one]}, {two} {state[two]}: "
        state[one], state[two] = state[two], state[one]
        lines.append(before + " ".join(f"{person} {letter}" for person, letter in state.items()))
    asked = rng.choice(people)
    lines.append(f"? {asked} {state[asked]}")
    begin = listing([scene.holds.format(person, thing) for person, thing in zip(people, things, strict=True)])
    told = [scene.swap.format(*pair) for pair in swaps]
    words = ["First", *["Then"] * (len(told) - 2), "Finally"]
    middle = " ".join(f"{word}, {text}." for word, text in zip(words, told, strict=True))
    stem = f"{scene.intro.format(listing(people))}{begin}.\n{scene.middle} {middle} {scene.end.format(asked)}"
    return Item("tracking", with_options(stem, shown), thinking(lines), f"({state[asked]})", tuple(shown))


def counting(rng: random.Random, difficulty: float) -> Item:
    """How many things of one kind; in the harder half things of other kinds stand among them."""
    wanted = rng.choice(list(THINGS))
    kinds = [
        (wanted, thing) for thing in rng.sample(THINGS[wanted], min(len(THINGS[wanted]), span(rng, difficulty, 2, 11)))
    ]
    if wanted != "objects" and rng.random() < 0.2 + 0.5 * difficulty:
        other = rng.choice([kind for kind in THINGS if kind not in (wanted, "objects")])
        extra = rng.sample(THINGS[other], min(3, max(1, len(kinds) // 2)))
        kinds = kinds[: max(2, 11 - len(extra))] + [(other, thing) for thing in extra]
        rng.shuffle(kinds)
    parts, lines, total = [], [], 0
    for kind, (single, plural) in kinds:
        number = rng.randint(2, min(10, 5 + round(5 * difficulty))) if rng.random() < 0.15 + 0.5 * difficulty else 1
        parts.append(single if number == 1 else f"{NUMBER_WORDS[number]} {plural}")
        name = single.split(" ", 1)[1] if number == 1 else plural
        total += number if kind == wanted else 0
        lines.append(f"{name} {number if kind == wanted else 'no'}: {total}")
    opening = rng.choice(("I have", "I have", "There are on the list", "In the shop I see"))
    ask = f"How many {wanted} do I have?" if opening == "I have" else f"How many {wanted} is that?"
    return Item("counting", f"{opening} {listing(parts)}. {ask}", thinking(lines), str(total))


def _arrows(rng: random.Random, difficulty: float) -> tuple[str, list[str], str]:
    """Follow who passes to whom."""
    pool, told, ask = rng.choice((
        (PEOPLE, "{} passes the letter to {}.", "{} has the letter. Who has it after {} passes?"),
        (CITIES, "From {} the train goes to {}.", "You are in {}. Where are you after {} trains?"),
        (COLOURS, "The {} door leads to the {} room.",
         "You stand in the {} room. In which room are you after {} doors?"),
    ))  # fmt: skip
    places = rng.sample(pool, span(rng, difficulty, 4, 8))
    hops = min(len(places) - 1, span(rng, difficulty, 2, 6))
    pairs = list(zip(places, places[1:] + places[:1], strict=True))
    start = rng.randrange(len(places))
    path = [places[(start + hop) % len(places)] for hop in range(hops + 1)]
    rng.shuffle(pairs)
    lines = [f"{hop} {here} {there}" for hop, (here, there) in enumerate(pairwise(path), start=1)]
    return " ".join(told.format(*pair) for pair in pairs) + " " + ask.format(path[0], hops), lines, path[-1]


FIELDS = ("age", "height", "weight")


def _table(rng: random.Random, difficulty: float) -> tuple[str, list[str], str]:
    """A small table: a sum over rows, the name at an extreme, or how many rows pass a bound."""
    names = rng.sample(PEOPLE, span(rng, difficulty, 3, 6))
    columns = {field: rng.sample(range(2, 40) if field == "age" else range(10, 99), len(names)) for field in FIELDS}
    rows = "\n".join(
        f"- {name}, " + ", ".join(str(columns[field][i]) for field in FIELDS) for i, name in enumerate(names)
    )
    field = rng.choice(FIELDS)
    values = columns[field]
    head = f"Table: name, age, height, weight\n{rows}\n"
    kind = rng.choice(("sum", "extreme", "above"))
    if kind == "sum":
        chosen = rng.sample(range(len(names)), min(len(names), span(rng, difficulty, 2, 4)))
        lines, total = [f"{names[i]} {values[i]}" for i in chosen], values[chosen[0]]
        for i in chosen[1:]:
            lines.append(equation(total, "+", values[i]))
            total += values[i]
        return f"{head}What is the {field} of {listing([names[i] for i in chosen])} together?", lines, str(total)
    if kind == "extreme":
        most = rng.random() < 0.5
        best, lines = 0, []
        for i, name in enumerate(names):
            better = i != best and (values[i] > values[best]) == most
            compared = f" {'>' if most else '<'} {values[best]} {'yes' if better else 'no'}" if i else ""
            best = i if better else best
            lines.append(f"{name} {values[i]}{compared}: {names[best]} {values[best]}")
        return f"{head}Who has the {'largest' if most else 'smallest'} {field}?", lines, names[best]
    bound, count, lines = rng.choice(values) + rng.choice((-1, 1)), 0, []
    for name, value in zip(names, values, strict=True):
        count += value > bound
        lines.append(f"{name} {value} > {bound} {'yes' if value > bound else 'no'}: {count}")
    return f"{head}How many have a {field} of more than {bound}?", lines, str(count)


def lookup(rng: random.Random, difficulty: float) -> Item:
    """Several look-ups in a row, in a list of arrows or a table."""
    question, lines, answer = (_arrows if rng.random() < 0.5 else _table)(rng, difficulty)
    return Item("lookup", question, thinking(lines), answer)
