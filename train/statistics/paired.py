"""Exact statistics of two classifiers on the same rows: tests, an interval, power.

Measures how certain a difference in accuracy is; `train.statistics.comparison` draws the
conclusion. Pure: counts in, numbers out.

Of N rows, `gained` are correct for the candidate only and `lost` for the champion only; the
accuracy difference is (gained - lost) / N. Rows on which both are correct or both wrong carry
no information about its sign. In formulas, p_gained and p_lost are the probabilities of the
two, and the unknown p_lost is the nuisance parameter wherever a difference is assumed.

Shape suffixes: K numbers of lost rows.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, gammaln, xlog1py, xlogy
from scipy.stats import binom

from train.statistics.bisection import bisect

NUISANCE_POINTS = 300
"""Values of the nuisance parameter to maximize a level over, evenly spaced in arcsine scale."""

DEVIATIONS = 7
"""Standard deviations (plus 20 rows) beyond which binomial outcomes are ignored; error 1e-11."""

TARGET_POWER = 0.8
"""Power that `minimum_detectable` and `rows_needed` aim at."""


@lru_cache(maxsize=65536)
def mcnemar(gained: int, lost: int) -> float:
    """One-sided exact p-value that the candidate is no better: P(Bin(gained+lost, 1/2) >= gained).

    If both are equally good, each discordant row is a fair coin given their number, so the
    test keeps its level for every N and every amount of disagreement.
    Source: Q. McNemar (1947), Psychometrika 12, 153-157, in its exact (sign test) form.
    """
    return float(binom.sf(gained - 1, gained + lost, 0.5))


def score(gained: Any, lost: Any, n: int, difference: Any) -> Any:
    """Score statistic of the hypothesis that the true difference is `difference`.

    Takes numbers or arrays. It is large where the true difference is larger, and decreases in
    `difference`. The variance is the one under the hypothesis, with p_lost at its restricted
    maximum likelihood, so it does not vanish where no row was gained or lost.
    Source: T. Tango (1998), Equivalence test and confidence interval for the difference in
    proportions for the paired-sample design, Statistics in Medicine 17, 891-908.
    """
    linear = (2 * n - gained + lost) * difference - gained - lost
    constant = -lost * difference * (1 - difference)
    # At the boundary, rounding can make the discriminant negative.
    root = np.sqrt(np.maximum(linear * linear - 8 * n * constant, 0))
    p_lost = (root - linear) / (4 * n)
    variance = n * np.maximum(2 * p_lost + difference * (1 - difference), 0)
    distance = gained - lost - n * difference
    return np.where(variance > 0, distance / np.sqrt(np.where(variance > 0, variance, 1)), 0.0)


def rejection_boundary(n: int, difference: float, critical: float) -> NDArray[np.int64]:
    """For 0 to n lost rows, the fewest gained rows whose score reaches `critical`; (n + 1,).

    Where none does, because gained + lost <= n, the entry is n - lost + 1.
    """
    lost_K = np.arange(n + 1)
    low_K, high_K = np.zeros_like(lost_K), n - lost_K + 1
    while (low_K < high_K).any():
        middle_K = (low_K + high_K) // 2
        reached_K = score(middle_K, lost_K, n, difference) >= critical
        open_K = low_K < high_K
        high_K = np.where(open_K & reached_K, middle_K, high_K)
        low_K = np.where(open_K & ~reached_K, middle_K + 1, low_K)
    return low_K


def rejection_probability(
    n: int, p_gained: float, p_lost: float, boundary_K: NDArray[np.int64]
) -> float:
    """Probability that at least `boundary_K[lost]` rows are gained, summed over `lost`."""
    lost_K = _likely(n, p_lost)
    p_gained_given_kept = min(p_gained / (1 - p_lost), 1.0) if p_lost < 1 else 0.0
    tails_K = _binomial_tail(boundary_K[lost_K], n - lost_K, p_gained_given_kept)
    return float((_binomial_pmf(lost_K, n, p_lost) * tails_K).sum())


def _likely(n: int, p: float) -> NDArray[np.int64]:
    """The values of Bin(n, p) whose probability is not negligible."""
    mean, width = n * p, DEVIATIONS * math.sqrt(n * p * (1 - p)) + 20
    return np.arange(max(math.floor(mean - width), 0), min(math.ceil(mean + width), n) + 1)


def _binomial_pmf(k_K: NDArray[np.int64], n: int, p: float) -> Any:
    """P(Bin(n, p) = k); scipy's distributions spend far longer on checking their arguments."""
    ways_K = gammaln(n + 1) - gammaln(k_K + 1) - gammaln(n - k_K + 1)
    return np.exp(ways_K + xlogy(k_K, p) + xlog1py(n - k_K, -p))


def _binomial_tail(k_K: NDArray[np.int64], n_K: NDArray[np.int64], p: float) -> Any:
    """P(Bin(n, p) >= k), by the incomplete beta function."""
    inside_K = (k_K >= 1) & (k_K <= n_K)
    a_K, b_K = np.where(inside_K, k_K, 1), np.where(inside_K, n_K - k_K + 1, 1)
    return np.where(inside_K, betainc(a_K, b_K, p), (k_K < 1).astype(float))


