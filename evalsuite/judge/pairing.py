"""From samples to paired counts: each item of the plan, as one arm answered it and as the other did.

In: the planned item hashes of each task and the rows of `samples.parquet` (any order). Out: a `Grid` for each mode,
that is one row an item and one column an arm, and from any two of its columns a `Pairing` with the paired 2x2 tables.

Items are paired by (task, item hash), never by position. An item can be:

    answered     a row, and for log-likelihood tasks only finite log-likelihoods
    missing      the arm's cell ended or failed without such a row: counted, and at its worst in the verdict
    unmeasured   the arm's cell has not ended: the plan is not complete
    duplicate    the same content a second time in the task: the first stands, the others are dropped and counted

A truncated or unparsable answer is an answer, and wrong. Several repeats of an item are averaged: the item stays the
unit. If two arms saw different prompts for an item, they are not comparable and no number is given.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalsuite.judge.exact import FloatArray, IntArray
from evalsuite.records import Mode, PairCounts

BoolArray = NDArray[np.bool_]
FLAGS = ("correct", "parsed", "truncated", "tie")

COLUMNS = (
    "task", "item_hash", "prompt_hash", "arm", "mode", "repeat", "position", "correct", "parsed", "truncated",
    "n_output_tokens", "choice_loglikelihoods", "tie", "prediction",
    "gold_loglikelihood", "cluster",
)  # fmt: skip
"""Columns of `samples.parquet` that judging reads; loading only these keeps the texts out of memory."""


@dataclass(frozen=True)
class Column:
    """One arm's answers to the items of a grid, in the grid's order."""

    mean: FloatArray
    """Share of repeats answered rightly; NaN where the item has no answer."""
    first: dict[str, BoolArray]
    """`correct`, `parsed`, `truncated`, `tie` of the first repeat (False without an answer)."""
    prompt: IntArray
    """Code of the prompt hash; -1 without an answer."""
    answer: IntArray | None
    """Code of the first repeat's answer, 0 for an unparsable one, -1 without a row; None: not in the samples."""
    tokens: FloatArray
    """Output tokens of the first repeat; NaN where unknown."""
    generated: BoolArray
    """The first repeat is text, not a choice by log-likelihood."""
    gold: FloatArray
    """Log-likelihood of the right option, first repeat; NaN for generated answers."""
    soft: FloatArray
    """Its probability among the options."""
    open: BoolArray
    """Not answered as often as planned because the arm's cell has not ended."""
    repeats: int
    """Most repeats of any item."""
    duplicates: int
    """Rows dropped because the arm had answered the item already."""


@dataclass(frozen=True)
class Grid:
    """All items of one mode in the seeded order, task by task, with every arm's answers."""

    mode: Mode
    tasks: tuple[str, ...]
    """Tasks that have the mode."""
    task: IntArray
    """Index into `tasks` for each item."""
    item_hash: NDArray[np.object_]
    position: IntArray
    """Place in the seeded order (of its task)."""
    rank: IntArray
    """Place among the items of all tasks: the draw of a sequential run; `position` in a fixed plan."""
    cluster: IntArray | None
    """Items of one cluster share a number; None where every item stands alone."""
    duplicates: dict[str, int]
    """Task -> planned items dropped because an earlier one has the same content."""
    unplanned: int
    """Rows of the mode whose item is not in the plan; they are ignored."""
    columns: dict[str, Column] = field(repr=False)
    """Arm id -> answers; "" stands for any arm without a row."""


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


