"""How sequential runs draw: independent draws in the suite's proportions, orders that only grow, and refusals."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalsuite.errors import RefusedError
from evalsuite.records import DecisionSpec
from evalsuite.sequence import Pool, draw

POPULATION = DecisionSpec(margin=0.02, design="sequential", window=64)
BENCHMARK = DecisionSpec(margin=0.02, design="sequential", window=64, estimand="benchmark")


def pool(*available: int, limit: int | None = None, seed: str = "0:direct") -> Pool:
    return Pool(tuple(f"t{i}" for i in range(len(available))), available, limit, seed)


def test_draws_follow_the_proportions_of_the_suite_and_are_independent():
    order = draw(pool(100_000, 100_000, limit=10_000), POPULATION).order
    firsts = [a for a, b in pairwise(order) if b == 0]

    assert abs(order.count(0) / len(order) - 0.5) < 0.015
    assert abs(firsts.count(0) / len(firsts) - 0.5) < 0.02  # a draw does not depend on the one before
    assert order.count(0) != 10_000  # a shuffled list of fixed shares would have exactly so many


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(1, 30))
def test_no_task_is_drawn_more_often_than_it_has_items(available, limit):
    order = draw(pool(*available, limit=limit), POPULATION).order

    assert all(order.count(i) <= n for i, n in enumerate(available))
    assert len(order) <= sum(min(n, limit) for n in available)


def test_a_benchmark_is_drawn_whole_and_in_random_order():
    order = draw(pool(50, 30, limit=40), BENCHMARK).order

    assert (order.count(0), order.count(1)) == (40, 30)
    assert list(order) != sorted(order)


@pytest.mark.parametrize("rule", [POPULATION, BENCHMARK])
def test_windows_end_every_so_many_draws_and_with_the_order(rule):
    drawn = draw(pool(150, 150), rule)

    assert drawn.ends[0] == 64
    assert drawn.ends[-1] == len(drawn.order)
    assert {b - a for a, b in pairwise(drawn.ends[:-1])} == {64}


def test_an_order_grows_at_its_end_and_its_windows_stay():
    tasks = pool(900, 900, limit=50)
    first = draw(tasks, POPULATION).model_copy(update={"done": {"bf16": 2}})
    longer = draw(tasks, POPULATION, first, more=100)

    assert longer.order[:100] == first.order
    assert longer.ends[: len(first.ends)] == first.ends == (64, 100)
    assert longer.ends[len(first.ends) :] == (164, 200)
    assert longer.done == {"bf16": 2}
    assert draw(tasks, POPULATION, longer, more=10).order[:200] == longer.order


def test_more_than_a_task_holds_is_refused_with_what_is_left():
    tasks = pool(60, 9000, limit=50)
    first = draw(tasks, POPULATION)

    with pytest.raises(RefusedError, match=r"more items can be drawn, not 5,000: then t0 has no item"):
        draw(tasks, POPULATION, first, more=5000)


def test_a_benchmark_cannot_be_given_more_items():
    tasks = pool(50, 50)
    with pytest.raises(RefusedError, match="exactly these items"):
        draw(tasks, BENCHMARK, draw(tasks, BENCHMARK), more=1)


def test_reached_is_what_all_named_arms_have_finished():
    drawn = draw(pool(500, limit=200), POPULATION).model_copy(update={"done": {"a": 3, "b": 1}})

    assert len(drawn.reached("a")) == 192
    assert drawn.reached("a", "b") == drawn.order[:64]
    assert drawn.reached("a", "never") == ()
