"""Request groups: which items share a batch, fixed once from the prompts alone.

Every arm answers the same groups in the same order, so arms differ in nothing but the arm; a group is also the unit of
the journal, of resume and of shards. Groups are cut, and sorted by length (little padding), only inside consecutive
windows of 512 items of the seeded order, so a sequential look after a window sees whole items of every arm. The
noise-floor arm is the exception on purpose: permuted, half the token budget.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

WINDOW = 512
"""Items a window."""
GROUP_TOKENS = 32_768
"""Default token budget of a group: items x tokens of the longest."""


@dataclass(frozen=True, slots=True)
class Size:
    """What an item costs: `rows` times `tokens` (prompt and answer; what items share is not counted)."""

    rows: int
    tokens: int


def seeded_order(n: int, seed: int, name: str) -> list[int]:
    """A permutation of `range(n)` that depends on the seed and the name alone."""
    order = list(range(n))
    random.Random(f"{seed}:{name}").shuffle(order)
    return order


def windows(n: int) -> tuple[int, ...]:
    """Where the windows of `n` items end."""
    return tuple(min(end, n) for end in range(WINDOW, n + WINDOW, WINDOW))


def cut(
    sizes: Sequence[Size], budget: int = GROUP_TOKENS, *, noise: bool = False, ends: Sequence[int] | None = None
) -> list[tuple[int, ...]]:
    """Groups of positions (indices into `sizes`, which stand in the seeded order).

    With `noise`, positions are permuted inside each window first and the budget is halved: other batches, other order.
    `ends`: where windows end, instead of every `WINDOW` items.
    """
    groups: list[tuple[int, ...]] = []
    ends = windows(len(sizes)) if ends is None else ends
    for start, end in zip((0, *ends), ends, strict=False):
        window = list(range(start, end))
        if noise:
            random.Random(f"noise:{start}").shuffle(window)
        else:
            window.sort(key=lambda i: (sizes[i].tokens, i))
        groups += _fill(window, sizes, budget // 2 if noise else budget)
    return groups


def _fill(window: Sequence[int], sizes: Sequence[Size], budget: int) -> list[tuple[int, ...]]:
    groups: list[tuple[int, ...]] = []
    current: list[int] = []
    rows = longest = 0
    for i in window:
        wide = max(longest, sizes[i].tokens)
        if current and (rows + sizes[i].rows) * wide > budget:
            groups.append(tuple(current))
            current, rows, wide = [], 0, sizes[i].tokens
        current.append(i)
        rows, longest = rows + sizes[i].rows, wide
    return [*groups, tuple(current)] if current else groups


def pieces(sizes: Sequence[int], budget: int) -> Iterator[slice]:
    """Consecutive rows of together at most `budget` tokens when padded to the longest; a longer row stands alone."""
    start = widest = 0
    for end, size in enumerate(sizes):
        wide = max(widest, size)
        if end > start and wide * (end + 1 - start) > budget:
            yield slice(start, end)
            start, wide = end, size
        widest = wide
    if sizes:
        yield slice(start, len(sizes))
