"""Exact tests, intervals: golden numbers (statistics, section 12), brute force, statsmodels, properties."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from evalsuite.judge import exact, stats

PUBLISHED_TANGO = [  # (a, x12, x21, d), level, interval: ratesci's own tests; c = x12, b = x21
    ((4, 9, 3, 16), 0.95, (-0.027, 0.390)),
    ((43, 0, 1, 0), 0.90, (-0.096, 0.037)),
    ((53, 16, 8, 9), 0.95, (-0.020, 0.207)),
    ((1, 1, 7, 12), 0.95, (-0.517, -0.026)),
    ((8, 3, 1, 2), 0.95, (-0.1670, 0.4327)),
    ((7, 25, 2, 68), 0.95, (0.139, 0.321)),
]
PUBLISHED_RATIO = [
    ((446, 5, 16, 690), 0.90, (0.958, 0.992)),
    ((43, 0, 1, 0), 0.90, (0.904, 1.039)),
    ((1, 1, 7, 12), 0.95, (0.0653, 0.9069)),
    ((8, 3, 1, 2), 0.95, (0.776, 2.033)),
]
OWN = [  # b, c, n, m, z, half of CI90, p_safe (plain, Berger-Boos), p_unsafe (plain, Berger-Boos)
    (0, 0, 1000, 0.01, 3.17821, (-0.00270, 0.00270), (0.00075, 0.00014), (1, 1)),
    (5, 5, 1000, 0.01, 2.49723, (-0.00585, 0.00585), (0.00631, 0.00494), (0.99773, 0.99784)),
    (10, 10, 1000, 0.01, 2.04247, (-0.00782, 0.00782), (0.02072, 0.02002), (0.98993, 0.99003)),
    (25, 25, 1000, 0.02, 2.66544, (-0.01191, 0.01191), (0.00391, 0.00371), (0.99834, 0.99781)),
    (12, 3, 500, 0.02, 0.25459, (-0.03279, -0.00581), (0.45669, 0.45680), (0.62004, 0.62015)),
    (30, 10, 1319, 0.01, -1.11142, (-0.02367, -0.00754), (0.88083, 0.86800), (0.14098, 0.14079)),
    (60, 50, 1319, 0.02, 1.54112, (-0.02086, 0.00556), (0.06246, 0.06166), (0.94555, 0.93947)),
    (125, 125, 5000, 0.01, 3.10887, (-0.00523, 0.00523), (0.00098, 0.00099), (0.99959, 0.99925)),
    (40, 5, 1319, 0.01, -3.56661, (-0.03565, -0.01884), (0.99983, 0.99993), (0.00058, 0.00050)),
]




@pytest.mark.parametrize(("table", "level", "interval"), PUBLISHED_TANGO)
def test_score_interval_is_the_published_one(table, level, interval):
    both_right, c, b, both_wrong = table

    low, high = stats.tango_ci(b, c, both_right + b + c + both_wrong, level)

    assert interval == (pytest.approx(low, abs=5.1e-4), pytest.approx(high, abs=5.1e-4))


@pytest.mark.parametrize(("table", "level", "interval"), PUBLISHED_RATIO)
def test_recovery_interval_is_the_published_one(table, level, interval):
    both_right, c, b, both_wrong = table

    actual = stats.recovery_ci(both_right, c, b, both_wrong, level)

    assert interval == pytest.approx(actual, abs=5.1e-4)


@pytest.mark.parametrize("row", OWN, ids=lambda row: str(row[:4]))
def test_golden_statistics_hold_to_the_printed_digits(row):
    b, c, n, m, z, interval, p_safe, p_unsafe = row

    assert z == pytest.approx(stats.tango_z(b, c, n, -m), abs=5e-6)
    assert interval == pytest.approx(stats.tango_ci(b, c, n), abs=5e-6)
    assert p_safe == pytest.approx([stats.exact_p(b, c, n, m, gamma=g) for g in (0.0, 1e-4)], abs=5e-6)
    assert p_unsafe == pytest.approx([stats.exact_p(b, c, n, m, "unsafe", gamma=g) for g in (0.0, 1e-4)], abs=5e-6)


@pytest.mark.parametrize(("n", "p"), [(10, 0.90438), (298, 0.05004), (299, 0.04954)])
def test_no_flip_gives_the_p_value_of_seeing_none_at_the_margin(n, p):
    assert p == pytest.approx(stats.exact_p(0, 0, n, 0.01), abs=5e-6)
    assert 0.99**n == pytest.approx(stats.exact_p(0, 0, n, 0.01), rel=1e-9)


@given(n=st.integers(1, 3000), m=st.sampled_from([0.005, 0.01, 0.02, 0.03, 0.1]))
@settings(max_examples=30, deadline=None)
def test_zero_discordance_is_never_cheaper_than_chance_allows(n, m):
    assert stats.exact_p(0, 0, n, m) >= (1 - m) ** n * (1 - 1e-12)


def tail_by_enumeration(b, c, n, d0, grid=200):
    """P-value of the swapped-in table by adding up the trinomial over all tables: slow and obvious."""
    observed = stats.tango_z(b, c, n, d0)
    tables = [(i, j) for i in range(n + 1) for j in range(n + 1 - i)]
    extreme = [(i, j) for i, j in tables if stats.tango_z(i, j, n, d0) >= observed - 1e-9]
    best = 0.0
    for psi in abs(d0) + (1 - abs(d0)) * np.linspace(0, 1, grid) ** 2:
        p10, p01 = (psi - d0) / 2, (psi + d0) / 2
        total = sum(
            math.comb(n, i) * math.comb(n - i, j) * p10**i * p01**j * max(0.0, 1 - psi) ** (n - i - j)
            for i, j in extreme
        )
        best = max(best, total)
    return min(1.0, best)


@pytest.mark.parametrize(("b", "c", "n", "m"), [(0, 0, 12, 0.1), (1, 2, 14, 0.05), (3, 1, 15, 0.02), (0, 4, 13, 0.2),
                                                (5, 0, 16, 0.05), (16, 0, 16, 0.05), (0, 16, 16, 0.3)])  # fmt: skip
def test_exact_p_is_the_sum_over_all_tables(b, c, n, m):
    assert tail_by_enumeration(b, c, n, -m) == pytest.approx(stats.exact_p(b, c, n, m), abs=1e-9)
    assert tail_by_enumeration(c, b, n, m) == pytest.approx(stats.exact_p(b, c, n, m, "unsafe"), abs=1e-9)


def first_rejected(side, row, n, m, alpha):
    """Smallest number of better answers (SAFE) or worse ones (UNSAFE) that rejects beside `row` of the other kind."""
    low, high = 0, n - row + 1
    while low < high:
        middle = (low + high) // 2
        b, c = (row, middle) if side == "safe" else (middle, row)
        if stats.settled_p(b, c, n, m, side, alpha=alpha) <= alpha:
            high = middle
        else:
            low = middle + 1
    return low


@pytest.mark.parametrize("side", ["safe", "unsafe"])
def test_the_error_rate_holds_by_enumeration_at_every_share_of_flips(side):
    n, m, alpha = 40, 0.05, 0.05
    pairs = [(row, k) for row in range(n + 1) for k in range(first_rejected(side, row, n, m, alpha), n + 1 - row)]
    b, c = np.array(pairs if side == "safe" else [(k, row) for row, k in pairs]).T
    rates = []
    beyond = (m, 0.08, 0.15) if side == "safe" else (m, 0.02, -0.1)  # losses for which that verdict would be false
    for loss in beyond:
        for psi in np.linspace(abs(loss), 0.6, 23):
            p10, p01 = (psi + loss) / 2, (psi - loss) / 2
            rates.append(float(np.sum(binom.pmf(b, n, p10) * binom.pmf(c, n - b, p01 / (1 - p10)))))

    assert max(rates) <= alpha
    assert max(rates) > 0.03  # and the test is not needlessly timid


@given(st.integers(5, 60), st.data())
@settings(max_examples=40, deadline=None)
def test_p_safe_falls_with_improvements_and_rises_with_regressions(n, data):
    b = data.draw(st.integers(0, n - 1))
    c = data.draw(st.integers(0, n - 1 - b))
    m = data.draw(st.sampled_from([0.01, 0.02, 0.05, 0.2]))
    p = stats.exact_p(b, c, n, m)

    assert stats.exact_p(b, c + 1, n, m) <= p + 1e-12
    assert stats.exact_p(b + 1, c, n, m) >= p - 1e-12


@given(st.integers(1, 400), st.data())
@settings(max_examples=60, deadline=None)
def test_safe_and_unsafe_are_never_both_shown(n, data):
    b = data.draw(st.integers(0, n))
    c = data.draw(st.integers(0, n - b))
    m = data.draw(st.sampled_from([0.005, 0.01, 0.03, 0.1, 0.4]))

    assert not (stats.exact_p(b, c, n, m) < 0.5 and stats.exact_p(b, c, n, m, "unsafe") < 0.5)


@given(st.integers(1, 5000), st.data())
@settings(max_examples=60, deadline=None)
def test_swapping_the_arms_mirrors_statistic_and_interval(n, data):
    b = data.draw(st.integers(0, n))
    c = data.draw(st.integers(0, n - b))
    low, high = stats.tango_ci(b, c, n)

    assert pytest.approx(-stats.tango_z(b, c, n, -0.01), abs=1e-9) == stats.tango_z(c, b, n, 0.01)
    assert pytest.approx((-high, -low), abs=1e-9) == stats.tango_ci(c, b, n)
    assert low <= (c - b) / n <= high


@given(st.integers(0, 300), st.integers(0, 300))
@settings(max_examples=50, deadline=None)
def test_without_a_margin_the_score_test_is_mcnemars(b, c):
    expected = (c - b) / math.sqrt(b + c) if b + c else 0.0

    assert pytest.approx(expected, abs=1e-9) == stats.tango_z(b, c, 1000, 0.0)


def test_the_statistic_takes_arrays():
    b, c = np.array([0.0, 12.0]), np.array([0.0, 3.0])

    assert [stats.tango_z(0, 0, 500, -0.02), stats.tango_z(12, 3, 500, -0.02)] == list(stats.tango_z(b, c, 500, -0.02))


def test_a_finer_grid_is_used_near_alpha_and_never_lowers_p():
    coarse = stats.exact_p(0, 0, 298, 0.01)

    assert stats.settled_p(0, 0, 298, 0.01, "safe", alpha=0.05) >= coarse
    assert stats.settled_p(5, 5, 1000, 0.01, "safe", alpha=0.05) == stats.exact_p(5, 5, 1000, 0.01)


def test_the_work_of_exact_p_grows_slower_than_the_items():
    p10 = (0.01 + np.linspace(0, 1, 200) ** 2) / 2.02
    terms = [len(exact._rows_that_matter(n, p10)[0]) for n in (1000, 14_042)]

    assert terms[1] < 130_000  # of 2.8 million: what makes 14,042 items take less than 100 ms
    assert terms[1] / terms[0] < 4.5


def test_no_items_leave_everything_open():
    assert stats.exact_p(0, 0, 0, 0.01) == 1.0
    assert stats.tango_ci(0, 0, 0) == (-1.0, 1.0)
    assert stats.wilson(0, 0) == (0.0, 1.0)
    assert stats.mcnemar_exact(0, 0) == 1.0


@pytest.mark.parametrize("call", [
    lambda: stats.exact_p(0, 0, 10, 0.0), lambda: stats.exact_p(0, 0, 10, 0.5), lambda: stats.exact_p(6, 5, 10, 0.01),
    lambda: stats.exact_p(-1, 0, 10, 0.01), lambda: stats.n_required(0.05, 0.6), lambda: stats.n_required(0, 0.01),
    lambda: stats.n_required(0.05, 0.01, alpha=0.5), lambda: stats.n_zero_discordance(0.0),
    lambda: stats.tango_ci(3, 3, 5), lambda: stats.design_mixture(0.01, 0.0),
])  # fmt: skip
def test_impossible_arguments_are_refused(call):
    with pytest.raises(ValueError, match=r"."):
        call()


def test_mcnemar_is_the_published_one():
    assert pytest.approx(0.0703, abs=5e-5) == stats.mcnemar_exact(7, 1, "two-sided")


@given(st.integers(0, 60), st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_mcnemar_agrees_with_scipy_and_statsmodels(b, c):
    from statsmodels.stats.contingency_tables import mcnemar

    if b + c:
        for alternative in ("greater", "less", "two-sided"):
            expected = binomtest(b, b + c, 0.5, alternative).pvalue
            assert pytest.approx(expected, rel=1e-9) == stats.mcnemar_exact(b, c, alternative)
        assert pytest.approx(mcnemar([[5, b], [c, 5]]).pvalue, rel=1e-9) == stats.mcnemar_exact(b, c, "two-sided")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_holm_agrees_with_statsmodels(p):
    from statsmodels.stats.multitest import multipletests

    assert pytest.approx(list(multipletests(p, method="holm")[1])) == stats.holm(p)


def test_holm_and_the_poisson_binomial_give_the_golden_numbers():
    assert pytest.approx([0.03, 0.06, 0.06, 0.02]) == stats.holm([0.01, 0.04, 0.03, 0.005])
    assert pytest.approx([0.135, 0.465, 0.365, 0.035]) == list(stats.poisson_binomial([0.1, 0.5, 0.7]))
    assert pytest.approx(binom.pmf(range(21), 20, 0.3)) == list(stats.poisson_binomial([0.3] * 20))
    assert stats.holm([]) == []


@given(st.integers(1, 500), st.data())
@settings(max_examples=40, deadline=None)
def test_wilson_agrees_with_statsmodels(n, data):
    from statsmodels.stats.proportion import proportion_confint

    k = data.draw(st.integers(0, n))

    assert pytest.approx(proportion_confint(k, n, alpha=0.1, method="wilson"), abs=1e-9) == stats.wilson(k, n)
