"""Outcomes and predictions of two models on the same rows."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
from numpy.typing import NDArray

from train.statistics.metrics import one_hot
from train.statistics.paired import (
    score,
)
from train.statistics.resampling import Predictions

Outcome = NDArray[np.bool_]
NORMAL = 1.6448536269514722


def outcomes(n: int, gained: int, lost: int) -> tuple[Outcome, Outcome]:
    """Outcomes of champion and candidate on n rows, correct on all others."""
    champion_N, candidate_N = np.ones(n, dtype=bool), np.ones(n, dtype=bool)
    champion_N[:gained] = False
    candidate_N[gained : gained + lost] = False
    return champion_N, candidate_N


def by_enumeration(
    n: int, p_gained: float, p_lost: float, difference: float, least: float
) -> float:
    """Probability that the score reaches `least`, summed over every outcome."""
    total = 0.0
    for gained, lost in product(range(n + 1), repeat=2):
        rest = n - gained - lost
        if rest >= 0 and score(gained, lost, n, difference) >= least:
            ways = math.comb(n, gained) * math.comb(n - gained, lost)
            total += ways * p_gained**gained * p_lost**lost * (1 - p_gained - p_lost) ** rest
    return total


def answers_of(
    chosen_N: NDArray[np.int64],
    true_N: NDArray[np.int64],
    num_labels: int,
    confidence: float | NDArray[np.float64] = 0.9,
) -> Predictions:
    predicted_NC = one_hot(chosen_N, num_labels)
    rest = (1 - confidence) / (num_labels - 1)
    return Predictions(
        probabilities_NC=np.where(predicted_NC, confidence, rest).astype(np.float32),
        predicted_NC=predicted_NC,
        reference_NC=one_hot(true_N, num_labels),
    )


def some_answers(n: int, num_labels: int, accuracy: float, seed: int) -> Predictions:
    generator = np.random.default_rng(seed)
    true_N = np.arange(n) % num_labels
    other_N = (true_N + generator.integers(1, num_labels, n)) % num_labels
    return answers_of(np.where(generator.random(n) < accuracy, true_N, other_N), true_N, num_labels)
