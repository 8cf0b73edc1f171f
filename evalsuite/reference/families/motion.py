"""Navigation on a grid and the calendar.

navigate: one line an instruction, with the position (x to the right, y forward) after it. calendar: weekdays by
taking sevens away and walking the rest, months by their lengths; years have 365 days here, so February has 28.
"""

from __future__ import annotations

import random

from evalsuite.reference.families.arithmetic import equation
from evalsuite.reference.families.item import Item, span, thinking
from evalsuite.reference.families.words import DAYS, MONTHS

Moves = list[tuple[str, int]]
SIDES = {"right": (1, 0), "left": (-1, 0), "forward": (0, 1), "backward": (0, -1)}
FACES = "NESW"
HEADINGS = {"N": (0, 1), "E": (1, 0), "S": (0, -1), "W": (-1, 0)}
TURNS = {"right": 1, "around": 2, "left": 3}
RETURN = "If you follow these instructions, do you return to the starting point? "
YES_NO = "\nOptions:\n- Yes\n- No"


def _steps(count: int) -> str:
    return f"{count} step" if count == 1 else f"{count} steps"


def _walk_sides(moves: Moves) -> tuple[list[str], tuple[int, int]]:
    """Thinking lines and the end of a walk that never turns."""
    x = y = 0
    lines = []
    for side, count in moves:
        x, y = x + SIDES[side][0] * count, y + SIDES[side][1] * count
        lines.append(f"{count} {side}: {x} {y}")
    return lines, (x, y)


def _walk_turning(moves: Moves) -> tuple[list[str], tuple[int, int], int]:
    """Thinking lines, the end and the last heading of a walk with turns; a turn is written with a count of 0."""
    x = y = face = 0
    lines = []
    for word, count in moves:
        if word in TURNS:
            face = (face + TURNS[word]) % 4
            lines.append(f"{word} {FACES[face]}: {x} {y}")
        else:
            dx, dy = HEADINGS[FACES[face]]
            x, y = x + dx * count, y + dy * count
            lines.append(f"{count} {FACES[face]}: {x} {y}")
    return lines, (x, y), face


def _home_sides(rng: random.Random, count: int) -> Moves:
    """Moves that end where they began."""
    moves: Moves = [(rng.choice(list(SIDES)), rng.randint(1, 10)) for _ in range(max(1, count - 2))]
    _, (x, y) = _walk_sides(moves)
    if x:
        moves.append(("left" if x > 0 else "right", abs(x)))
    if y:
        moves.append(("backward" if y > 0 else "forward", abs(y)))
    rng.shuffle(moves)
    return moves


def _home_turning(rng: random.Random, count: int) -> Moves:
    """Moves with turns that end where they began: a random walk, then the way home."""
    moves: Moves = []
    for _ in range(max(1, count - 3)):
        moves.append((rng.choice(list(TURNS)), 0) if moves and rng.random() < 0.45 else ("ahead", rng.randint(1, 10)))
    for _ in range(2):
        _, (x, y), face = _walk_turning(moves)
        if (x, y) == (0, 0):
            break
        ways = [w for w in FACES if HEADINGS[w][0] * x < 0 or HEADINGS[w][1] * y < 0]
        turn = (FACES.index(rng.choice(ways)) - face) % 4
        if turn:
            moves.append((["", "right", "around", "left"][turn], 0))
        ahead = HEADINGS[FACES[(face + turn) % 4]]
        moves.append(("ahead", abs(x) if ahead[0] else abs(y)))
    return moves


def navigate(rng: random.Random, difficulty: float) -> Item:
    """Does the walk end at its start (three times in four), or: where does it end?"""
    turning = rng.random() < 0.5
    count = span(rng, difficulty, 3, 8)
    moves = _home_turning(rng, count) if turning else _home_sides(rng, count)
    where = rng.random() < 0.25
    if where or rng.random() < 0.5:
        change = rng.choice([index for index, (_, steps) in enumerate(moves) if steps])
        steps = rng.choice([n for n in range(1, 11) if n != moves[change][1]])
        moves[change] = (moves[change][0], steps)
    if turning:
        lines, end, _ = _walk_turning(moves)
        told = [f"Turn {word}." if word in TURNS else f"Take {_steps(steps)}." for word, steps in moves]
        start = "You start at (0, 0), facing north. "
    else:
        lines, end = _walk_sides(moves)
        told = [f"Take {_steps(steps)} {side}." for side, steps in moves]
        start = "You start at (0, 0), facing north. Always face forward. "
    if where:
        question = start + " ".join(told) + " At which point (x, y) do you end?"
        return Item("navigate", question, thinking(lines), f"({end[0]}, {end[1]})")
    question = RETURN + ("" if turning else "Always face forward. ") + " ".join(told) + YES_NO
    return Item("navigate", question, thinking(lines), "Yes" if end == (0, 0) else "No")


Answered = tuple[str, list[str], str]


def _modulo(days: int) -> list[str]:
    """Sevens taken away one at a time."""
    lines = []
    while days >= 7:
        lines.append(equation(days, "-", 7))
        days -= 7
    return lines


