from hypothesis import given
from hypothesis import strategies as st

from evalsuite.groups import WINDOW, Size, cut, seeded_order

sizes = st.lists(st.builds(Size, rows=st.integers(1, 5), tokens=st.integers(1, 400)), max_size=1200)


@given(sizes, st.integers(100, 5000), st.booleans())
def test_every_item_is_in_exactly_one_group(items, budget, noise):
    groups = cut(items, budget, noise=noise)

    assert sorted(i for group in groups for i in group) == list(range(len(items)))


@given(sizes, st.integers(100, 5000))
def test_a_group_of_more_than_one_item_keeps_its_token_budget(items, budget):
    for group in cut(items, budget):
        cost = sum(items[i].rows for i in group) * max(items[i].tokens for i in group)

        assert len(group) == 1 or cost <= budget


@given(sizes, st.integers(100, 5000), st.booleans())
def test_groups_never_cross_a_window_and_windows_follow_each_other(items, budget, noise):
    windows = [{i // WINDOW for i in group} for group in cut(items, budget, noise=noise)]

    assert all(len(window) == 1 for window in windows)
    assert [min(w) for w in windows] == sorted(min(w) for w in windows)


def test_the_noise_arm_has_other_batches_in_another_order():
    items = [Size(1, 50 + i % 7) for i in range(300)]

    assert cut(items, 4000, noise=True) != cut(items, 4000)
    assert max(len(g) for g in cut(items, 4000, noise=True)) <= max(len(g) for g in cut(items, 4000)) // 2 + 1


def test_the_seeded_order_depends_on_seed_and_name_alone():
    assert seeded_order(100, 0, "a") == seeded_order(100, 0, "a")
    assert seeded_order(100, 0, "a") != seeded_order(100, 1, "a") != seeded_order(100, 1, "b")
