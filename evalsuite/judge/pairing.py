"""Two arms of a `Grid`, paired: the 2x2 tables that verdicts are made from, by task and pooled.

Items are paired by (task, item hash), never by position. If two arms saw different prompts for an item, they are not
comparable and no number is given.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from evalsuite.judge.exact import FloatArray, IntArray
from evalsuite.judge.layout import Column, Grid
from evalsuite.records import PairCounts


class Scores(NamedTuple):
    """Both arms' mean score of each item, in the seeded order; items without any answer are left out."""

    base: FloatArray
    """NaN where only the candidate answered."""
    cand: FloatArray
    repeats: int
    """Samples an item: 1 means that the 2x2 table says all (if items are independent)."""
    cluster: IntArray | None = None
    """Items of one cluster share a number; None where every item stands alone."""

    def worst(self, r: float = 1.0) -> FloatArray:
        """Candidate minus `r` times baseline, an absent answer counted against the candidate."""
        return np.nan_to_num(self.cand, nan=0.0) - r * np.nan_to_num(self.base, nan=1.0)

    def best(self, r: float = 1.0) -> FloatArray:
        """The same, an absent answer counted for the candidate."""
        return np.nan_to_num(self.cand, nan=1.0) - r * np.nan_to_num(self.base, nan=0.0)


@dataclass(frozen=True)
class Pairing:
    """Two arms, paired: counts by task and pooled, and why they may not be comparable."""

    pooled: PairCounts
    tasks: dict[str, PairCounts]
    parsed: PairCounts
    """The same table for "the answer could be parsed" instead of "the answer is right", pooled."""
    mismatches: dict[str, int]
    """Task -> items whose prompts differ."""
    first_mismatch: tuple[str, str] | None
    """Task and item hash of the first such item."""
    scores: Scores
    task_scores: dict[str, Scores]


def pair(grid: Grid, base: str, cand: str) -> Pairing:
    """Pair two arms of a grid. An arm that is not in the grid has answered nothing: all its items are missing."""
    one, two = (grid.columns.get(arm) or grid.columns[""] for arm in (base, cand))
    differ = (one.prompt >= 0) & (two.prompt >= 0) & (one.prompt != two.prompt)
    correct, parsed = _counts(grid, one, two, "correct"), _counts(grid, one, two, "parsed")
    worst = np.flatnonzero(differ)
    first = (grid.tasks[grid.task[worst[0]]], str(grid.item_hash[worst[0]])) if worst.size else None
    differing = np.bincount(grid.task[differ], minlength=len(grid.tasks))
    return Pairing(
        pooled=_total(correct),
        tasks={name: PairCounts(**row) for name, row in zip(grid.tasks, correct, strict=True)},
        parsed=_total(parsed),
        mismatches={name: int(k) for name, k in zip(grid.tasks, differing, strict=True) if k},
        first_mismatch=first,
        scores=_scores(grid, (one, two), np.argsort(grid.rank, kind="stable")),
        task_scores={
            name: _scores(grid, (one, two), np.flatnonzero(grid.task == i)) for i, name in enumerate(grid.tasks)
        },
    )


def _counts(grid: Grid, one: Column, two: Column, right: str) -> list[dict[str, int]]:
    """The fields of `PairCounts` for every task. `right`: the flag that counts as right."""
    a, b = one.first[right], two.first[right]
    has_a, has_b, open_ = ~np.isnan(one.mean), ~np.isnan(two.mean), one.open | two.open
    both, neither = has_a & has_b & ~open_, ~(has_a | has_b | open_)
    only_a, only_b = has_a & ~has_b & ~open_, has_b & ~has_a & ~open_
    masks = {
        "n": both, "n11": both & a & b, "n10": both & a & ~b, "n01": both & ~a & b, "n00": both & ~a & ~b,
        "missing_base": only_b | neither, "missing_cand": only_a | neither, "missing_both": neither,
        "base_right_cand_missing": only_a & a, "cand_right_base_missing": only_b & b, "unmeasured": open_,
        "unparsable_base": both & ~one.first["parsed"], "unparsable_cand": both & ~two.first["parsed"],
    }  # fmt: skip
    table = {name: np.bincount(grid.task[mask], minlength=len(grid.tasks)) for name, mask in masks.items()}
    return [{name: int(column[i]) for name, column in table.items()} for i in range(len(grid.tasks))]


def _total(rows: list[dict[str, int]]) -> PairCounts:
    """Sum of the tables of all tasks."""
    if not rows:
        return PairCounts(n=0, n11=0, n10=0, n01=0, n00=0)
    return PairCounts(**{name: sum(row[name] for row in rows) for name in rows[0]})


def _scores(grid: Grid, arms: tuple[Column, Column], order: IntArray) -> Scores:
    """Mean scores in the given order, without items that neither arm answered or that are still open."""
    one, two = arms
    base, cand = one.mean[order], two.mean[order]
    used = ~((np.isnan(base) & np.isnan(cand)) | (one.open | two.open)[order])
    cluster = None if grid.cluster is None else grid.cluster[order][used]
    if cluster is not None and len(np.unique(cluster)) == len(cluster):
        cluster = None  # another task has clusters; here every item stands alone
    return Scores(base[used], cand[used], max(one.repeats, two.repeats), cluster)
