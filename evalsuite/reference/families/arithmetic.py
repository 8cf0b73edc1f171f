"""Chains of sums and word problems.

The steps are bare equations, one a line, each with both operands beside each other: `12+7=19`. The same form serves
every family that computes, so what is learned in one is used in the others. Totals stay between 0 and 199, products
come from the table up to 12 x 9.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

from evalsuite.reference.families.item import Item, span, thinking
from evalsuite.reference.families.words import GOODS, PEOPLE

Story = tuple[str, list[str], int]
LIMIT = 199
WORDS = {"+": "plus", "-": "minus"}
ORDERS = {"+": "add {}", "-": "subtract {}", "*": "multiply by {}"}
COMPUTE = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}


def equation(left: int, sign: str, right: int) -> str:
    """`12+7=19`."""
    return f"{left}{sign}{right}={COMPUTE[sign](left, right)}"


def _number(rng: random.Random, difficulty: float) -> int:
    return rng.randint(10, 20 + round(75 * difficulty)) if rng.random() < 0.2 + 0.5 * difficulty else rng.randint(1, 9)


def _terms(rng: random.Random, difficulty: float, signs: str) -> tuple[int, list[tuple[str, int]]]:
    """A first number and the (sign, number) pairs that follow, with every running total in range."""
    total = first = _number(rng, difficulty)
    count, terms = span(rng, difficulty, 1, 6), list[tuple[str, int]]()
    while len(terms) < count:
        sign, number = rng.choice(signs), _number(rng, difficulty)
        if sign == "*":
            number = rng.randint(2, 9)
            if total > 12:
                continue
        if not 0 <= COMPUTE[sign](total, number) <= LIMIT:
            continue
        total = COMPUTE[sign](total, number)
        terms.append((sign, number))
    return first, terms


def chain_sum(rng: random.Random, difficulty: float) -> Item:
    """Sums and differences in a row; the told form has products too, done from left to right."""
    told = rng.random() < 0.4
    first, terms = _terms(rng, difficulty, "++--*" if told else "+-")
    if told:
        orders = [ORDERS[sign].format(number) for sign, number in terms]
        if rng.random() < 0.5:
            question = (
                f"Start with {first}. "
                + " ".join(f"{order.capitalize()}." for order in orders)
                + " What is the result?"
            )
        else:
            question = f"Take the number {first}, " + ", ".join(orders) + ". What number do you get?"
    elif rng.random() < 0.25:
        question = f"How much is {first} " + " ".join(f"{WORDS[sign]} {number}" for sign, number in terms) + "?"
    else:
        expression = f"{first} " + " ".join(f"{sign} {number}" for sign, number in terms)
        question = rng.choice(("What is {}?", "Compute {}.", "{} =", "Calculate the value of {}.")).format(expression)
    lines, total = [], first
    for sign, number in terms:
        lines.append(equation(total, sign, number))
        total = COMPUTE[sign](total, number)
    return Item("chain_sum", question, thinking(lines), str(total))


def _holdings(rng: random.Random, difficulty: float) -> Story:
    """One person gains and loses things; the commonest primary-school story."""
    name, friend = rng.sample(PEOPLE, 2)
    goods = rng.choice(GOODS)
    total = rng.randint(3, 20 + round(40 * difficulty))
    parts, lines = [f"{name} has {total} {goods}."], []
    for _ in range(span(rng, difficulty, 1, 3)):
        kind = rng.choice(("gain", "gain", "loss", "loss", "packs", "double"))
        number = rng.randint(2, 9 + round(20 * difficulty))
        if kind == "loss" and number <= total:
            phrase = rng.choice((f"gives {number} to {friend}", f"loses {number} of them", f"sells {number} {goods}"))
            sign = "-"
        elif kind == "packs":
            packs, each = rng.randint(2, 6), rng.randint(2, 9)
            lines.append(equation(packs, "*", each))
            phrase, sign, number = f"buys {packs} packs of {each} {goods}", "+", packs * each
        elif kind == "double" and total <= 30:
            phrase, sign, number = "wins as many as there already are", "+", total
        else:
            phrase = rng.choice((f"buys {number} more", f"finds {number} {goods}", f"gets {number} from {friend}"))
            sign = "+"
        parts.append(f"{'Then' if lines else 'First'} {name} {phrase}." if rng.random() < 0.3 else f"{name} {phrase}.")
        lines.append(equation(total, sign, number))
        total = COMPUTE[sign](total, number)
    ask = rng.choice((f"How many {goods} does {name} have now?", f"How many {goods} does {name} have in the end?"))
    return " ".join([*parts, ask]), lines, total


def _together(rng: random.Random, difficulty: float) -> Story:
    """Two or three people, each with more, fewer or times as many as the one before."""
    people = rng.sample(PEOPLE, span(rng, difficulty, 2, 3))
    goods, held = rng.choice(GOODS), rng.randint(3, 10 + round(20 * difficulty))
    parts, lines, sums = [f"{people[0]} has {held} {goods}."], [], [held]
    for before, name in itertools.pairwise(people):
        number = rng.randint(2, 9)
        kind = rng.choice("+-*") if held <= 12 else rng.choice("+-")
        if kind == "-" and number >= held:
            kind = "+"
        if kind == "*":
            number = rng.randint(2, 4)
        words = {
            "+": f"{number} more {goods} than",
            "-": f"{number} fewer {goods} than",
            "*": f"{number} times as many {goods} as",
        }
        parts.append(f"{name} has {words[kind]} {before}.")
        lines.append(equation(held, kind, number))
        held = COMPUTE[kind](held, number)
        sums.append(held)
    total = sums[0]
    for number in sums[1:]:
        lines.append(equation(total, "+", number))
        total += number
    return " ".join([*parts, f"How many {goods} do they have together?"]), lines, total


def _shopping(rng: random.Random, difficulty: float) -> Story:
    """Prices times amounts, summed; in the harder half paid with a round sum."""
    name = rng.choice(PEOPLE)
    kinds = rng.sample(GOODS, span(rng, difficulty, 1, 2))
    total, lines, bought, prices = 0, [], [], []
    for goods in kinds:
        amount, price = rng.randint(2, 9), rng.randint(2, 9)
        lines.append(equation(amount, "*", price))
        if total:
            lines.append(equation(total, "+", amount * price))
        total += amount * price
        bought.append(f"{amount} {goods}")
        prices.append(f"${price} each")
    wanted = " and ".join(f"{what} at {price}" for what, price in zip(bought, prices, strict=True))
    text = f"{name} buys {wanted}."
    if rng.random() < 0.3 + 0.4 * difficulty:
        paid = rng.choice([value for value in (50, 80, 100, 120, 150, 200) if value > total])
        lines.append(equation(paid, "-", total))
        return f"{text} {name} pays with ${paid}. How many dollars of change does {name} get?", lines, paid - total
    return f"{text} How many dollars does {name} pay?", lines, total


def _daily(rng: random.Random, difficulty: float) -> Story:
    """A rate kept up for some days, then what is left or what was there at first."""
    name, verb, goods = (
        rng.choice(PEOPLE),
        *rng.choice((("reads", "pages"), ("solves", "puzzles"), ("bakes", "cakes"), ("walks", "miles"))),
    )
    rate, days, extra = rng.randint(2, 12), rng.randint(2, 9), rng.randint(2, 9 + round(20 * difficulty))
    done = rate * days
    lines = [equation(rate, "*", days)]
    text = f"{name} {verb} {rate} {goods} a day for {days} days"
    if rng.random() < 0.5:
        lines.append(equation(done, "+", extra))
        done += extra
        text += f" and {extra} {goods} on the day after"
    if rng.random() < 0.3 + 0.4 * difficulty:
        goal = done + rng.randint(2, 40)
        lines.append(equation(goal, "-", done))
        return f"{text}. The goal is {goal} {goods}. How many {goods} are left?", lines, goal - done
    return f"{text}. How many {goods} is that in total?", lines, done


STORIES: tuple[Callable[[random.Random, float], Story], ...] = (_holdings, _holdings, _together, _shopping, _daily)


def word_problem(rng: random.Random, difficulty: float) -> Item:
    """A story of one to four computations."""
    while True:
        question, lines, total = rng.choice(STORIES)(rng, difficulty)
        if 0 <= total <= LIMIT:
            return Item("word_problem", question, thinking(lines), str(total))
