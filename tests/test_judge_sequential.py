"""Betting, confidence sequences, means over samples and clusters: golden numbers, enumeration, properties."""


import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from evalsuite.judge import stats

OWN = [  # b, c, n, m, lnE safe, lnE unsafe, 90 % confidence sequence
    (0, 0, 1000, 0.01, 6.4745, -1.6173, (-0.00604, 0.00604)),
    (5, 5, 1000, 0.01, 2.1331, -1.7150, (-0.01205, 0.01205)),
    (10, 10, 1000, 0.01, 1.4677, -1.8022, (-0.01518, 0.01518)),
    (25, 25, 1000, 0.02, 3.2807, -3.7695, (-0.01924, 0.01924)),
    (12, 3, 500, 0.02, -0.7867, -1.0478, (-0.04193, 0.00343)),
    (30, 10, 1319, 0.01, -1.6707, 0.3885, (-0.03025, -0.00120)),
    (60, 50, 1319, 0.02, -0.2750, -3.6988, (-0.03154, 0.01573)),
    (125, 125, 5000, 0.01, 4.4295, -4.4209, (-0.00850, 0.00850)),
    (40, 5, 1319, 0.01, -2.8923, 4.2760, (-0.04232, -0.01258)),
]
HALF = (np.array([0.5]), np.array([1.0]))
MARGINS = st.sampled_from([0.01, 0.02, 0.05])


@st.composite
def tables(draw, most=200):
    n = draw(st.integers(0, most))
    b = draw(st.integers(0, n))
    return n, b, draw(st.integers(0, n - b))


@pytest.mark.parametrize("row", OWN, ids=lambda row: str(row[:4]))
def test_golden_wealth_and_confidence_sequences_hold_to_the_printed_digits(row):
    b, c, n, m, safe, unsafe, interval = row
    U, W = stats.design_mixture(m, 0.05)

    assert pytest.approx(safe, abs=5e-5) == stats.log_e_counts(n, b, c, -m, U, W)
    assert pytest.approx(unsafe, abs=5e-5) == stats.log_e_counts(n, c, b, m, U, W)
    assert pytest.approx(interval, abs=5.1e-6) == stats.cs_bounds(n, b, c, 0.05, U, W)


def test_one_stake_gives_the_closed_form():
    assert 0.5231918614512414 == pytest.approx(math.exp(stats.log_e_counts(10, 1, 0, -0.01, *HALF)), rel=1e-14)


def test_the_mixture_is_twelve_stakes_and_the_design_stake():
    U, W = stats.design_mixture(0.01, 0.05)

    assert (13, 13) == (len(U), len(W))
    assert 1.0 == pytest.approx(W.sum())
    assert [0.01 / 0.3, 0.95, 0.2] == pytest.approx([U[0], U[11], U[12]])
    assert [1 / 24, 0.5] == pytest.approx([W[0], W[12]])


@given(MARGINS)
def test_no_item_is_no_wealth(m):
    U, W = stats.design_mixture(m, 0.05)

    assert pytest.approx(0.0, abs=1e-12) == stats.log_e_counts(0, 0, 0, -m, U, W)
    assert stats.cs_bounds(0, 0, 0, 0.05, U, W) == (-1.0, 1.0)


