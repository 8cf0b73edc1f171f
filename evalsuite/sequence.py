"""The order in which a sequential run draws the items of one mode, over all its tasks, and where it looks.

A sequential run may stop after any window, so what it has drawn by then must be a random sample of the whole question,
not the first tasks of the suite. Two ways to draw, by what the verdict is about:

    population   every draw picks its task at random, in the proportions of the suite, and takes the next item of that
                 task's own seeded order. Draws are then independent and alike, which is what the error rate of the
                 e-process rests on; a shuffled list of fixed shares would not be. The order ends with the first draw
                 that finds its task empty.
    benchmark    one permutation of exactly the suite's items: drawing without replacement.

An order depends on the seed alone and only ever grows at its end, so a run can be continued with more items and finds
its windows, hence its batches, unchanged.
"""

import random
from collections.abc import Sequence as Seq
from dataclasses import dataclass

from evalsuite.errors import RefusedError
from evalsuite.records import DecisionSpec, Sequence


@dataclass(frozen=True, slots=True)
class Pool:
    """What can be drawn in one mode."""

    tasks: tuple[str, ...]
    available: tuple[int, ...]
    """Distinct items of each task."""
    limit: int | None
    """Items a task at most: sets the proportions of the tasks and, without `more`, the length of the order."""
    seed: str

    @property
    def shares(self) -> tuple[int, ...]:
        """Items of each task in the suite's mix."""
        return tuple(n if self.limit is None else min(n, self.limit) for n in self.available)


def draw(pool: Pool, rule: DecisionSpec, before: Sequence | None = None, more: int = 0) -> Sequence:
    """A mode's order: a new one, the one of a stored run (`before`), or that one with `more` items at its end.

    Windows are `rule.window` items long; those of `before` stay as they are. RefusedError if a task has too few items
    left, or the verdict is about exactly the items drawn already.
    """
    if before is not None and not more:
        return before
    if before is not None and rule.estimand == "benchmark":
        raise RefusedError("The verdict is about exactly these items (estimand: benchmark), so none can be added.")
    start = 0 if before is None else len(before.order)
    wanted = sum(pool.shares) if before is None else start + more
    order = _permutation(pool) if rule.estimand == "benchmark" else _picks(pool, wanted)
    if before is not None and len(order) < wanted:
        raise RefusedError(
            f"{len(order) - start:,} more items can be drawn, not {more:,}: then {_emptied(pool, order)} has no item "
            "left. Ask for fewer, or make a fresh run on other items."
        )
    if before is not None and order[:start] != before.order:
        raise RefusedError("The tasks offer other items than when this run began; make a fresh run.")
    ends = [] if before is None else list(before.ends)
    ends += [min(end, len(order)) for end in range(start + rule.window, len(order) + rule.window, rule.window)]
    return Sequence(order=order, ends=tuple(ends), done={} if before is None else before.done)


def _permutation(pool: Pool) -> tuple[int, ...]:
    order = [task for task, share in enumerate(pool.shares) for _ in range(share)]
    random.Random(f"{pool.seed}:order").shuffle(order)
    return tuple(order)


def _picks(pool: Pool, wanted: int) -> tuple[int, ...]:
    rng, left = random.Random(f"{pool.seed}:order"), list(pool.available)
    order: list[int] = []
    tasks = range(len(pool.tasks))
    while len(order) < wanted:
        task = rng.choices(tasks, pool.shares)[0]
        if not left[task]:
            break
        left[task] -= 1
        order.append(task)
    return tuple(order)


def _emptied(pool: Pool, order: Seq[int]) -> str:
    """The task that the next draw would have needed: one whose items are all drawn."""
    return next(name for i, name in enumerate(pool.tasks) if order.count(i) == pool.available[i])

