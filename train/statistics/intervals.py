"""Every metric of a classifier with its 95 % interval.

Accuracy, precision and recall are proportions and have Wilson's interval; all others have
percentile bootstrap intervals over the test rows. Each of a thousand resamples is a weight per
row, so that every metric is computed for all of them at once.

The calibration error is biased upwards, and twice as much in a resample. Its interval is
therefore the basic bootstrap interval (the quantiles mirrored about the value), which corrects
the bias, extended to include the value (A. C. Davison and D. V. Hinkley 1997, Bootstrap Methods
and their Application, eq. 5.6). It starts at 0 where a calibrated model would often have as large
an error. It is approximate: in simulations it covered the true error in 88 to 95 % of test sets.

Shape suffixes: N rows, C labels, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serve.bundle.manifest import Measured
from serve.inference.scores import Array
from serve.stats import weighted_bootstrap, wilson
from train.statistics.metrics import Choice, Floats, f1_macro
from train.statistics.probability_metrics import (
    brier_rows,
    chance_ece,
    ece,
    gap_rows,
    log_loss_rows,
)
from train.statistics.ranking_metrics import areas, rank


@dataclass(frozen=True, kw_only=True)
class LabelMetrics:
    """Binary metrics of one label; a metric with a zero denominator is 0."""

    label: str
    support: int
    """Rows that have the label."""
    predicted: int
    """Rows for which the model predicts it."""
    precision: Measured
    recall: Measured
    f1: Measured


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Metrics over all labels, and per label."""

    overall: dict[str, Measured]
    """Accuracy first; a metric that the data leaves undefined (AUC of one class) is absent."""
    per_label: list[LabelMetrics]


def measure_all(
    reference_NC: Choice,
    predicted_NC: Choice,
    probabilities_NC: Array,
    *,
    task: str,
    labels: Sequence[str],
    seed: int,
    resamples: int = 1000,
) -> Metrics:
    """Compute all metrics of predictions.

    accuracy and F1: see `train.statistics.metrics.scores`. mcc: Matthews correlation
    coefficient, for multi-label over all decisions. roc_auc and pr_auc: mean over labels,
    one-vs-rest, of the labels that have positive and negative rows. log_loss, brier, ece: see
    `train.statistics.probability_metrics`; lower is better.
    """
    n = len(reference_NC)
    sums = _Sums(reference_NC, predicted_NC, probabilities_NC, task)
    value_K = sums.values(np.ones((n, 1)))[0]
    interval_2K = weighted_bootstrap(sums.values, n, seed=seed, resamples=resamples)
    overall: dict[str, Measured] = {}
    for k, name in enumerate(sums.names):
        value, (low, high) = float(value_K[k]), map(float, interval_2K[:, k])
        if name == "accuracy":
            low, high = wilson(round(value * n), n)
        elif name == "ece":
            low, high = min(2 * value - high, value), max(2 * value - low, value)
            by_chance = chance_ece(reference_NC, probabilities_NC, task, seed=seed)
            low = 0.0 if value <= by_chance else max(0.0, low)
        if not math.isnan(value):
            overall[name] = Measured(value=value, low=low, high=high)
    per_label = _per_label(
        reference_NC,
        predicted_NC,
        labels,
        value_K[len(sums.names) :],
        interval_2K[:, len(sums.names) :],
    )
    return Metrics(overall=overall, per_label=per_label)


def _per_label(
    reference_NC: Choice,
    predicted_NC: Choice,
    labels: Sequence[str],
    f1_C: Floats,
    f1_interval_2C: Floats,
) -> list[LabelMetrics]:
    hit_C = (reference_NC & predicted_NC).sum(axis=0).tolist()
    support_C, predicted_C = (each.sum(axis=0).tolist() for each in (reference_NC, predicted_NC))
    low_C, high_C = f1_interval_2C.tolist()
    return [
        LabelMetrics(
            label=label,
            support=support_C[c],
            predicted=predicted_C[c],
            precision=_proportion(hit_C[c], predicted_C[c]),
            recall=_proportion(hit_C[c], support_C[c]),
            f1=Measured(value=float(f1_C[c]), low=low_C[c], high=high_C[c]),
        )
        for c, label in enumerate(labels)
    ]


def _proportion(successes: int, trials: int) -> Measured:
    if trials == 0:
        return Measured(value=0.0)
    low, high = wilson(successes, trials)
    return Measured(value=successes / trials, low=low, high=high)