@given(tables(), MARGINS, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_counts_and_scores_in_any_order_give_the_same_wealth(table, m, random):
    n, b, c = table
    scores = [-1.0] * b + [1.0] * c + [0.0] * (n - b - c)
    random.shuffle(scores)
    U, W = stats.design_mixture(m, 0.05)

    assert pytest.approx(stats.log_e_counts(n, b, c, -m, U, W), abs=1e-9) == stats.log_e_scores(scores, -m, U, W)


@pytest.mark.parametrize(("d0", "psi"), [(-0.05, 0.05), (-0.05, 0.3), (-0.2, 0.6), (0.1, 0.4)])
def test_expected_wealth_is_at_most_one_under_the_hypothesis(d0, psi):
    n, (U, W) = 12, stats.design_mixture(0.05, 0.1)
    p10, p01 = (psi - d0) / 2, (psi + d0) / 2
    expected = sum(
        math.comb(n, b) * math.comb(n - b, c) * p10**b * p01**c * (1 - psi) ** (n - b - c)
        * math.exp(stats.log_e_counts(n, b, c, d0, U, W))
        for b in range(n + 1) for c in range(n + 1 - b)
    )  # fmt: skip

    assert expected <= 1 + 1e-9


def test_wealth_rarely_ever_reaches_twenty_when_the_loss_is_the_margin():
    rng, m, psi, items = np.random.default_rng(7), 0.02, 0.05, 2000
    U, W = stats.design_mixture(m, psi)
    draws = rng.choice([-1, 0, 1], size=(400, items), p=[(psi + m) / 2, 1 - psi, (psi - m) / 2])
    looks = np.arange(50, items + 1, 50)
    b, c = (np.cumsum(draws == sign, axis=1)[:, looks - 1] for sign in (-1, 1))
    log_e = sum_log(b, c, looks, -m, U, W)

    assert np.mean(log_e.max(axis=1) >= math.log(20)) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


def sum_log(b, c, n, d0, U, W):
    """The wealth of many runs at many looks, written out once more."""
    stay = 1 - U
    log_e = (
        b[..., None] * np.log(stay)
        + (n[:, None] - (b + c)[..., None]) * np.log(stay + U / (1 + d0))
        + c[..., None] * np.log(stay + 2 * U / (1 + d0))
    )
    return np.log(np.exp(log_e) @ W)


@given(tables(), MARGINS)
@settings(max_examples=60, deadline=None)
def test_the_confidence_sequence_holds_the_estimate_and_agrees_with_the_verdicts(table, m):
    n, b, c = table
    U, W = stats.design_mixture(m, 0.05)
    low, high = stats.cs_bounds(n, b, c, 0.05, U, W)
    safe = stats.log_e_counts(n, b, c, -m, U, W) >= math.log(20)
    unsafe = stats.log_e_counts(n, c, b, m, U, W) >= math.log(20)

    if n:
        assert low <= (c - b) / n <= high
    assert safe == (low > -m)
    assert unsafe == (high < -m)
    assert not (safe and unsafe)


def test_scores_below_the_declared_bound_are_refused():
    with pytest.raises(ValueError, match="below the declared bound"):
        stats.log_e_scores([-2.0, 0.0], -0.01, *HALF)
    with pytest.raises(ValueError, match="above the smallest"):
        stats.log_e_scores([0.0], -1.0, *HALF)
    with pytest.raises(ValueError, match=r"\(-1, 1\)"):
        stats.log_e_counts(1, 0, 0, -1.0, *HALF)


def test_drawing_without_replacement_the_wealth_stays_fair_over_all_orders():
    d, m, (U, W) = [-1, -1, 0, 0, 0, 1], 1 / 6, stats.design_mixture(0.1, 0.3)
    for seen in range(len(d)):
        wealth = [math.exp(stats.log_e_wor(order[:seen], 6, -m, U, W)) for order in itertools.permutations(d)]
        assert np.mean(wealth) <= 1 + 1e-9


def test_without_replacement_the_last_item_settles_what_is_left():
    U, W = stats.design_mixture(0.1, 0.3)

    assert math.inf == stats.log_e_wor([0, 0, -1, 0], 4, -0.3, U, W)
    assert math.isfinite(stats.log_e_wor([0, 0, -1, 0], 4, -0.25, U, W))
    assert math.inf == stats.log_e_wor([0, 0, 1], 4, -0.3, U, W)  # one item left cannot lose that much
    assert math.isfinite(stats.log_e_wor([-1, -1, -1], 3, -1.0 + 1e-13, U, W))
    with pytest.raises(ValueError, match="there are only"):
        stats.log_e_wor([0, 0], 1, -0.1, U, W)


def test_without_replacement_evidence_grows_faster_than_with_it():
    d, (U, W) = np.zeros(600), stats.design_mixture(0.01, 0.05)

    assert stats.log_e_wor(d, 1000, -0.01, U, W) > stats.log_e_scores(d, -0.01, U, W)
    assert stats.log_e_wor(d, 10**9, -0.01, U, W) == pytest.approx(stats.log_e_scores(d, -0.01, U, W), rel=1e-4)


def test_forecasts_are_the_golden_ones():
    U, W = stats.design_mixture(0.01, 0.05)
    for psi, expected in ((0.02, 1734), (0.05, 3761), (0.10, 7409)):
        start = stats.forecast_more(0, 0, 0, 0.01, 0.05, *stats.design_mixture(0.01, psi), psi=psi)
        assert expected == round(start)
    assert 2761 == round(stats.forecast_more(1000, 25, 25, 0.01, 0.05, U, W, psi=0.05))
    assert 4846 == round(stats.forecast_more(1000, 30, 20, 0.01, 0.05, U, W, psi=0.05))
    U, W = stats.design_mixture(0.02, 0.05)
    assert 916 == round(stats.forecast_more(500, 12, 3, 0.02, 0.05, U, W))
    assert 2276 == round(stats.forecast_more(1319, 60, 50, 0.02, 0.05, U, W))


def test_a_forecast_is_nothing_once_safe_and_never_for_a_loss_of_the_margin():
    U, W = stats.design_mixture(0.01, 0.05)

    assert 0.0 == stats.forecast_more(1000, 0, 0, 0.01, 0.05, U, W)
    assert math.inf == stats.forecast_more(1000, 30, 10, 0.01, 0.05, U, W, delta=-0.02)


def test_the_cluster_test_is_the_clustered_regression():
    from statsmodels.regression.linear_model import OLS

    D, size = np.array([-2, 0, 1, -1, 0.0]), np.array([5, 4, 6, 5, 5.0])
    result = stats.cluster_t(D, size, 0.01, alpha=0.05)
    d = np.concatenate([[s, *[0.0] * int(k - 1)] for s, k in zip(D, size, strict=True)])
    groups = np.repeat(np.arange(5), size.astype(int))
    fit = OLS(d, np.ones_like(d)).fit(cov_type="cluster", cov_kwds={"groups": groups})

    assert (-0.08, 0.10366098591) == pytest.approx((result.estimate, result.se), abs=5e-12)
    assert (fit.params[0], fit.bse[0]) == pytest.approx((result.estimate, result.se), rel=1e-9)
    assert -0.300989 == pytest.approx(result.low, abs=5e-7)
    assert 4 == result.df


def test_the_paired_t_test_is_scipys():
    d = np.random.default_rng(3).normal(0.0, 0.2, 200)
    result = stats.t_paired(d, 0.02)
    expected = ttest_1samp(d, -0.02, alternative="greater")
    interval = ttest_1samp(d, 0.0).confidence_interval(0.90)

    assert pytest.approx(expected.pvalue) == result.p_safe
    assert pytest.approx(1 - expected.pvalue) == result.p_unsafe
    assert pytest.approx((interval.low, interval.high)) == (result.low, result.high)


def test_means_without_spread_or_items_decide_nothing():
    for d in ([], [0.5], [0.0] * 100):
        result = stats.t_paired(np.array(d), 0.01)
        assert (1.0, 1.0, -1.0, 1.0) == (result.p_safe, result.p_unsafe, result.low, result.high)
    assert 1.0 == stats.cluster_t(np.zeros(40), np.full(40, 5.0), 0.01).p_safe
    with pytest.raises(ValueError, match="at least one item"):
        stats.cluster_t(np.array([0.0]), np.array([0.0]), 0.01)
    with pytest.raises(ValueError, match="one sum and one size"):
        stats.cluster_t(np.zeros(2), np.ones(3), 0.01)


def test_variance_components_are_recovered_from_simulated_items():
    rng, items, k, tau = np.random.default_rng(11), 20_000, 4, 0.15
    p = rng.uniform(0.3, 0.7, items)
    base = rng.random((items, k)) < p[:, None]
    cand = rng.random((items, k)) < np.clip(p + rng.choice([-tau, tau], items), 0, 1)[:, None]
    found = stats.variance_components(base, cand)

    assert found.between == pytest.approx(tau**2, abs=0.004)
    assert found.within_base == pytest.approx(float(np.mean(p * (1 - p))), abs=0.005)
    with pytest.raises(ValueError, match="2 samples"):
        stats.variance_components(base[:, :1], cand[:, :1])
    with pytest.raises(ValueError, match="same items"):
        stats.variance_components(base[1:], cand)


def test_recovery_is_zero_at_the_ratio_seen_and_falls_as_more_is_asked():
    assert 0.0 == stats.recovery_z(60, 5, 15, 20, 65 / 75)
    z = [stats.recovery_z(600, 5, 15, 200, r) for r in (0.9, 0.95, 0.99, 1.0, 1.05)]
    assert sorted(z, reverse=True) == z
    assert (0.0, math.inf) == stats.recovery_ci(0, 0, 0, 10)
