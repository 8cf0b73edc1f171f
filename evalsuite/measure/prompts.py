"""Prompts for measuring speed: real text, cut to length. Energy depends on the operands' values, so never token 0."""

from collections.abc import Sequence
from typing import Any

from evalsuite.calibration import read_texts, reference_texts


class Prompts:
    """A stream of token ids from the shipped calibration texts, with the model's own tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._ids: list[int] = []
        for text in read_texts(reference_texts()):
            self._ids += tokenizer.encode(text, add_special_tokens=False)

    def rows(self, lengths: Sequence[int]) -> list[tuple[int, ...]]:
        """Prompts of these lengths, each from another place of the stream; the same for every caller."""
        made, at = [], 0
        for length in lengths:
            repeated = self._ids[at:] + self._ids * (length // len(self._ids) + 1)
            made.append(tuple(repeated[:length]))
            at = (at + length + 7) % len(self._ids)
        return made
