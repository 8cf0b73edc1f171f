"""Second solvers for the generated families: they see the question text alone and share no code with the generators.

Each reads the text with patterns of its own and computes the answer another way: complex numbers for walks, `datetime`
for the calendar, all permutations for orderings, Python's own `eval` for Boolean expressions.
"""

import itertools
import re
from datetime import date, timedelta

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
WORDS = {word: n for n, word in enumerate(NUMBERS)}
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = [date(2023, month, 1).strftime("%B") for month in range(1, 13)]


def numbers(text):
    return [int(number) for number in re.findall(r"\d+", text)]


def options_of(question):
    return dict(re.findall(r"^\(([A-H])\) (.*)$", question, re.M))


def letter_of(question, text):
    return next(f"({letter})" for letter, shown in options_of(question).items() if shown == text)


def chain_sum(question):
    told = re.findall(r"(add|subtract|multiply by) (\d+)", question.lower())
    if told:
        total = numbers(question)[0]
        for order, number in told:
            total = {"add": total + int(number), "subtract": total - int(number)}.get(order, total * int(number))
        return str(total)
    signed = question.replace("plus", "+").replace("minus", "-")
    return str(eval(re.search(r"\d[\d +-]*", signed)[0]))


def tracking(question):
    first, second = question.split("\nOptions:")[0].split("\n")
    held = {}
    for part in re.split(r", and |, ", first[first.index(": ") + 2 :].rstrip(".")):
        person, thing = re.match(r"(\w+) (?:is dancing with|gets|is playing|has a|takes the) (.+)", part).groups()
        held[person] = thing
    for one, two in re.findall(r"(\w+) and (\w+) (?:switch|swap|trade)", second):
        held[one], held[two] = held[two], held[one]
    asked = re.search(r"(\w+) (?:is dancing with|has the|has|is playing)$", second)[1]
    return letter_of(question, held[asked])


BEFORE = "to the left of|newer than|more expensive than|above"
AFTER = "to the right of|older than|less expensive than|below"
FRONT = "leftmost|newest|most expensive|first"
BACK = "rightmost|oldest|cheapest|last"


def rank_of(text, size):
    """The place that a phrase such as "the second from the right" names."""
    text = text.removeprefix("the ").rstrip(".")
    ordinal = re.match(r"(second|third|fourth|fifth)", text)
    number = {"second": 2, "third": 3, "fourth": 4, "fifth": 5}[ordinal[1]] if ordinal else 1
    backwards = bool(re.search(r"from the right|oldest|cheapest|last|rightmost", text))
    return size + 1 - number if backwards else number


def ordering(question):
    stem = question.split("\nOptions:")[0]
    claim = re.compile(r"(.+?) (?:is|are|finished) (.+)")
    options = {letter: claim.match(text).groups() for letter, text in options_of(question).items()}
    things = [thing.lower() for thing, _ in options.values()]
    clues = re.findall(r"([^.:]+?) (?:is|are|finished) ([^.]+)\.", stem.split(": ", 1)[1].split(". ", 1)[1])
    fitting = []
    for order in itertools.permutations(things):
        place = {thing: n + 1 for n, thing in enumerate(order)}
        if all(fits(thing.strip().lower(), said, place) for thing, said in clues):
            fitting.append(place)
    assert len(fitting) == 1, question
    place, size = fitting[0], len(things)
    right = [letter for letter, (thing, said) in options.items() if place[thing.lower()] == rank_of(said, size)]
    assert len(right) == 1, question
    return f"({right[0]})"


def fits(thing, said, place):
    relation = re.match(f"({BEFORE}|{AFTER}) (.+)", said)
    if not relation:
        return place[thing] == rank_of(said, len(place))
    other = place[relation[2].lower()]
    return place[thing] < other if re.match(BEFORE, relation[1]) else place[thing] > other


def truth(question):
    honest = r"tells the truth|is honest"
    claims = re.findall(rf"(\w+) says (\w+) ({honest}|lies|is a liar)", question)
    said = {a: (b, bool(re.match(honest, c))) for a, b, c in claims}
    plain = re.sub(rf"\w+ says \w+ (?:{honest}|lies|is a liar)\.", "", question)
    name, claim = re.search(rf"(\w+) ({honest}|lies|is a liar)\.", plain).groups()
    known = {name: bool(re.match(honest, claim))}

    def speaks_truth(person):
        if person in known:
            return known[person]
        other, claim = said[person]
        return speaks_truth(other) == claim

    asked = re.search(r"(?:Does|Is) (\w+) (?:tell|honest)", question)[1]
    return "Yes" if speaks_truth(asked) else "No"


def boolean(question):
    given = {name: value == "True" for name, value in re.findall(r"\b([p-z]) = (True|False)", question)}
    text = re.sub(r"^(Let .*\. )?(What is the value of|Evaluate:|True or false:)", "", question)
    return str(eval(text.removesuffix("?").removesuffix(" is").strip(), {}, given))


