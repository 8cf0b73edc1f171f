"""How numbers read: the only place where a value becomes text for people.

A newcomer should know five rules. Accuracies are percentages with one decimal; changes are signed *points* with no more
digits than half the width of their interval supports, and so are measured amounts; a p-value keeps three digits, since
0.0504 is not 0.05. Minus is U+2212. And an absent value has no number at all: the functions here take values, not None,
so that nobody prints a zero for something that was not measured (`views.Reading` says why it is absent).
"""

import hashlib
import math
import re
from datetime import UTC, datetime

from markupsafe import Markup

MINUS = "\N{MINUS SIGN}"
FINE = 0.5
"""Half-width in points below which two decimals are shown."""


def count(value: int) -> str:
    """`1,319`."""
    return f"{value:,}"


def percent(fraction: float) -> str:
    """`65.8 %`."""
    return f"{100 * fraction:.1f}\N{NO-BREAK SPACE}%"


def share(part: int, whole: int) -> str:
    """`12 of 2,000 (0.6 %)`."""
    return f"{part:,} of {whole:,} ({percent(part / whole)})" if whole else "none of 0"


def margin(fraction: float) -> str:
    """`2 points`."""
    points = float(f"{100 * fraction:.6g}")
    return f"{points:g} {'point' if points == 1 else 'points'}"


def margin_up(fraction: float) -> str:
    """A margin that could be certified, never rounded to a smaller one: `2.9 points`."""
    return margin(math.ceil(1000 * fraction - 1e-9) / 1000)


def _signed(value: float, digits: int) -> str:
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return text
    return f"{MINUS if value < 0 else '+'}{text}"


def limit(fraction: float) -> str:
    """The change at which a loss is too large, in points: `−2`."""
    return f"{MINUS}{abs(float(f'{100 * fraction:.3g}')):g}"


def _digits(interval: tuple[float, float]) -> int:
    return 2 if 50 * (interval[1] - interval[0]) < FINE else 1


def change(delta: float, interval: tuple[float, float]) -> str:
    """A change of accuracy in points, `−0.31`, with as many digits as its interval supports."""
    return _signed(100 * delta, _digits(interval))


def bounds(interval: tuple[float, float]) -> str:
    """The interval of a change in points: `[−0.73, +0.11]`."""
    digits = _digits(interval)
    return f"[{_signed(100 * interval[0], digits)}, {_signed(100 * interval[1], digits)}]"


def percent_bounds(interval: tuple[float, float]) -> str:
    """The interval of an accuracy: `[63.7, 67.9]`."""
    return f"[{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def amount(value: float, ends: tuple[float, float] | None = None) -> str:
    """A measured value, `3,010` or `0.0317`: no more decimals than half its interval supports, three digits without."""
    half = (ends[1] - ends[0]) / 2 if ends else 0.0
    unit = half if half > 0 else abs(value) / 100
    return f"{value:,.{min(9, max(0, -_power(unit)))}f}"


def amount_bounds(ends: tuple[float, float]) -> str:
    """The interval of a measured value: `[2,950, 3,070]`."""
    return f"[{amount(ends[0], ends)}, {amount(ends[1], ends)}]"


def factor(value: float) -> str:
    """A ratio with two decimals, `1.07`, three where two would round it to 1; very small or large ones as amounts."""
    if not 0.1 <= value < 100:
        return amount(value)
    return f"{value:.2f}" if abs(value - 1) >= 0.015 else f"{value:.3f}"


def factor_bounds(ends: tuple[float, float]) -> str:
    """The interval of a ratio: `[1.05, 1.09]`."""
    return f"[{factor(ends[0])}, {factor(ends[1])}]"


def size(count: int) -> str:
    """`8.6 MiB`."""
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count >= 1 << power:
            return f"{count / (1 << power):.1f}\N{NO-BREAK SPACE}{unit}"
    return f"{count}\N{NO-BREAK SPACE}B"


def _power(value: float) -> int:
    """The power of ten of a value's first digit."""
    return math.floor(math.log10(value)) if value > 0 else 0


def p_value(p: float) -> str:
    """`0.0504`, `< 0.0001`."""
    if p < 0.0001:
        return "<\N{NO-BREAK SPACE}0.0001"
    return f"{p:.3f}" if p >= 0.1 else f"{p:.3g}"


def sentence(words: str, verdict: str) -> tuple[str, str]:
    """A decision's sentence for a page that shows the verdict already: its first statement, and the rest."""
    head, colon, body = words.partition(": ")
    body = body if colon and head.split(",")[0] == verdict else words
    first, _, rest = body.rstrip(".").partition("; ")
    return f"{_capital(first)}.", f"{_capital(rest)}." if rest else ""


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def breakable(name: str) -> Markup:
    """A name, escaped, that a browser may break after `_`, `-`, `/`, `.` and `@`."""
    return Markup("<wbr>").join(re.split(r"(?<=[_\-/.@])(?=.)", name))


def moment(iso: str) -> str:
    """`2026-11-24 05:44Z` from an ISO time; anything else unchanged."""
    try:
        value = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    if value.tzinfo is None:
        value = value.replace(tzinfo=UTC)
    return value.astimezone(UTC).strftime("%Y-%m-%d %H:%MZ")


def plural(number: int, one: str, many: str | None = None) -> str:
    """`1 task`, `3 tasks`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def slug(text: str) -> str:
    """A file name made of an id; equal ids give equal names, different ids different ones."""
    safe = re.sub(r"[^A-Za-z0-9._-]", "-", text).strip(".-")[:80]
    if safe == text:
        return safe
    return f"{safe or 'run'}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
