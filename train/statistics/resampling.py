"""Paired bootstrap of macro-F1 and calibration, by sums over resampled rows.

Both are functions of column sums over rows: of hits and choices per label, of correctness
minus confidence per bin. A resample is a weight per row, so 2,000 of them are matrix
products. The same seed gives the same resamples, which is what pairs two models.

Shape suffixes: N rows, C labels, K columns, R resamples, S seeds of a configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train.statistics.metrics import Choice, f1_macro
from train.statistics.probability_metrics import Floats, ece, gap_rows

BLOCK_WEIGHTS = 4_000_000


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What one bundle said of the rows."""

    probabilities_NC: NDArray[np.float32]
    predicted_NC: Choice
    reference_NC: Choice

    @property
    def right_N(self) -> Choice:
        """Whether a row got exactly its labels."""
        return np.asarray((self.predicted_NC == self.reference_NC).all(axis=1))


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A metric of the candidate and of the champion, each the mean over its seeds."""

    champion: float
    candidate: float
    low: float
    """Lower end of the percentile interval of candidate minus champion."""
    high: float
    """Upper end."""


def resampled_sums(columns_NK: NDArray[np.float32], *, resamples: int, seed: int) -> Floats:
    """Column sums over each resample of the rows, with replacement; shape (R, K).

    Source: B. Efron and R. J. Tibshirani (1993), An Introduction to the Bootstrap, ch. 13.
    """
    n = len(columns_NK)
    generator = np.random.default_rng(seed)
    size = max(1, BLOCK_WEIGHTS // n)
    parts = []
    for start in range(0, resamples, size):
        count = min(size, resamples - start)
        rows_RN = generator.integers(0, n, (count, n)) + np.arange(count)[:, None] * n
        weights_RN = np.bincount(rows_RN.ravel(), minlength=count * n).reshape(count, n)
        parts.append(weights_RN.astype(np.float32) @ columns_NK)
    return np.concatenate(parts).astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """How differences are resampled."""

    alpha: float
    """Error of the interval on each side."""
    resamples: int
    seed: int


def f1_difference(
    champion: Sequence[Answers], candidate: Sequence[Answers], bootstrap: Bootstrap
) -> Difference:
    """Macro-F1 of both, and the interval of the difference."""
    num_labels = candidate[0].reference_NC.shape[1]

    def columns(answers: Answers) -> Choice:
        hit_NC = answers.predicted_NC & answers.reference_NC
        return np.hstack([hit_NC, answers.predicted_NC, answers.reference_NC])

    def value(sums: Floats) -> Floats:
        hit, predicted, support = np.split(sums, [num_labels, 2 * num_labels], axis=-1)
        return f1_macro(hit, predicted, support)

    return _difference([*map(columns, champion)], [*map(columns, candidate)], value, bootstrap)


def ece_difference(
    champion: Sequence[Answers], candidate: Sequence[Answers], bootstrap: Bootstrap, *, task: str
) -> Difference:
    """Expected calibration error of both, and the interval of the difference."""
    num_rows, num_labels = candidate[0].reference_NC.shape
    num_claims = num_rows * (num_labels if task == "multi_label" else 1)

    def columns(answers: Answers) -> Floats:
        return gap_rows(answers.reference_NC, answers.probabilities_NC, task)

    def value(sums: Floats) -> Floats:
        return ece(sums, num_claims)

    return _difference([*map(columns, champion)], [*map(columns, candidate)], value, bootstrap)


def _difference(
    champion: Sequence[Choice | Floats],
    candidate: Sequence[Choice | Floats],
    value: Callable[[Floats], Floats],
    bootstrap: Bootstrap,
) -> Difference:
    """Bootstrap over rows, and over the seeds of each side where it has several.

    champion, candidate: for each seed the columns, shape (N, K), whose sums `value` takes.
    Source for resampling two ways at once: A. B. Owen and D. Eckles (2012), Bootstrapping
    data arrays of arbitrary order, Annals of Applied Statistics 6, 895-927.
    """
    generator = np.random.default_rng([bootstrap.seed, 1])
    points, resampled = [], []
    for side in (champion, candidate):
        values_SR = np.stack(
            [
                value(
                    resampled_sums(
                        columns_NK.astype(np.float32),
                        resamples=bootstrap.resamples,
                        seed=bootstrap.seed,
                    )
                )
                for columns_NK in side
            ]
        )
        chosen_SR = generator.integers(0, len(side), values_SR.shape)
        resampled.append(np.take_along_axis(values_SR, chosen_SR, axis=0).mean(axis=0))
        points.append(
            float(np.mean([value(columns_NK.sum(axis=0, dtype=np.float64)) for columns_NK in side]))
        )
    low, high = np.quantile(resampled[1] - resampled[0], [bootstrap.alpha, 1 - bootstrap.alpha])
    return Difference(champion=points[0], candidate=points[1], low=float(low), high=float(high))
