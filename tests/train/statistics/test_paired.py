"""Exact paired tests, their intervals and their power equal sums over every outcome."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from outcomes import NORMAL, by_enumeration
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest

from train.statistics.paired import (
    exact_critical,
    exact_p_value,
    max_rejection_probability,
    mcnemar,
    minimum_detectable,
    non_inferiority_power,
    rejection_boundary,
    rejection_probability,
    rows_needed,
    score,
    score_interval,
    split_discordance,
    superiority_power,
)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (5, 0), (0, 5), (9, 2), (31, 25), (200, 150)])
def test_mcnemar_is_the_binomial_test_and_the_sum_by_hand(gained: int, lost: int) -> None:
    total = gained + lost
    by_hand = Fraction(sum(math.comb(total, k) for k in range(gained, total + 1)), 2**total)

    assert mcnemar(gained, lost) == pytest.approx(float(by_hand))
    if total:
        expected = binomtest(gained, total, alternative="greater").pvalue
        assert mcnemar(gained, lost) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("gained", "lost", "n", "difference"),
    [(12, 7, 100, -0.05), (3, 9, 60, 0.1), (0, 0, 500, -0.005), (0, 4, 80, -0.02), (5, 0, 40, 0.2)],
)
def test_score_is_over_the_variance_at_the_restricted_likelihood(
    gained: int, lost: int, n: int, difference: float
) -> None:
    low, high = max(0.0, -difference), (1 - difference) / 2

    def loss(p_lost: float) -> float:
        cells = (gained, p_lost + difference), (lost, p_lost), (n - gained - lost, 0)
        rest = 1 - 2 * p_lost - difference
        shares = cells[0][1], cells[1][1], rest
        counts = cells[0][0], cells[1][0], cells[2][0]
        return -sum(c * math.log(max(s, 1e-300)) for c, s in zip(counts, shares, strict=True) if c)

    p_lost = minimize_scalar(loss, bounds=(low, high), options={"xatol": 1e-12}).x
    variance = (2 * p_lost + difference - difference**2) * n
    expected = (gained - lost - n * difference) / math.sqrt(variance)

    assert float(score(gained, lost, n, difference)) == pytest.approx(expected, abs=1e-4)


def test_score_at_no_difference_is_mcnemars_statistic() -> None:
    assert float(score(15, 6, 300, 0.0)) == pytest.approx(9 / math.sqrt(21))
    assert float(score(0, 0, 300, 0.0)) == 0.0


def test_score_interval_is_that_of_the_r_package_propcis() -> None:
    """scoreci.mp(25, 28, 618, 0.90), the interval of T. Tango (1998), for (28 - 25) / 618."""
    assert score_interval(28, 25, 618, NORMAL) == pytest.approx((-0.0148, 0.0247), abs=5e-5)


@pytest.mark.parametrize(("n", "difference"), [(7, -0.2), (20, -0.05), (20, 0.1), (33, -0.1)])
def test_level_is_the_largest_sum_over_every_outcome(n: int, difference: float) -> None:
    low, high = max(0.0, -difference), (1 - difference) / 2
    summed = [
        by_enumeration(n, max(p_lost + difference, 0.0), p_lost, difference, NORMAL)
        for p_lost in np.linspace(low, high, 40)
    ]

    assert max_rejection_probability(n, difference, NORMAL) == pytest.approx(max(summed), abs=2e-3)
    assert max_rejection_probability(n, difference, NORMAL) >= max(summed) - 1e-4


def test_score_test_alone_exceeds_its_level_and_the_exact_critical_value_does_not() -> None:
    assert max_rejection_probability(540, -0.005, NORMAL) > 0.06

    critical = exact_critical(540, -0.005, 0.05)

    least_K = rejection_boundary(540, -0.005, critical)
    finer = [
        rejection_probability(540, p - 0.005, p, least_K) for p in np.linspace(0.005, 0.5, 1500)
    ]
    assert NORMAL < critical < 2.0
    assert 0.04 < max(finer) <= 0.0501


@pytest.mark.parametrize("n", [1, 2, 10, 100])
def test_exact_critical_value_keeps_the_level_on_few_rows(n: int) -> None:
    for margin in (0.005, 0.05, 0.3):
        assert max_rejection_probability(n, -margin, exact_critical(n, -margin, 0.05)) <= 0.05


def test_region_grows_with_gained_rows_and_fewer_lost_ones() -> None:
    """Therefore the level is highest at the boundary of the hypothesis."""
    for n, difference in ((50, -0.05), (300, -0.005), (60, 0.1)):
        least_K = rejection_boundary(n, difference, NORMAL)
        reachable_K = least_K[least_K <= n - np.arange(n + 1)]
        assert (np.diff(reachable_K) >= 0).all()
        gained = np.arange(n - 10)
        assert (np.diff(score(gained, 10, n, difference)) > 0).all()


def test_exact_p_value_is_the_sum_over_outcomes_at_least_as_extreme() -> None:
    at = float(score(9, 2, 25, 0.1)) - 1e-9
    summed = max(
        by_enumeration(25, p + 0.1, p, 0.1, at) for p in np.linspace(0.0, 0.45, 60).tolist()
    )

    assert exact_p_value(9, 2, 25, 0.1) == pytest.approx(summed, abs=1e-3)


def test_power_is_the_sum_over_every_outcome() -> None:
    n, discordance, gain = 30, 0.3, 0.2
    p_gained, p_lost = split_discordance(discordance, gain)
    total = 0.0
    for gained, lost in product(range(n + 1), repeat=2):
        if gained + lost <= n and mcnemar(gained, lost) <= 0.05:
            ways = math.comb(n, gained) * math.comb(n - gained, lost)
            rest = (1 - p_gained - p_lost) ** (n - gained - lost)
            total += ways * p_gained**gained * p_lost**lost * rest

    assert superiority_power(n, discordance, gain, 0.05) == pytest.approx(total)
    critical = exact_critical(n, -0.05, 0.05)
    assert non_inferiority_power(n, discordance, gain, 0.05, 0.05) == pytest.approx(
        by_enumeration(n, p_gained, p_lost, -0.05, critical)
    )


def test_rows_needed_have_about_the_stated_power() -> None:
    for discordance, gain in ((0.06, 0.01), (0.03, 0.02)):
        rows = rows_needed(discordance, gain, 0.05)
        assert rows is not None
        assert superiority_power(rows, discordance, gain, 0.05) == pytest.approx(0.8, abs=0.05)
    rows = rows_needed(0.03, 0.0, 0.05, margin=0.005)
    assert rows is not None
    assert non_inferiority_power(rows, 0.03, 0.0, 0.05, 0.005) == pytest.approx(0.8, abs=0.05)
    assert rows_needed(0.03, -0.01, 0.05, margin=0.005) is None


def test_minimum_detectable_gain_is_found_with_power_of_four_fifths() -> None:
    gain = minimum_detectable(1000, 0.06, 0.05)

    assert gain is not None
    assert superiority_power(1000, 0.06, gain, 0.05) == pytest.approx(0.8, abs=0.01)
    assert minimum_detectable(2, 0.06, 0.05) is None
