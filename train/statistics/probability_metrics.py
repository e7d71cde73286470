"""How good probabilities are: per-row losses, calibration bins, areas under curves. Pure.

Everything here is a sum over rows or has a form for weighted rows, so that
`train.statistics.intervals` computes a thousand resamples in a few matrix products.

Shape suffixes: N rows, C labels, R resamples, B bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve.inference.scores import Array
from train.statistics.metrics import Choice

Floats = NDArray[np.float64]

NUM_BINS = 15
"""Calibration bins, each with as many predictions as the others. A trained classifier has most
of its confidences near 1: of fifteen bins of equal width one or two would hold nearly all of
them, and the error would be that of a coarse mean. (K. Nguyen and B. O'Connor 2015, Posterior
calibration and exploratory analysis, EMNLP; J. Nixon et al. 2019, Measuring calibration in
deep learning, CVPR workshops.)"""


def log_loss_rows(reference_NC: Choice, probabilities_NC: Array, task: str) -> Floats:
    """Negative log-likelihood of each row in nats, (N,); for multi-label the mean over labels.

    Probabilities are kept a float32 epsilon away from 0 and 1, so that no row is infinite.
    """
    epsilon = float(np.finfo(np.float32).eps)
    p_NC = np.clip(probabilities_NC.astype(np.float64), epsilon, 1 - epsilon)
    if task == "multi_label":
        return np.asarray(-np.log(np.where(reference_NC, p_NC, 1 - p_NC)).mean(axis=1))
    return np.asarray(-np.log(p_NC[reference_NC]))


def brier_rows(reference_NC: Choice, probabilities_NC: Array, task: str) -> Floats:
    """Squared error of each row's probabilities, (N,).

    Single-label: summed over the labels, from 0 to 2 (G. W. Brier 1950, Verification of
    forecasts expressed in terms of probability, Monthly Weather Review 78). Multi-label: the
    mean over the labels, from 0 to 1.
    """
    squared_NC = (probabilities_NC.astype(np.float64) - reference_NC) ** 2
    return np.asarray(squared_NC.mean(axis=1) if task == "multi_label" else squared_NC.sum(axis=1))


def predictions_and_outcomes(
    reference_NC: Choice, probabilities_NC: Array, task: str
) -> tuple[Floats, NDArray[np.bool_]]:
    """What the model claims and whether it is so, each of shape (M,), row by row.

    Single-label: the best label's probability, and whether it is the true one; M is N.
    Multi-label: every label's probability, and whether the row has the label; M is N * C.
    """
    if task == "multi_label":
        return probabilities_NC.astype(np.float64).ravel(), reference_NC.ravel()
    best_N = probabilities_NC.argmax(axis=1)
    rows_N = np.arange(len(best_N))
    return probabilities_NC[rows_N, best_N].astype(np.float64), reference_NC[rows_N, best_N]


@dataclass(frozen=True, kw_only=True)
class Bins:
    """Claims in bins of equal mass; equal claims stand in the same bin."""

    mean_predicted_B: Floats
    """Mean probability."""
    observed_frequency_B: Floats
    """Share that came true."""
    count_B: NDArray[np.int64]

    @property
    def ece(self) -> float:
        """Expected calibration error: the mean gap, weighted by the bins' counts.

        Source: C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger (2017), On calibration of modern
        neural networks, ICML, eq. 3. It is biased upwards: noise within a bin counts as error.
        """
        gap_B = np.abs(self.observed_frequency_B - self.mean_predicted_B)
        return float((gap_B * self.count_B).sum() / self.count_B.sum())


def bin_numbers(predicted_M: Floats, num_bins: int = NUM_BINS) -> NDArray[np.int64]:
    """The bin of each claim, from 0, without gaps."""
    edges = np.unique(np.quantile(predicted_M, np.linspace(0, 1, num_bins + 1)[1:-1]))
    numbers_M = np.searchsorted(edges, predicted_M, side="right")
    return np.unique(numbers_M, return_inverse=True)[1].astype(np.int64).reshape(-1)


def calibration_bins(
    predicted_M: Floats, outcomes_M: NDArray[np.bool_], num_bins: int = NUM_BINS
) -> Bins:
    """Sort claims into bins; see `predictions_and_outcomes`."""
    numbers_M = bin_numbers(predicted_M, num_bins)
    count_B = np.bincount(numbers_M)
    return Bins(
        mean_predicted_B=np.bincount(numbers_M, weights=predicted_M) / count_B,
        observed_frequency_B=np.bincount(numbers_M, weights=outcomes_M.astype(np.float64))
        / count_B,
        count_B=count_B,
    )


def gap_rows(reference_NC: Choice, probabilities_NC: Array, task: str) -> Floats:
    """What each row adds to each bin's gap, (N, B): the sum of truth minus claim.

    Of its column sums, `ece` makes the calibration error.
    """
    predicted_M, outcomes_M = predictions_and_outcomes(reference_NC, probabilities_NC, task)
    numbers_M = bin_numbers(predicted_M)
    num_rows, num_bins = len(reference_NC), int(numbers_M.max()) + 1
    rows_M = np.repeat(np.arange(num_rows), len(predicted_M) // num_rows)
    flat = np.bincount(
        rows_M * num_bins + numbers_M,
        weights=outcomes_M - predicted_M,
        minlength=num_rows * num_bins,
    )
    return np.asarray(flat.reshape(num_rows, num_bins), dtype=np.float64)


def ece(gap_sums: Floats, num_claims: Floats | int) -> Floats:
    """Expected calibration error, in [0, 1], from sums of gaps per bin on the last axis."""
    return np.asarray(np.abs(gap_sums).sum(axis=-1) / num_claims)


def chance_ece(
    reference_NC: Choice, probabilities_NC: Array, task: str, *, seed: int, draws: int = 1000
) -> float:
    """The calibration error that a calibrated model stays under in 95 % of test sets like this.

    Source: J. Broecker and L. A. Smith (2007), Increasing the reliability of reliability
    diagrams, Weather and Forecasting 22: outcomes are drawn by the claims themselves. Of a
    bin's sum of outcomes only mean and variance are used, as of a normal variable.
    """
    predicted_M, _ = predictions_and_outcomes(reference_NC, probabilities_NC, task)
    variance_B = np.bincount(bin_numbers(predicted_M), weights=predicted_M * (1 - predicted_M))
    generator = np.random.default_rng(seed)
    gap_DB = generator.normal(0.0, np.sqrt(variance_B), (draws, len(variance_B)))
    return float(np.quantile(ece(gap_DB, len(predicted_M)), 0.95))


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The rows of one label by falling score, cut into runs.

    A run is either a group of equal scores with a positive row in it, or all that stands
    between two such groups, where no positive row is.
    """

    order_N: NDArray[np.int64]
    starts: NDArray[np.int64]
    """Where in the order each run starts."""
    mixed: NDArray[np.int64]
    """Numbers of the runs that hold positives."""
    positives: NDArray[np.int64]
    """Numbers of the positive rows, in order."""
    positive_starts: NDArray[np.int64]
    """Where among them each run of `mixed` starts."""


