"""The ten families of generated reasoning questions.

What a newcomer needs: a family draws a question, the thinking that solves it and the answer, all from one random
state and a difficulty between 0 and 1. Thinking is written so that a model of four million parameters can execute it:
each line needs only the line before and one look into the question. Several families speak in the phrasing of
BIG-Bench Hard's procedural tasks, so that a model trained here can be tried on the real ones. To add a family: write
the function, add one line to the table, write its second solver in the tests.
"""

from __future__ import annotations

from evalsuite.reference.families.arithmetic import chain_sum, word_problem
from evalsuite.reference.families.item import Family, Item
from evalsuite.reference.families.logic import boolean, ordering, truth
from evalsuite.reference.families.motion import calendar, navigate
from evalsuite.reference.families.objects import counting, lookup, tracking

FAMILIES: dict[str, Family] = {
    "chain_sum": chain_sum,
    "tracking": tracking,
    "ordering": ordering,
    "truth": truth,
    "boolean": boolean,
    "navigate": navigate,
    "counting": counting,
    "lookup": lookup,
    "word_problem": word_problem,
    "calendar": calendar,
}

__all__ = ["FAMILIES", "Family", "Item"]
