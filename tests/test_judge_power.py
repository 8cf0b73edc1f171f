"""Planning: items needed, items without which nothing can be shown, margins that can be certified."""


import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from evalsuite.judge import exact, stats

REQUIRED = {  # margin -> items for psi = 1, 2, 3, 5, 8, 10, 15, 20 %
    0.005: [3809, 7068, 10424, 17214, 27455, 34294, 51406, 68526],
    0.01: [1132, 1901, 2705, 4366, 6901, 8602, 12869, 17143],
    0.02: [378, 563, 752, 1146, 1761, 2178, 3234, 4297],
    0.03: [209, 292, 374, 542, 806, 987, 1449, 1918],
    0.05: [103, 134, 163, 222, 312, 374, 534, 699],
}


@pytest.mark.parametrize("m", REQUIRED)
def test_required_items_are_those_of_the_table(m):
    actual = [stats.n_required(psi, m) for psi in (0.01, 0.02, 0.03, 0.05, 0.08, 0.10, 0.15, 0.20)]

    assert REQUIRED[m] == actual


def test_no_number_of_items_certifies_a_loss_of_the_margin():
    assert stats.n_required(0.05, 0.01, delta=-0.01) == math.inf
    assert stats.n_required(0.05, 0.01, delta=-0.005) == pytest.approx(17285)


def test_fewest_items_without_a_flip_are_those_of_the_table():
    margins = (0.01, 0.02, 0.03, 0.005)

    assert [299, 149, 99, 598] == [stats.n_zero_discordance(m) for m in margins]
    assert [368, 183, 122, 736] == [stats.n_zero_discordance(m, 0.025) for m in margins]
    for m in margins:
        n = stats.n_zero_discordance(m)
        assert (1 - m) ** n <= 0.05 < (1 - m) ** (n - 1)


@given(st.integers(20, 50_000), st.floats(0.005, 0.3))
@settings(max_examples=40, deadline=None)
def test_the_certifiable_margin_is_the_smallest_that_the_items_pay_for(n, psi):
    m = stats.certifiable_margin(n, psi)

    if m is not None:
        assert stats.n_required(psi, m) <= n
        assert stats.n_required(psi, m * 0.999) > n * 0.995


def test_certifiable_margins_are_those_of_the_table_and_none_where_nothing_can_be_certified():
    points = [round(100 * (stats.certifiable_margin(14_042, psi) or 0), 2) for psi in (0.02, 0.05, 0.10, 0.15)]

    assert points == [0.35, 0.55, 0.78, 0.96]
    assert stats.certifiable_margin(3, 0.5) is None
    assert stats.certifiable_margin(0, 0.05) is None


def test_planned_power_is_reached_by_the_exact_test():
    n, m, psi = 374, 0.03, 0.03
    b, c = (np.array(x) for x in zip(*[(b, c) for b, c in itertools.product(range(30), range(30))], strict=True))
    z = exact.tango_z(b.astype(float), c.astype(float), n, -m)
    probability = binom.pmf(b, n, psi / 2) * binom.pmf(c, n - b, psi / 2 / (1 - psi / 2))
    power = float(probability[z >= 1.6449].sum())

    assert n == stats.n_required(psi, m)
    assert 0.89 < power < 0.94


TABLE = {  # (items, psi, margin, drop) -> per cent SAFE by exact enumeration: statistics, section 3.4
    (100, 0.02, 0.01, 0.0): 9.9, (100, 0.15, 0.01, 0.02): 2.6, (250, 0.05, 0.01, 0.0): 16.5,
    (250, 0.02, 0.01, 0.01): 3.0, (1000, 0.02, 0.01, 0.0): 68.4, (1000, 0.05, 0.01, 0.0): 39.8,
    (1000, 0.05, 0.01, 0.005): 16.9, (1000, 0.10, 0.01, 0.01): 5.0, (5000, 0.05, 0.01, 0.0): 93.3,
    (5000, 0.15, 0.01, 0.005): 23.2, (1000, 0.05, 0.02, 0.0): 87.0, (250, 0.15, 0.03, 0.0): 32.0,
}  # fmt: skip


@pytest.mark.parametrize("case", TABLE)
def test_exact_power_is_that_of_the_table(case):
    n, psi, m, drop = case

    assert 100 * stats.exact_power(n, m, psi, -drop) == pytest.approx(TABLE[case], abs=0.6)


def test_power_is_what_drawing_from_the_truth_and_testing_gives():
    rng = np.random.default_rng(0)
    draws = rng.multinomial(60, [0.04, 0.05, 0.91], 400)
    safe = np.mean([stats.exact_p(int(b), int(c), 60, 0.05) <= 0.05 for b, c, _ in draws])

    assert safe == pytest.approx(stats.exact_power(60, 0.05, 0.09, 0.01), abs=0.05)