def _weekday(rng: random.Random, difficulty: float) -> Answered:
    """The day of the week some days from today, or after a chain of moves."""
    day, lines = rng.randrange(7), []
    start = DAYS[day]
    shifts = [
        rng.choice((1, -1)) * rng.randint(1, 6 + round(24 * difficulty)) for _ in range(span(rng, difficulty, 1, 3))
    ]
    for shift in shifts:
        lines += _modulo(abs(shift))
        rest = abs(shift) % 7
        after = (day + (rest if shift > 0 else -rest)) % 7
        walked = [DAYS[(day + (step if shift > 0 else -step)) % 7] for step in range(1, rest + 1)]
        lines.append(f"{DAYS[day]} {'+' if shift > 0 else '-'} {rest}: " + " ".join(walked or [DAYS[day]]))
        day = after
    if len(shifts) == 1:
        count = f"{abs(shifts[0])} day{'s' * (abs(shifts[0]) > 1)}"
        ask = (
            f"What day of the week will it be in {count}?"
            if shifts[0] > 0
            else f"What day of the week was it {count} ago?"
        )
        return f"Today is {start}. {ask}", lines, DAYS[day]
    moved = " Then it".join(
        f" was moved {abs(s)} day{'s' * (abs(s) > 1)} {'later' if s > 0 else 'earlier'}." for s in shifts
    )
    return f"A meeting was planned for {start}. It{moved} On what day of the week is it now?", lines, DAYS[day]


def _shift_date(month: int, day: int, shift: int) -> tuple[list[str], int, int]:
    """Lines, month and day after adding `shift` days; at most one month is crossed at a time."""
    if shift >= 0:
        lines, day = [equation(day, "+", shift)], day + shift
        while True:
            name, length = MONTHS[month % 12]
            lines.append(f"{month % 12 + 1:02} {name} {length}")
            if day <= length:
                return lines, month, day
            lines.append(equation(day, "-", length))
            day, month = day - length, month + 1
    lines = []
    while day + shift < 1:
        month -= 1
        name, length = MONTHS[month % 12]
        lines.append(f"{day}-{-shift}<1")
        lines += [f"{month % 12 + 1:02} {name} {length}", equation(day, "+", length)]
        day += length
    lines.append(equation(day, "-", -shift))
    return lines, month, day + shift


def _date(rng: random.Random, difficulty: float) -> Answered:
    """The date some days away, in words or as MM/DD/YYYY."""
    month = rng.randrange(12)
    day, year = rng.randint(1, MONTHS[month][1]), rng.choice([y for y in range(1925, 2040) if y % 4])
    shift = rng.choice((1, -1)) * rng.randint(1, 7 + round(33 * difficulty))
    lines, new_month, new_day = _shift_date(month, day, shift)
    name = MONTHS[new_month % 12][0]
    lines = [f"{month + 1:02} {MONTHS[month][0]} {day}", *lines, f"{new_month % 12 + 1:02} {name} {new_day}"]
    if rng.random() < 0.5:
        way = f"in {abs(shift)} days" if shift > 0 else f"{abs(shift)} days ago"
        ask = f"What date will it be {way}?" if shift > 0 else f"What date was it {way}?"
        return f"Today is {MONTHS[month][0]} {day} of a year that is not a leap year. {ask}", lines, f"{name} {new_day}"
    count = {1: "one day", 7: "one week"}.get(abs(shift), f"{abs(shift)} days")
    ask = f"What is the date {count} {'from today' if shift > 0 else 'ago from today'} in MM/DD/YYYY?"
    answer = f"{new_month % 12 + 1:02}/{new_day:02}/{year + new_month // 12}"
    return f"Today is {month + 1:02}/{day:02}/{year}. {ask}", lines, answer


def _between(rng: random.Random, difficulty: float) -> Answered:
    """Days between two dates of one year."""
    month = rng.randrange(10)
    day, gap = rng.randint(1, MONTHS[month][1]), span(rng, difficulty, 1, 2)
    last = month + gap
    end = rng.randint(1, MONTHS[last][1])
    name, length = MONTHS[month]
    total, lines = length - day, [f"{name} {length}", equation(length, "-", day)]
    for between in range(month + 1, last):
        lines += [f"{MONTHS[between][0]} {MONTHS[between][1]}", equation(total, "+", MONTHS[between][1])]
        total += MONTHS[between][1]
    lines.append(equation(total, "+", end))
    ask = rng.choice(("How many days is it from {} to {}", "How many days lie between {} and {}"))
    return (
        ask.format(f"{name} {day}", f"{MONTHS[last][0]} {end}") + " of a year that is not a leap year?",
        lines,
        str(total + end),
    )


def calendar(rng: random.Random, difficulty: float) -> Item:
    """Days of the week, dates and spans of days."""
    question, lines, answer = rng.choice((_weekday, _date, _between))(rng, difficulty)
    return Item("calendar", question, thinking(lines), answer)
