"""Paired bootstrap of macro-F1 and calibration, by sums over resampled rows.

Both are functions of column sums over rows: of hits and choices per label, of confidence
minus correctness per bin. A resample is a weight per row, so 2,000 of them are matrix
products. The same seed gives the same resamples, which is what pairs two models.

Shape suffixes: N rows, C labels, B bins, K columns, R resamples, S seeds of a configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Choice = NDArray[np.bool_]

NUM_BINS = 15
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


def f1_macro(hit: Floats, predicted: Floats, support: Floats) -> Floats:
    """Mean F1 over the labels that occur in either, from counts per label on the last axis."""
    total = predicted + support
    f1 = 2 * hit / np.maximum(total, 1)
    return np.asarray(f1.sum(axis=-1) / np.maximum((total > 0).sum(axis=-1), 1))


def calibration_gaps(answers: Answers, *, task: str, bins: int = NUM_BINS) -> Floats:
    """For each row, confidence minus correctness in the bin of its confidence; shape (N, B).

    Single-label: the confidence of the chosen label, and whether it is the right one.
    Multi-label: the probability of every label, and whether the row has it, pooled.
    """
    probabilities_NC = answers.probabilities_NC.astype(np.float64)
    truth_NC = answers.reference_NC
    if task != "multi_label":
        best_N1 = probabilities_NC.argmax(axis=1)[:, None]
        truth_NC = np.take_along_axis(truth_NC, best_N1, axis=1)
        probabilities_NC = np.take_along_axis(probabilities_NC, best_N1, axis=1)
    bin_NC = np.clip(np.ceil(probabilities_NC * bins).astype(int) - 1, 0, bins - 1)
    gap_NC = (probabilities_NC - truth_NC) / probabilities_NC.shape[1]
    return np.stack([np.where(bin_NC == b, gap_NC, 0.0).sum(axis=1) for b in range(bins)], axis=1)


def ece(gap_sums: Floats, rows: int) -> Floats:
    """Expected calibration error from sums of gaps per bin on the last axis, in [0, 1].

    Equal-width bins, each weighed by its share of the answers.
    Source: M. P. Naeini, G. F. Cooper and M. Hauskrecht (2015), Obtaining well calibrated
    probabilities using Bayesian binning, AAAI; C. Guo et al. (2017), On calibration of modern
    neural networks, ICML, eq. 3.
    """
    return np.asarray(np.abs(gap_sums).sum(axis=-1) / rows)


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
    rows = len(candidate[0].reference_NC)

    def columns(answers: Answers) -> Floats:
        return calibration_gaps(answers, task=task)

    def value(sums: Floats) -> Floats:
        return ece(sums, rows)

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