def lay_out(
    planned: Mapping[str, Sequence[str]],
    samples: pd.DataFrame,
    mode: Mode,
    open_cells: Mapping[tuple[str, str], int] | None = None,
    order: Sequence[int] | None = None,
) -> Grid:
    """Lay the samples of one mode out by planned item.

    `planned`: task -> item hashes in the seeded order. `samples`: columns `COLUMNS` (`choice_loglikelihoods` and
    `prediction` may be absent), of any modes and arms, in any order. `open_cells`: (arm, task) -> planned repeats, for
    cells that have not ended. `order`: of a sequential run, for each draw the index of its task in `planned`.
    """
    names = tuple(planned)
    task = np.repeat(np.arange(len(names)), [len(planned[name]) for name in names])
    position = np.concatenate([np.arange(len(planned[name])) for name in names]) if names else np.zeros(0, np.int64)
    rank = position
    if order is not None and len(order):
        # The k-th item of a task stands where the order draws that task for the k-th time: draws, sorted by task.
        rank = np.argsort(np.asarray(order), kind="stable")
    hashes = np.array([item for name in names for item in planned[name]], dtype=object)
    codes, known = pd.factorize(hashes)
    key = task * (len(known) + 1) + codes
    _, first = np.unique(key, return_index=True)
    kept = np.zeros(len(key), dtype=bool)
    kept[first] = True
    lost = np.bincount(task[~kept], minlength=len(names))
    task, position, rank, hashes, key = task[kept], position[kept], rank[kept], hashes[kept], key[kept]

    rows = samples.loc[samples["mode"] == mode]
    row_task = pd.Index(names).get_indexer(pd.Index(rows["task"]))
    row_hash = pd.Index(known).get_indexer(pd.Index(rows["item_hash"]))
    row_key = np.where((row_task >= 0) & (row_hash >= 0), row_task * (len(known) + 1) + row_hash, -1)
    item = pd.Index(key).get_indexer(pd.Index(row_key))
    columns = _columns(rows, item, _owed(open_cells or {}, names, task))
    repeated = {n: int(k) for n, k in zip(names, lost, strict=True) if k}
    return Grid(
        mode, names, task, hashes, position, rank, _clusters(rows, item, len(key)), repeated,
        int(np.count_nonzero(item < 0)), columns,
    )  # fmt: skip


def _clusters(rows: pd.DataFrame, item: IntArray, n: int) -> IntArray | None:
    """A number for each of the `n` items; those without a cluster get one of their own."""
    if "cluster" not in rows or not rows["cluster"].notna().any():
        return None
    named = rows["cluster"].notna().to_numpy(bool) & (item >= 0)
    codes, _ = pd.factorize(rows["task"].astype(str) + "/" + rows["cluster"].astype(str))
    cluster = n + np.arange(n)
    cluster[item[named]] = codes[named]
    return cluster


def _owed(open_cells: Mapping[tuple[str, str], int], names: tuple[str, ...], task: IntArray) -> dict[str, IntArray]:
    """Arm -> repeats that each item will have once the arm's open cells end; 0 where the cell has ended."""
    owed: dict[str, IntArray] = {"": np.zeros(len(task), np.int64)}  # "": every arm that has no open cell
    for (arm, name), repeats in open_cells.items():
        if name in names:
            owed[arm] = np.where(task == names.index(name), repeats, owed.get(arm, owed[""]))
    return owed


def _columns(rows: pd.DataFrame, item: IntArray, owed: dict[str, IntArray]) -> dict[str, Column]:
    """Split rows by arm. `item`: place in the grid for each row, -1 where unplanned."""
    answered = (item >= 0) & finite(rows)
    codes, names = pd.factorize(rows["arm"])
    values: dict[str, NDArray[Any]] = {name: _flags(rows[name]) for name in FLAGS}
    values |= {name: rows[name].to_numpy(np.int64) for name in ("repeat", "position")}
    values["item"], values["prompt"] = item, pd.factorize(rows["prompt_hash"])[0].astype(np.int64)
    values["generated"], values["gold"], values["soft"] = _choices(rows)
    if "prediction" in rows:
        values["answer"] = pd.factorize(rows["prediction"])[0].astype(np.int64) + 1
    values["tokens"] = pd.to_numeric(rows["n_output_tokens"]).to_numpy(np.float64, na_value=np.nan)
    arms = [str(name) for name in names]
    columns = {}
    for arm in dict.fromkeys([*arms, *owed]):
        chosen = answered & (codes == arms.index(arm)) if arm in arms else np.zeros(len(item), bool)
        columns[arm] = _column({k: v[chosen] for k, v in values.items()}, owed.get(arm, owed[""]))
    return columns


