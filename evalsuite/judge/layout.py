"""Samples laid out: each item of the plan, as every arm answered it.

In: the planned item hashes of each task and the rows of `samples.parquet` (any order). Out: a `Grid` for each mode: one
row an item, one column an arm.

An item can be:

    answered     a row, and for log-likelihood tasks only finite log-likelihoods
    missing      the arm's cell ended or failed without such a row: counted, and at its worst in the verdict
    unmeasured   the arm's cell has not ended: the plan is not complete
    duplicate    the same content a second time in the task: the first stands, the others are dropped and counted

A truncated or unparsable answer is an answer, and wrong. Several repeats of an item are averaged: the item stays the
unit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalsuite.judge.exact import FloatArray, IntArray
from evalsuite.records import Mode

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
    cluster = len(codes) + np.arange(n)
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
