"""What quantising activations does to them, counted while a model runs.

Weights are counted once, when they are quantised. Activations come by the million, so two levels exist:

    blocks      always: blocks with NaN or Inf, and blocks whose largest element clips. Both follow from the block's
                amax alone, which the conversion has anyway. Its bit patterns are kept and looked up by the thousand, so
                that an input costs little more than a list entry.
    elements    on request: clipped and zero-flushed elements, which takes further passes over every input (the cost is
                measured by `benchmarks/counting.py`).

Layers that share an input (q, k and v) each report its counts.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Level = Literal["blocks", "elements"]
LEVELS: tuple[Level, ...] = ("blocks", "elements")
PENDING_BLOCKS, PENDING_INPUTS = 1 << 16, 64
"""A module's blocks, or inputs, from which it adds up what is pending: few enough to hold, many enough to be cheap."""
FINITE, NONFINITE, CLIPPED = 0, 1, 2
"""What `flags_of` says of a block."""
SIZES = ("blocks", "elements")
"""Counts that only say how much was looked at."""

Counts = dict[str, int]
"""`blocks`, `nonfinite_blocks`, `clipped_blocks`; `elements`, `clipped`, `zero_flushed` where they were counted."""


class Seen(NamedTuple):
    """What one conversion saw, not added up yet."""

    amax: Tensor | None
    """int16 (blocks,): bit patterns of the blocks' largest magnitudes in BF16; None where `counts` has the blocks."""
    elements: Tensor | None = None
    """int64 (3,): elements, clipped, zero_flushed; None where they were not counted."""
    counts: Counts | None = None
    """Counts that are there already."""


def flags_of(patterns: Tensor, scales: Tensor, limit: float) -> Tensor:
    """uint8, one for each BF16 amax: whether a block with that amax is non-finite, clips beyond *limit*, or neither."""
    flags = torch.where(patterns / scales > limit, CLIPPED, FINITE)
    return torch.where(scales.isnan(), NONFINITE, flags).to(torch.uint8)


class Tally:
    """The counts of one module."""

    def __init__(self, flags: Tensor) -> None:
        self._flags = flags
        self._pending: list[Tensor] = []
        self._blocks = 0
        self._elements: list[Tensor] = []
        self._counts: Counts = {}

    def add(self, seen: Seen) -> None:
        """Note one input."""
        if seen.counts is not None:
            self._sum(seen.counts)
        if seen.elements is not None:
            self._elements.append(seen.elements)
        if seen.amax is not None:
            self._pending.append(seen.amax)
            self._blocks += seen.amax.numel()
            if self._blocks >= PENDING_BLOCKS or len(self._pending) >= PENDING_INPUTS:
                self._flush()

    def take(self) -> Counts:
        """The counts since the last call; empty if nothing came."""
        self._flush()
        counts, self._counts = self._counts, {}
        return counts

    def _flush(self) -> None:
        if self._pending:
            flags = self._flags.index_select(0, torch.cat(self._pending).int())
            _, nonfinite, clipped = torch.bincount(flags, minlength=3).tolist()
            self._sum({"blocks": self._blocks, "nonfinite_blocks": nonfinite, "clipped_blocks": clipped})
        if self._elements:
            seen = torch.stack(self._elements).sum(0).tolist()
            self._sum(dict(zip(("elements", "clipped", "zero_flushed"), seen, strict=True)))
        self._pending, self._elements, self._blocks = [], [], 0

    def _sum(self, counts: Counts) -> None:
        self._counts = total((self._counts, counts))


def total(parts: Iterable[Counts]) -> Counts:
    """The sum, key by key."""
    made: Counts = {}
    for part in parts:
        for key, value in part.items():
            made[key] = made.get(key, 0) + value
    return made
