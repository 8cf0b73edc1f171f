"""Prompts for timed requests: real text, since the numbers in a matrix decide at what power (and so how fast) devices
multiply them. The text is that of the shipped calibration file, read on from another place for every prompt, so that
neighbouring prompts do not begin alike.
"""

import math
from collections.abc import Callable, Sequence
from functools import cached_property

from evalsuite.calibration import read_texts, reference_texts


class Corpus:
    """The shipped texts, one behind the other, without end."""

    @cached_property
    def texts(self) -> list[str]:
        """The texts, in order."""
        return read_texts(reference_texts())

    def start(self, number: int) -> int:
        """The text with which prompt *number* begins. The file is sorted by kind, and kinds differ in tokens a
        character: neighbouring prompts begin far apart, so that a few of them are a fair sample."""
        n = len(self.texts)
        stride = next(k for k in range(max(1, round(0.618 * n)), 2 * n + 1) if math.gcd(k, n) == 1)
        return number * stride % n

    def text(self, number: int, characters: int) -> str:
        """So many characters for prompt *number*, from the beginning of one of the texts on."""
        found, at = "", self.start(number)
        while len(found) < characters:
            found += self.texts[at % len(self.texts)] + "\n"
            at += 1
        return found[:characters]

    def tokens(self, number: int, length: int, encode: Callable[[str], Sequence[int]]) -> list[int]:
        """The same in tokens of a model: so many of them."""
        found: list[int] = []
        at = self.start(number)
        while len(found) < length:
            found += encode(self.texts[at % len(self.texts)] + "\n")
            at += 1
        return found[:length]