def max_rejection_probability(n: int, difference: float, critical: float) -> float:
    """Type I error of the score test, maximized over the nuisance parameter.

    It is smaller still where the true difference is below `difference`, because the rejection
    region is monotone: it grows with gained rows and shrinks with lost ones.
    Source: H.-M. Hsueh, J.-P. Liu and J. J. Chen (2001), Unconditional exact tests for
    equivalence or noninferiority for paired binary endpoints, Biometrics 57, 478-483.
    """
    boundary_K = rejection_boundary(n, difference, critical)
    low, high = max(0.0, -difference), (1 - difference) / 2
    angles = np.linspace(math.asin(math.sqrt(low)), math.asin(math.sqrt(high)), NUISANCE_POINTS)
    return max(
        rejection_probability(n, max(p_lost + difference, 0.0), p_lost, boundary_K)
        for p_lost in (float(each) for each in np.sin(angles) ** 2)
    )


@lru_cache(maxsize=256)
def exact_critical(n: int, difference: float, alpha: float) -> float:
    """The smallest critical value at which `max_rejection_probability` is at most alpha.

    With the normal quantile alone the score test exceeds alpha where few rows disagree: at
    N = 540 and a margin of 0.005 its level would be 6.7 % for alpha 5 %.
    """

    def keeps_level(critical: float) -> bool:
        return max_rejection_probability(n, difference, critical) <= alpha

    low = NormalDist().inv_cdf(1 - alpha)
    if keeps_level(low):
        return low
    while not keeps_level(high := low + 0.25):
        low = high
    return bisect(keeps_level, low, high, tolerance=1e-3)[1]


@lru_cache(maxsize=4096)
def exact_p_value(gained: int, lost: int, n: int, difference: float) -> float:
    """Exact p-value for the hypothesis that the true difference is at most `difference`."""
    return min(
        max_rejection_probability(n, difference, float(score(gained, lost, n, difference)) - 1e-9),
        1.0,
    )


@lru_cache(maxsize=65536)
def score_interval(gained: int, lost: int, n: int, critical: float) -> tuple[float, float]:
    """The differences whose score is within `critical` of 0 (Tango 1998)."""

    def solve(target: float) -> float:
        def is_above(difference: float) -> bool:
            return bool(score(gained, lost, n, difference) <= target)

        return bisect(is_above, -1.0, 1.0, tolerance=2e-12)[0]

    return solve(critical), solve(-critical)


def split_discordance(discordance: float, gain: float) -> tuple[float, float]:
    """p_gained and p_lost for a fraction of discordant rows and a true gain."""
    total = max(discordance, abs(gain))
    return (total + gain) / 2, (total - gain) / 2


def superiority_power(n: int, discordance: float, gain: float, alpha: float) -> float:
    """Probability that `mcnemar` is at most alpha; exact, summed over the discordant rows.

    Source: S. W. Duffy (1984), Asymptotic and exact power for the McNemar test and its
    analogue with R controls per case, Biometrics 40, 1005-1015: the unconditional exact power.
    """
    p_gained, p_lost = split_discordance(discordance, gain)
    total = p_gained + p_lost
    if total == 0:
        return 0.0
    discordant_K = _likely(n, total)
    boundary_K = binom.isf(alpha, discordant_K, 0.5).astype(int) + 1
    tails_K = _binomial_tail(boundary_K, discordant_K, p_gained / total)
    return float((_binomial_pmf(discordant_K, n, total) * tails_K).sum())


def non_inferiority_power(
    n: int, discordance: float, gain: float, alpha: float, margin: float
) -> float:
    """Probability that the score at -margin reaches its exact critical value."""
    critical = exact_critical(n, -margin, alpha)
    return rejection_probability(
        n, *split_discordance(discordance, gain), rejection_boundary(n, -margin, critical)
    )


def rows_needed(discordance: float, gain: float, alpha: float, margin: float = 0.0) -> int | None:
    """Approximate number of rows at which a true gain is found above -margin with `TARGET_POWER`.

    None if no number is enough, because gain + margin is not above 0.
    Source: R. J. Connor (1987), Sample size for testing differences in proportions for the
    paired-sample design, Biometrics 43, 207-211, with the margin added to the difference.
    """
    distance = gain + margin
    if distance <= 0:
        return None
    total = max(discordance, abs(gain), margin)
    z_alpha, z_power = NormalDist().inv_cdf(1 - alpha), NormalDist().inv_cdf(TARGET_POWER)
    under_null = math.sqrt(max(total - margin * margin, 0.0))
    root = z_alpha * under_null + z_power * math.sqrt(max(total - gain * gain, 0.0))
    return math.ceil((root / distance) ** 2)


def minimum_detectable(n: int, discordance: float, alpha: float) -> float | None:
    """Smallest true gain, to 0.0001, that `mcnemar` finds with `TARGET_POWER`; None over 0.5."""

    def is_found(gain: float) -> bool:
        return superiority_power(n, discordance, gain, alpha) >= TARGET_POWER

    return bisect(is_found, 0.0, 0.5, tolerance=1e-4)[1] if is_found(0.5) else None