def _column(rows: dict[str, NDArray[Any]], owed: IntArray) -> Column:
    """One arm's rows onto the grid: drop duplicates, average repeats."""
    n = len(owed)
    # Sorting makes "the first" independent of the order in which rows were read.
    order = np.lexsort((rows["correct"], rows["position"], rows["repeat"], rows["item"]))
    rows = {name: values[order] for name, values in rows.items()}
    item, repeat = rows["item"], rows["repeat"]
    new_item = np.diff(item, prepend=-1) != 0
    fresh = new_item | (np.diff(repeat, prepend=-1) != 0)
    tries = np.bincount(item[fresh], minlength=n)
    wins = np.bincount(item[fresh], weights=rows["correct"][fresh].astype(np.float64), minlength=n)

    def place(name: str, absent: bool | float) -> NDArray[Any]:
        """The first repeat's value for every item of the grid."""
        out = np.full(n, absent, rows[name].dtype)
        out[item[new_item]] = rows[name][new_item]
        return out

    return Column(
        mean=np.where(tries > 0, wins / np.maximum(tries, 1), np.nan),
        first={name: place(name, False) for name in FLAGS},
        prompt=place("prompt", -1),
        answer=place("answer", -1) if "answer" in rows else None,
        tokens=place("tokens", np.nan),
        generated=place("generated", False),
        gold=place("gold", np.nan),
        soft=place("soft", np.nan),
        open=tries < owed,
        repeats=int(tries.max()) if n else 0,
        duplicates=int(np.count_nonzero(~fresh)),
    )


def _flags(column: "pd.Series[Any]") -> BoolArray:
    """A column of true, false and unknown as an array; unknown counts as false."""
    return column.to_numpy(bool) if column.dtype == bool else column.isin([True]).to_numpy(bool)


def _choices(rows: pd.DataFrame) -> tuple[BoolArray, FloatArray, FloatArray]:
    """(is text, log-likelihood of the right option, its probability among the options) of each row."""
    gold, soft = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    if "choice_loglikelihoods" not in rows or "gold_loglikelihood" not in rows:
        return np.ones(len(rows), bool), gold, soft
    scored = rows["choice_loglikelihoods"].notna().to_numpy(bool)
    if scored.any():
        gold[scored] = pd.to_numeric(rows["gold_loglikelihood"])[scored].to_numpy(np.float64, na_value=np.nan)
        lists = rows["choice_loglikelihoods"].to_numpy()[scored]
        lengths = np.array([max(1, len(one)) for one in lists])
        flat = np.concatenate([np.asarray(one, np.float64) if len(one) else np.array([np.nan]) for one in lists])
        starts = np.append(0, np.cumsum(lengths)[:-1])
        top = np.maximum.reduceat(flat, starts)
        with np.errstate(invalid="ignore", over="ignore"):
            total = np.add.reduceat(np.exp(flat - np.repeat(top, lengths)), starts)
            soft[scored] = np.exp(gold[scored] - top) / total
    return ~scored, gold, soft


def finite(rows: pd.DataFrame) -> BoolArray:
    """False for rows that are no answer: no `correct`, or a log-likelihood that is NaN or infinite."""
    good: BoolArray = rows["correct"].notna().to_numpy(bool, copy=True)
    if "choice_loglikelihoods" not in rows:
        return good
    scored = rows["choice_loglikelihoods"].notna().to_numpy(bool)
    if scored.any():
        lists = rows["choice_loglikelihoods"].to_numpy()[scored]
        lengths = np.array([len(one) for one in lists])
        flat = np.concatenate([np.asarray(one, np.float64) for one in lists])
        bad = np.add.reduceat(np.append(~np.isfinite(flat), False), np.append(0, np.cumsum(lengths)[:-1]))
        good[scored] &= (bad == 0) & (lengths > 0)
    return good


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
    return Scores(base[used], cand[used], max(one.repeats, two.repeats), cluster)