def navigate(question):
    here, heading = 0, 1j
    for order in re.findall(r"Turn \w+|Take \d+ steps?(?: \w+)?", question):
        if order.startswith("Turn"):
            heading *= {"left": 1j, "right": -1j, "around": -1}[order.split()[1]]
            continue
        side = order.split()[3:] or ["ahead"]
        way = {"ahead": heading, "left": -1, "right": 1, "forward": 1j, "backward": -1j}[side[0]]
        here += int(order.split()[1]) * way
    if "At which point" in question:
        return f"({int(here.real)}, {int(here.imag)})"
    return "Yes" if here == 0 else "No"


def counting(question):
    from evalsuite.reference.families.words import THINGS

    wanted = re.search(r"How many (.+?) (?:do I have|is that)", question)[1]
    members = {form.split(" ", 1)[1] for form, _ in THINGS[wanted]} | {plural for _, plural in THINGS[wanted]}
    listed = re.match(r"(?:I have|There are on the list|In the shop I see) (.+?)\. How many", question)[1]
    total = 0
    for part in re.split(r", and |, ", listed):
        number, thing = part.split(" ", 1)
        total += WORDS.get(number, 1) if thing in members else 0
    return str(total)


def lookup(question):
    if question.startswith("Table"):
        return table(question)
    pairs = re.findall(
        r"(\w+) passes the letter to (\w+)|From (\w+) the train goes to (\w+)|The (\w+) door leads to the (\w+) room",
        question,
    )
    following = {found[0]: found[1] for pair in pairs if (found := [word for word in pair if word])}
    place = re.search(r"(\w+) has the letter|You are in (\w+)|You stand in the (\w+) room", question)
    here = next(word for word in place.groups() if word)
    for _ in range(numbers(question)[0]):
        here = following[here]
    return here


def table(question):
    rows = {name: dict(zip(("age", "height", "weight"), map(int, cells), strict=True))
            for name, *cells in re.findall(r"^- (\w+), (\d+), (\d+), (\d+)$", question, re.M)}  # fmt: skip
    ask = question.splitlines()[-1]
    field = re.search("age|height|weight", ask)[0]
    if "together" in ask:
        return str(sum(values[field] for name, values in rows.items() if re.search(rf"\b{name}\b", ask)))
    if "more than" in ask:
        return str(sum(values[field] > numbers(ask)[0] for values in rows.values()))
    return (max if "largest" in ask else min)(rows, key=lambda name: rows[name][field])


def word_problem(question):
    if "together?" in question:
        return compared(question)
    if "$" in question:
        bill = sum(int(amount) * int(price) for amount, price in re.findall(r"(\d+) \w+ at \$(\d+) each", question))
        paid = re.search(r"pays with \$(\d+)", question)
        return str(int(paid[1]) - bill if paid else bill)
    if " a day for " in question:
        rate, days, *_ = numbers(question)
        extra = re.search(r"and (\d+) \w+ on the day after", question)
        goal = re.search(r"The goal is (\d+)", question)
        done = rate * days + (int(extra[1]) if extra else 0)
        return str(int(goal[1]) - done if goal else done)
    first, *events = question.split(". ")
    held = numbers(first)[0]
    for event in events[:-1]:
        if "as many as there already are" in event:
            held *= 2
        elif "packs of" in event:
            packs, each = numbers(event)
            held += packs * each
        else:
            held += numbers(event)[0] * (-1 if re.search("gives|loses|sells", event) else 1)
    return str(held)


def compared(question):
    held = {}
    for sentence in question.split(". ")[:-1]:
        name, number = sentence.split()[0], numbers(sentence)[0]
        before = held.get(sentence.split()[-1], 0)
        if "more" in sentence:
            number += before
        elif "fewer" in sentence:
            number = before - number
        elif "times" in sentence:
            number *= before
        held[name] = number
    return str(sum(held.values()))


def calendar(question):
    if "day of the week" in question:
        start = DAYS.index(re.search(r"(?:Today is|planned for) (\w+)", question)[1])
        moves = re.findall(r"(\d+) days? (later|earlier|ago)", question)
        moves += [(n, "later") for n in re.findall(r"in (\d+) days?", question)]
        return DAYS[(start + sum(int(n) * (1 if way == "later" else -1) for n, way in moves)) % 7]
    found = re.findall(rf"({'|'.join(MONTHS)}) (\d+)", question)
    named = [date(2023, MONTHS.index(month) + 1, int(day)) for month, day in found]
    if len(named) == 2:
        return str((named[1] - named[0]).days)
    back = "ago" in question
    count = re.search(r"(\d+) days|one (day|week)", question)
    days = int(count[1]) if count[1] else {"day": 1, "week": 7}[count[2]]
    month, day, year = (named[0].month, named[0].day, 2023) if named else numbers(question)[:3]
    ordinal = date(2023, month, day) + timedelta(days=-days if back else days)  # 2022, 2023: neither is a leap year
    if ordinal.year == 2024:
        ordinal = date(2022, month, day) + timedelta(days=days)
        ordinal = ordinal.replace(year=ordinal.year + 1)
    shown = year + ordinal.year - 2023
    return f"{ordinal:%m/%d}/{shown}" if not named else f"{MONTHS[ordinal.month - 1]} {ordinal.day}"


SOLVERS = {
    "chain_sum": chain_sum, "tracking": tracking, "ordering": ordering, "truth": truth, "boolean": boolean,
    "navigate": navigate, "counting": counting, "lookup": lookup, "word_problem": word_problem, "calendar": calendar,
}  # fmt: skip
