"""Confidence intervals for proportions, paired differences and bootstrapped statistics. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

_BLOCK = 100
"""Resamples that `weighted_bootstrap` computes at once; few enough to fit into the CPU cache."""


def wilson(successes: int, trials: int, *, alpha: float = 0.05) -> tuple[float, float]:
    """Return the two-sided interval for a proportion, with error `alpha`.

    Source: E. B. Wilson (1927), Probable inference, the law of succession, and statistical
    inference, JASA 22, 209-212: the score interval without continuity correction.
    Raises ValueError unless 0 <= successes <= trials and trials > 0.
    """
    if trials <= 0 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} of {trials} is not a proportion")
    z = NormalDist().inv_cdf(1 - alpha / 2)
    p = successes / trials
    centre = p + z * z / (2 * trials)
    spread = z * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    low = 0.0 if successes == 0 else (centre - spread) / scale
    high = 1.0 if successes == trials else (centre + spread) / scale
    return low, high


def weighted_bootstrap(
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    n: int,
    *,
    seed: int,
    resamples: int = 1000,
    alpha: float = 0.05,
) -> NDArray[np.float64]:
    """Return percentile intervals of shape (2, K) for K statistics of weighted examples.

    statistic: maps weights of shape (N, R), how often each example is drawn in each of R
    resamples, to values of shape (R, K), NaN where undefined. A statistic that is undefined
    in every resample has a NaN interval.
    Source: B. Efron and R. J. Tibshirani (1993), An Introduction to the Bootstrap, ch. 13;
    the weights are the resampling vectors of ch. 20.
    Raises ValueError if n or resamples is not positive.
    """
    if n <= 0 or resamples <= 0:
        raise ValueError(f"{n} examples cannot be resampled {resamples} times")
    generator = np.random.default_rng(seed)
    blocks = []
    for start in range(0, resamples, _BLOCK):
        size = min(_BLOCK, resamples - start)
        draws = (np.bincount(generator.integers(0, n, n), minlength=n) for _ in range(size))
        weights_NR = np.stack([*draws], axis=1).astype(np.float64)
        blocks.append(statistic(weights_NR))
    values_RK = np.concatenate(blocks)
    interval_2K = np.full((2, values_RK.shape[1]), np.nan)
    known_K = ~np.isnan(values_RK).all(axis=0)
    quantiles = [alpha / 2, 1 - alpha / 2]
    interval_2K[:, known_K] = np.nanquantile(values_RK[:, known_K], quantiles, axis=0)
    return interval_2K


def paired_difference(
    first_N: NDArray[np.bool_], second_N: NDArray[np.bool_], *, alpha: float = 0.05
) -> tuple[float, float, float]:
    """Return accuracy(second) - accuracy(first) on the same N examples, and its interval.

    first_N, second_N: bool, True where correct. alpha: two-sided error.
    Source: A. Agresti and Y. Min (2005), Simple improved confidence intervals for comparing
    matched proportions, Statistics in Medicine 24, 729-740: Wald's interval with half an
    observation added to each of the four cells.
    Raises ValueError if the shapes differ or N is 0.
    """
    if first_N.shape != second_N.shape or first_N.size == 0:
        raise ValueError(f"{first_N.shape} and {second_N.shape} are not pairs of outcomes")
    n = first_N.size
    gained = int((second_N & ~first_N).sum())
    lost = int((first_N & ~second_N).sum())
    total = n + 2
    centre = (gained - lost) / total
    discordant = (gained + lost + 1) / total
    z = NormalDist().inv_cdf(1 - alpha / 2)
    spread = z * math.sqrt(max(discordant - centre * centre, 0.0) / total)
    return (gained - lost) / n, centre - spread, centre + spread
