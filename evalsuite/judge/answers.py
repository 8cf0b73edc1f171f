"""A run's samples as sums that can be resampled: what each arm's answers to the same questions cost in tokens.

Only questions that every arm answered with text are used, so all figures are paired. The unit of resampling is the
item with all its repeats, or the cluster of items where the task has clusters. Resampling a unit is multiplying its
row of sums by how often it was drawn: ten thousand draws are a few matrix products.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from evalsuite.judge.exact import FloatArray, IntArray

FIELDS = ("n", "tokens", "correct", "wasted", "truncated", "right_base", "right_arm")
"""Sums kept of each unit and arm. `wasted`: tokens of wrong or cut answers. `right_base`, `right_arm`: tokens of the
baseline and of the arm in answers that both got right."""
N, TOKENS, CORRECT, WASTED, TRUNCATED, RIGHT_BASE, RIGHT_ARM = range(len(FIELDS))
CHUNK = 2_000_000
"""Drawn units held at once."""
_KEY = ["task", "item_hash", "repeat"]


@dataclass(frozen=True)
class Answers:
    """The answers of one mode to questions that all arms answered."""

    tasks: tuple[str, ...]
    arms: tuple[str, ...]
    """The baseline first."""
    task: IntArray
    """Index into `tasks` of each unit."""
    sums: FloatArray
    """(units, arms, `FIELDS`)."""

    def totals(self) -> FloatArray:
        """(tasks, arms, `FIELDS`): everything counted once."""
        return np.stack([self.sums[self.task == i].sum(axis=0) for i in range(len(self.tasks))])

    def resampled(self, draws: int, seed: int) -> FloatArray:
        """(tasks, draws, arms, `FIELDS`): units drawn with replacement within each task, for all arms alike."""
        rng = np.random.default_rng(seed)
        made = np.empty((len(self.tasks), draws, *self.sums.shape[1:]))
        for i in range(len(self.tasks)):
            own = self.sums[self.task == i]
            units, flat = len(own), own.reshape(len(own), -1)
            step = max(1, CHUNK // units)
            for start in range(0, draws, step):
                rows = min(step, draws - start)
                drawn = rng.integers(0, units, (rows, units)) + units * np.arange(rows)[:, None]
                weights = np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units)
                made[i, start : start + rows] = (weights.astype(np.float64) @ flat).reshape(rows, *own.shape[1:])
        return made


def gather(samples: pd.DataFrame, arms: Sequence[str], mode: str) -> Answers | None:
    """The answers of `arms` (the baseline first) in one mode; arms without any are left out, None without a common one.

    `samples`: columns `arm, task, mode, repeat, item_hash, correct, truncated, n_output_tokens`, and `cluster` where
    there is one; rows in any order. A second row of the same answer is dropped, as everywhere.
    """
    own = samples.loc[(samples["mode"] == mode) & samples["n_output_tokens"].notna() & samples["arm"].isin(arms)]
    own = own.drop_duplicates(["arm", *_KEY])
    present = [arm for arm in arms if (own["arm"] == arm).any()]
    if not present or present[0] != arms[0]:
        return None
    own = own.loc[own.groupby(_KEY)["arm"].transform("size") == len(present)].sort_values([*_KEY, "arm"])
    if own.empty:
        return None
    place = np.argsort(np.argsort(present))  # rows come by name of the arm
    size = (len(own) // len(present), len(present))
    tokens, correct, cut = (
        own[name].to_numpy(dtype=np.float64).reshape(size)[:, place]
        for name in ("n_output_tokens", "correct", "truncated")
    )
    both = correct * correct[:, :1]
    rows = np.stack([
        np.ones(size), tokens, correct, tokens * np.maximum(1 - correct, cut), cut, both * tokens[:, :1], both * tokens,
    ], axis=2)  # fmt: skip
    heads = own.iloc[:: len(present)]
    unit = heads["item_hash"]
    if "cluster" in heads:
        unit = heads["cluster"].astype("object").where(heads["cluster"].notna(), "item " + unit.astype("object"))
    names, task = np.unique(heads["task"].to_numpy(dtype=object).astype(str), return_inverse=True)
    codes = pd.MultiIndex.from_arrays([task, unit.astype(str)]).factorize()[0]
    sums = np.zeros((int(codes.max()) + 1, *rows.shape[1:]))
    np.add.at(sums, codes, rows)
    unit_task = np.zeros(len(sums), np.int64)
    unit_task[codes] = task
    return Answers(tuple(str(name) for name in names), tuple(present), unit_task, sums)