def rank(scores_N: Array, positive_N: NDArray[np.bool_]) -> Ranking | None:
    """Prepare `areas`; None for a label that no row has or every row has."""
    if not positive_N.any() or positive_N.all():
        return None
    order_N = np.argsort(-scores_N, kind="stable")
    sorted_N, hit_N = scores_N[order_N], positive_N[order_N]
    new_group_N = np.append(True, sorted_N[1:] != sorted_N[:-1])
    group_N = np.cumsum(new_group_N) - 1
    mixed_N = np.bincount(group_N, weights=hit_N)[group_N] > 0
    starts_here_N = new_group_N & (mixed_N | np.append(True, mixed_N[:-1]))
    starts = np.flatnonzero(starts_here_N)
    run_N = np.cumsum(starts_here_N) - 1
    mixed = np.flatnonzero(mixed_N[starts])
    return Ranking(
        order_N=order_N,
        starts=starts,
        mixed=mixed,
        positives=order_N[hit_N],
        positive_starts=np.searchsorted(run_N[hit_N], mixed),
    )


def areas(ranking: Ranking, weights_NR: Floats) -> tuple[Floats, Floats]:
    """Areas under the ROC and the precision-recall curve for weighted rows, each (R,).

    ROC: the probability that a positive row scores above a negative one, ties counted half
    (D. Bamber 1975, The area above the ordinal dominance graph, J. Math. Psychology 12).
    Precision-recall: average precision, the sum of precision times the gain in recall.
    NaN where the weights leave no positive or no negative row.
    """
    total = np.add.reduceat(weights_NR[ranking.order_N], ranking.starts, axis=0)
    hits = np.add.reduceat(weights_NR[ranking.positives], ranking.positive_starts, axis=0)
    misses = total
    misses[ranking.mixed] -= hits
    misses_so_far = np.cumsum(misses, axis=0)
    num_misses_R = misses_so_far[-1]
    misses_so_far, misses = misses_so_far[ranking.mixed], misses[ranking.mixed]
    hits_so_far = np.cumsum(hits, axis=0)
    num_hits_R = hits_so_far[-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        below = num_misses_R - misses_so_far + misses / 2
        roc_R = (hits * below).sum(axis=0) / (num_hits_R * num_misses_R)
        precision = hits_so_far / np.maximum(hits_so_far + misses_so_far, 1e-300)
        average_R = (hits * precision).sum(axis=0) / num_hits_R
    return roc_R, np.where(num_misses_R > 0, average_R, np.nan)
