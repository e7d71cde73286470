"""How good probabilities are: losses per row, and calibration. Pure.

The calibration error is a sum over rows, so that `train.statistics.resampling` computes a
thousand resamples in a few matrix products.

Shape suffixes: N rows, C labels, M predicted probabilities, B bins, D draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve.inference.scores import Array
from train.statistics.metrics import Choice, Floats

MAX_BINS = 15
"""Calibration bins of equal mass, at most; see `num_bins`. Most confidences of a trained
classifier are near 1: of fifteen bins of equal width one or two would hold nearly all of them,
and the error would be that of a coarse mean. (K. Nguyen and B. O'Connor 2015, Posterior
calibration and exploratory analysis, EMNLP; J. Nixon et al. 2019, Measuring calibration in deep
learning, CVPR workshops.)"""


def log_loss_rows(reference_NC: Choice, probabilities_NC: Array, task: str) -> Floats:
    """Negative log-likelihood of each row in nats, (N,); for multi-label the mean over labels.

    Probabilities are clipped to a float32 epsilon from 0 and 1, so that every row is finite.
    """
    epsilon = float(np.finfo(np.float32).eps)
    p_NC = np.clip(probabilities_NC.astype(np.float64), epsilon, 1 - epsilon)
    if task == "multi_label":
        return np.asarray(-np.log(np.where(reference_NC, p_NC, 1 - p_NC)).mean(axis=1))
    return np.asarray(-np.log(p_NC[reference_NC]))


def brier_rows(reference_NC: Choice, probabilities_NC: Array, task: str) -> Floats:
    """Squared error of each row's probabilities, (N,).

    Single-label: sum over the labels, from 0 to 2 (G. W. Brier 1950, Verification of
    forecasts expressed in terms of probability, Monthly Weather Review 78). Multi-label: mean
    over the labels, from 0 to 1.
    """
    squared_NC = (probabilities_NC.astype(np.float64) - reference_NC) ** 2
    return np.asarray(squared_NC.mean(axis=1) if task == "multi_label" else squared_NC.sum(axis=1))


def predictions_and_outcomes(
    reference_NC: Choice, probabilities_NC: Array, task: str
) -> tuple[Floats, NDArray[np.bool_]]:
    """Predicted probabilities and whether each came true, each of shape (M,), row by row.

    Single-label: the top label's probability, and whether it is the true label; M is N.
    Multi-label: every label's probability, and whether the row has the label; M is N * C.
    """
    if task == "multi_label":
        return probabilities_NC.astype(np.float64).ravel(), reference_NC.ravel()
    best_N = probabilities_NC.argmax(axis=1)
    rows_N = np.arange(len(best_N))
    return probabilities_NC[rows_N, best_N].astype(np.float64), reference_NC[rows_N, best_N]


def ece(gap_sums: Floats, num_predictions: Floats | int) -> Floats:
    """Expected calibration error, in [0, 1].

    gap_sums: per bin, on the last axis, the sum of outcome minus predicted probability.
    Source: C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger (2017), On calibration of modern
    neural networks, ICML, eq. 3. It is biased upwards: noise within a bin counts as error.
    """
    return np.asarray(np.abs(gap_sums).sum(axis=-1) / num_predictions)


@dataclass(frozen=True, kw_only=True)
class Bins:
    """Predictions in bins of equal mass; equal probabilities fall into the same bin."""

    mean_predicted_B: Floats
    """Mean predicted probability."""
    observed_frequency_B: Floats
    """Fraction that came true."""
    count_B: NDArray[np.int64]

    @property
    def ece(self) -> float:
        """Expected calibration error."""
        gap_B = self.observed_frequency_B - self.mean_predicted_B
        return float(ece(gap_B * self.count_B, int(self.count_B.sum())))


def num_bins(num_predictions: int) -> int:
    """Return how many bins so many predictions fill: their cube root, from 2 to `MAX_BINS`.

    With 15 bins of 24 rows each the noise within the bins is most of the calibration error.
    Source: the rate of R. Roelofs, N. Cain, J. Shlens and M. C. Mozer (2022), Mitigating bias
    in calibration error estimation, AISTATS.
    """
    return min(MAX_BINS, max(2, round(float(np.cbrt(num_predictions)))))


def bin_numbers(predicted_M: Floats, bins: int | None = None) -> NDArray[np.int64]:
    """Number the bin of each prediction, from 0 and without gaps; by default `num_bins` bins."""
    bins = num_bins(len(predicted_M)) if bins is None else bins
    edges = np.unique(np.quantile(predicted_M, np.linspace(0, 1, bins + 1)[1:-1]))
    numbers_M = np.searchsorted(edges, predicted_M, side="right")
    return np.unique(numbers_M, return_inverse=True)[1].astype(np.int64).reshape(-1)


def calibration_bins(
    predicted_M: Floats, outcomes_M: NDArray[np.bool_], bins: int | None = None
) -> Bins:
    """Sort predictions into bins; see `predictions_and_outcomes` and `bin_numbers`."""
    numbers_M = bin_numbers(predicted_M, bins)
    count_B = np.bincount(numbers_M)
    return Bins(
        mean_predicted_B=np.bincount(numbers_M, weights=predicted_M) / count_B,
        observed_frequency_B=np.bincount(numbers_M, weights=outcomes_M.astype(np.float64))
        / count_B,
        count_B=count_B,
    )


def gap_rows(reference_NC: Choice, probabilities_NC: Array, task: str) -> Floats:
    """What each row adds to the gap of each bin, (N, B); `ece` takes sums over its rows."""
    predicted_M, outcomes_M = predictions_and_outcomes(reference_NC, probabilities_NC, task)
    numbers_M = bin_numbers(predicted_M)
    num_rows, bins = len(reference_NC), int(numbers_M.max()) + 1
    rows_M = np.repeat(np.arange(num_rows), len(predicted_M) // num_rows)
    flat = np.bincount(
        rows_M * bins + numbers_M,
        weights=outcomes_M - predicted_M,
        minlength=num_rows * bins,
    )
    return np.asarray(flat.reshape(num_rows, bins), dtype=np.float64)


def chance_ece(
    reference_NC: Choice, probabilities_NC: Array, task: str, *, seed: int, draws: int = 1000
) -> float:
    """95 % quantile of the calibration error of a calibrated model on test sets like this one.

    Source: J. Broecker and L. A. Smith (2007), Increasing the reliability of reliability
    diagrams, Weather and Forecasting 22: outcomes are drawn from the predicted probabilities.
    The sum of outcomes in a bin is approximated as normal with the same mean and variance.
    """
    predicted_M, _ = predictions_and_outcomes(reference_NC, probabilities_NC, task)
    variance_B = np.bincount(bin_numbers(predicted_M), weights=predicted_M * (1 - predicted_M))
    generator = np.random.default_rng(seed)
    gap_DB = generator.normal(0.0, np.sqrt(variance_B), (draws, len(variance_B)))
    return float(np.quantile(ece(gap_DB, len(predicted_M)), 0.95))
