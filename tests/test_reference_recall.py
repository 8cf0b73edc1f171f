"""Look-up exercises: one right value a key, words of the families only, and a share that begins high."""

import random

import pytest

from evalsuite.reference import recall
from evalsuite.reference.examples import RECALL_END, RECALL_START, recall_share


@pytest.mark.parametrize("seed", range(200))
def test_every_pair_of_an_exercise_stands_in_its_text_and_no_word_twice(seed: int):
    text, pairs = recall.exercise(random.Random(seed))
    words = [word for pair in pairs for word in pair]

    assert recall.SMALLEST <= len(pairs) <= recall.LARGEST
    assert len(set(words)) == len(words)
    for key, value in pairs:
        assert key in text
        assert value in text


def test_keys_are_asked_in_another_order_than_they_are_told():
    told = 0
    for seed in range(100):
        text, pairs = recall.exercise(random.Random(seed))
        places = [text.index(key) for key, _ in pairs]
        told += places == sorted(places)

    assert told < 20


def test_exercises_are_most_of_the_beginning_and_few_later():
    assert recall_share(0.0) == RECALL_START
    assert recall_share(0.5) == recall_share(1.0) == RECALL_END