class _Sums:
    """Per-row terms of the metrics, so that weighted rows give weighted metrics."""

    names = (
        "accuracy", "f1_macro", "f1_micro", "f1_weighted", "mcc", "roc_auc", "pr_auc",
        "log_loss", "brier", "ece",
    )  # fmt: skip

    def __init__(
        self, reference_NC: Choice, predicted_NC: Choice, probabilities_NC: Array, task: str
    ) -> None:
        self.task = task
        self.hit_NC = (reference_NC & predicted_NC).astype(np.float64)
        self.reference_NC = reference_NC.astype(np.float64)
        self.predicted_NC = predicted_NC.astype(np.float64)
        self.correct_N = (reference_NC == predicted_NC).all(axis=1).astype(np.float64)
        self.log_loss_N = log_loss_rows(reference_NC, probabilities_NC, task)
        self.brier_N = brier_rows(reference_NC, probabilities_NC, task)
        self.gap_NB = gap_rows(reference_NC, probabilities_NC, task)
        ranked = (rank(probabilities_NC[:, c], each) for c, each in enumerate(reference_NC.T))
        self.rankings = [ranking for ranking in ranked if ranking is not None]

    def values(self, weights_NR: Floats) -> Floats:
        """The metrics in the order of `names`, then each label's F1; shape (R, K)."""
        weights_RN = weights_NR.T
        num_labels = self.hit_NC.shape[1]
        n_R = weights_RN.sum(axis=1)
        hit_RC = weights_RN @ self.hit_NC
        support_RC = weights_RN @ self.reference_NC
        predicted_RC = weights_RN @ self.predicted_NC
        both_RC = support_RC + predicted_RC
        f1_RC = 2 * hit_RC / np.maximum(both_RC, 1)
        num_predictions_R = n_R * (num_labels if self.task == "multi_label" else 1)
        columns_R = {
            "accuracy": weights_RN @ self.correct_N / n_R,
            "f1_macro": f1_macro(hit_RC, predicted_RC, support_RC),
            "f1_micro": 2 * hit_RC.sum(axis=1) / np.maximum(both_RC.sum(axis=1), 1),
            "f1_weighted": (f1_RC * support_RC).sum(axis=1) / np.maximum(support_RC.sum(axis=1), 1),
            "mcc": self._mcc(hit_RC, support_RC, predicted_RC, n_R),
            "log_loss": weights_RN @ self.log_loss_N / n_R,
            "brier": weights_RN @ self.brier_N / n_R,
            "ece": ece(weights_RN @ self.gap_NB, num_predictions_R),
        }
        areas_LR = [areas(ranking, weights_NR) for ranking in self.rankings]
        for which, name in enumerate(("roc_auc", "pr_auc")):
            columns_R[name] = _mean_of_known([area[which] for area in areas_LR], len(n_R))
        return np.column_stack([*(columns_R[name] for name in self.names), f1_RC])

    def _mcc(self, hit_RC: Floats, support_RC: Floats, predicted_RC: Floats, n_R: Floats) -> Floats:
        """Compute the Matthews correlation coefficient; 0 where either side is constant.

        Multi-label: of the two categories yes and no, over all decisions. Source: J. Gorodkin
        (2004), Comparing two K-category assignments by a K-category correlation coefficient,
        Computational Biology and Chemistry 28, eq. 8.
        """
        if self.task == "multi_label":
            total_R = n_R * hit_RC.shape[1]
            hit_R, support_R, predicted_R = (
                each.sum(axis=1) for each in (hit_RC, support_RC, predicted_RC)
            )
            both_no_R = total_R - support_R - predicted_R + hit_R
            hit_RC = np.stack([hit_R, both_no_R], axis=1)
            support_RC = np.stack([support_R, total_R - support_R], axis=1)
            predicted_RC = np.stack([predicted_R, total_R - predicted_R], axis=1)
            n_R = total_R
        covariance_R = hit_RC.sum(axis=1) * n_R - (support_RC * predicted_RC).sum(axis=1)
        variance_R = (n_R**2 - (support_RC**2).sum(axis=1)) * (
            n_R**2 - (predicted_RC**2).sum(axis=1)
        )
        return np.where(variance_R > 0, covariance_R / np.sqrt(np.maximum(variance_R, 1e-300)), 0.0)


def _mean_of_known(values: list[Floats], resamples: int) -> Floats:
    """Mean over the labels for which a resample defines a value; NaN if it defines none."""
    if not values:
        return np.full(resamples, np.nan)
    values_LR = np.stack(values)
    known_LR = ~np.isnan(values_LR)
    count_R = known_LR.sum(axis=0)
    sum_R = np.where(known_LR, values_LR, 0.0).sum(axis=0)
    return np.where(count_R > 0, sum_R / np.maximum(count_R, 1), np.nan)
