"""What requests share is found from the first items, never the whole of a context, and costs count it once."""

from evalsuite.engines import GenerateRequest, ScoreRequest
from evalsuite.groups import Size
from evalsuite.harness.sharing import SHARED_BY, SHARED_LEAST, share, size_of

BLOCK = tuple(range(100, 100 + SHARED_LEAST + 8))


def scored(tail: tuple[int, ...], *options: tuple[int, ...]) -> tuple[ScoreRequest, ...]:
    return tuple(ScoreRequest((*BLOCK, *tail), option) for option in options)


def test_a_common_block_is_marked_in_every_request():
    made = share([scored((1, 2), (7,), (8, 9)), scored((3,), (7,))])

    assert {r.shared for item in made for r in item} == {len(BLOCK)}


def test_a_short_common_beginning_is_not_worth_it():
    made = share([[GenerateRequest((1, 2, 3), 4, ())], [GenerateRequest((1, 2, 9), 4, ())]])

    assert [item[0].shared for item in made] == [0, 0]


def test_a_context_is_never_shared_whole():
    made = share([[GenerateRequest(BLOCK, 4, ())], [GenerateRequest((*BLOCK, 5), 4, ())]])

    assert [item[0].shared for item in made] == [len(BLOCK) - 1, len(BLOCK)]


def test_items_that_come_later_do_not_change_what_earlier_ones_say():
    items = [scored((i,), (7,)) for i in range(SHARED_BY)]
    stranger = [ScoreRequest((1, 2, 3), (4,))]
    made = share([*items, stranger])

    assert made[: len(items)] == share(items)
    assert made[-1][0].shared == 0


def test_fewer_items_may_decide():
    items = [scored((i,), (7,)) for i in range(4)]
    stranger = [ScoreRequest((1, 2, 3), (4,))]

    assert share([*items, stranger], by=4)[:4] == share(items)
    assert share([*items, stranger])[0][0].shared == 0


def test_nothing_asked_shares_nothing():
    assert share([]) == []


def test_a_cost_counts_the_shared_block_and_a_common_context_once():
    (item, _) = share([scored((1, 2), (7,), (8, 9)), scored((3, 2), (7,))])

    assert size_of(item) == Size(1, 2 + 1 + 2)
    assert size_of([GenerateRequest((1, 2, 3), 10, ())]) == Size(1, 13)
