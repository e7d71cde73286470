"""Every metric of a classifier with its 95 % interval.

Accuracy, precision, recall and F1 of a label are or derive from proportions and have Wilson's
interval; the others have approximate ones of `train.statistics.score_intervals`, and the
calibration error that of `train.statistics.calibration_error`. No interval has zero width,
since no finite test set shows a metric exactly.

Shape suffixes: N rows, C labels, K columns, R sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from serve.bundle.manifest import Measured
from serve.inference.scores import Array
from train.statistics.calibration_error import CalibrationError
from train.statistics.metrics import Choice, Counts, Floats, f1_macro, scores
from train.statistics.probability_metrics import (
    brier_rows,
    chance_ece,
    gap_rows,
    log_loss_rows,
)
from train.statistics.ranking_metrics import areas
from train.statistics.score_intervals import (
    average_precision_ends,
    f1_ends,
    mean_loss,
    mean_of_labels,
    newcombe,
    of_counts,
    proportion_ends,
)


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
) -> Metrics:
    """Compute all metrics of predictions.

    accuracy and F1: see `train.statistics.metrics.scores`. mcc: Matthews correlation
    coefficient, for multi-label over all decisions. roc_auc and pr_auc: mean over labels,
    one-vs-rest, of the labels that have positive and negative rows. log_loss, brier, ece: see
    `train.statistics.probability_metrics`; lower is better. seed: of the draws for ece.
    """
    rows = _Rows(reference_NC, predicted_NC, probabilities_NC, task)
    per_label = measure_labels(reference_NC, predicted_NC, labels)
    overall = {
        "accuracy": _accuracy(rows),
        **_f1_and_mcc(rows, scores(reference_NC, predicted_NC)),
        **_areas(rows),
        **_losses(rows),
        "ece": _calibration_error(rows, seed),
    }
    return Metrics(overall=overall, per_label=per_label)


@dataclass(frozen=True)
class _Rows:
    """The test rows; and what they would be if every prediction were wrong or right."""

    reference_NC: Choice
    predicted_NC: Choice
    probabilities_NC: Array
    task: str

    @property
    def wrong_NC(self) -> Choice:
        """True labels with which the least certain decision of each row would be wrong."""
        if self.task == "multi_label":
            least_N = np.abs(self.probabilities_NC - 0.5).argmin(axis=1)
            least_NC = np.arange(self.predicted_NC.shape[1]) == least_N[:, None]
            return np.where(least_NC, ~self.predicted_NC, self.reference_NC)
        second_N = np.where(self.predicted_NC, -1.0, self.probabilities_NC).argmax(axis=1)
        return np.asarray(np.arange(self.predicted_NC.shape[1]) == second_N[:, None])

    def counts(self, reference_NC: Choice, which_C: Choice) -> Floats:
        """What each row adds to hits, support and predictions of these labels, and to rows."""
        reference_NC, predicted_NC = reference_NC[:, which_C], self.predicted_NC[:, which_C]
        ones_N1 = np.ones((len(reference_NC), 1), dtype=bool)
        columns = [reference_NC & predicted_NC, reference_NC, predicted_NC, ones_N1]
        return np.hstack(columns).astype(np.float64)


def _accuracy(rows: _Rows) -> Measured:
    correct_N = (rows.reference_NC == rows.predicted_NC).all(axis=1)
    return _proportion(int(correct_N.sum()), len(correct_N))


def _f1_and_mcc(rows: _Rows, f1: dict[str, float]) -> dict[str, Measured]:
    """Micro-F1 of a single-label task is its accuracy."""
    occurs_C = np.asarray((rows.reference_NC | rows.predicted_NC).any(axis=0))
    counts_NK, *pseudo = (
        rows.counts(each_NC, occurs_C)
        for each_NC in (rows.reference_NC, rows.wrong_NC, rows.predicted_NC)
    )
    pseudo_MK = np.vstack(pseudo)
    is_multi = rows.task == "multi_label"

    def mcc(sums_RK: Floats) -> Floats:
        return _mcc(*_split(sums_RK), is_multi)

    f1_low, f1_high = of_counts(_f1_macro, counts_NK, pseudo_MK)
    low, high = _macro_f1_of_labels(rows)
    found = {
        "f1_macro": Measured(value=f1["f1_macro"], low=min(low, f1_low), high=max(high, f1_high)),
        "f1_micro": _accuracy(rows),
    }
    others: dict[str, Any] = {"f1_weighted": (_f1_weighted, 0.0), "mcc": (mcc, -1.0)}
    if is_multi:
        others["f1_micro"] = (_f1_micro, 0.0)
    for name, (value, least) in others.items():
        low, high = of_counts(value, counts_NK, pseudo_MK, least=least)
        observed = float(value(counts_NK.sum(axis=0)[None])[0])
        found[name] = Measured(value=observed, low=min(low, observed), high=max(high, observed))
    return found


def _macro_f1_of_labels(rows: _Rows) -> tuple[float, float]:
    """Macro-F1 from the labels' intervals, which are right for rare labels.

    That of `of_counts` is right for labels with few errors; the union of both covers both.
    """
    hit_NC = rows.reference_NC & rows.predicted_NC
    both_NC = rows.reference_NC.astype(np.float64) + rows.predicted_NC
    hit_C, both_C = hit_NC.sum(axis=0), both_NC.sum(axis=0)
    occurs_C = both_C > 0
    hit_C, both_C = hit_C[occurs_C], both_C[occurs_C]
    f1_C, trials_C = 2 * hit_C / both_C, both_C - hit_C
    influence_NC = (2 * hit_NC[:, occurs_C] - f1_C * both_NC[:, occurs_C]) / both_C
    return mean_of_labels(lambda z: f1_ends(hit_C / trials_C, trials_C, z), influence_NC)


def _areas(rows: _Rows) -> dict[str, Measured]:
    """Macro averages; without any label that has positive and negative rows, none."""
    found = [
        (areas(scores_N, has_N), int(has_N.sum()))
        for scores_N, has_N in zip(rows.probabilities_NC.T, rows.reference_NC.T, strict=True)
    ]
    known = [(each, positives) for each, positives in found if each is not None]
    if not known:
        return {}
    positives_C = np.array([positives for _, positives in known], dtype=np.float64)
    negatives_C = len(rows.reference_NC) - positives_C
    roc_C = np.array([each.roc for each, _ in known])
    average_C = np.array([each.average_precision for each, _ in known])
    roc_ends = mean_of_labels(
        lambda z: newcombe(roc_C, positives_C, negatives_C, z),
        np.stack([each.roc_influence_N for each, _ in known], axis=1),
    )
    average_ends = mean_of_labels(
        lambda z: average_precision_ends(average_C, positives_C, z),
        np.stack([each.average_precision_influence_N for each, _ in known], axis=1),
    )
    return {
        "roc_auc": _measured(float(roc_C.mean()), roc_ends),
        "pr_auc": _measured(float(average_C.mean()), average_ends),
    }


def _losses(rows: _Rows) -> dict[str, Measured]:
    wrong_NC, found = rows.wrong_NC, {}
    for name, loss in (("log_loss", log_loss_rows), ("brier", brier_rows)):
        loss_N, wrong_N, right_N = (
            loss(each_NC, rows.probabilities_NC, rows.task)
            for each_NC in (rows.reference_NC, wrong_NC, rows.predicted_NC)
        )
        found[name] = _measured(float(loss_N.mean()), mean_loss(loss_N, wrong_N, right_N))
    return found


def _calibration_error(rows: _Rows, seed: int) -> Measured:
    data = rows.reference_NC, rows.probabilities_NC, rows.task
    num_rows, num_labels = rows.reference_NC.shape
    num_predictions = num_rows * (num_labels if rows.task == "multi_label" else 1)
    error = CalibrationError(gap_rows(*data), num_predictions, seed=seed)
    measured = _measured(error.value, error.interval())
    return measured.model_copy(update={"by_chance": chance_ece(*data, seed=seed)})


def measure_labels(
    reference_NC: Choice, predicted_NC: Choice, labels: Sequence[str]
) -> list[LabelMetrics]:
    """Precision, recall and F1 of every label, with 95 % intervals."""
    hit_C = (reference_NC & predicted_NC).sum(axis=0).tolist()
    support_C, predicted_C = (each.sum(axis=0).tolist() for each in (reference_NC, predicted_NC))
    return [
        LabelMetrics(
            label=label,
            support=support_C[c],
            predicted=predicted_C[c],
            precision=_proportion(hit_C[c], predicted_C[c]),
            recall=_proportion(hit_C[c], support_C[c]),
            f1=_f1(hit_C[c], support_C[c] + predicted_C[c]),
        )
        for c, label in enumerate(labels)
    ]


def _proportion(successes: int, trials: int) -> Measured:
    if trials == 0:
        return Measured(value=0.0)
    low, high = proportion_ends(np.array(successes / trials), np.array(float(trials)))
    return _measured(successes / trials, (float(low), float(high)))


def _f1(hits: int, both: int) -> Measured:
    if both == 0:
        return Measured(value=0.0)
    trials = both - hits
    low, high = f1_ends(np.array(hits / trials), np.array(float(trials)))
    return _measured(2 * hits / both, (float(low), float(high)))


def _measured(value: float, ends: tuple[float, float]) -> Measured:
    """The value with its interval; rounding must not leave the value outside."""
    return Measured(value=value, low=min(ends[0], value), high=max(ends[1], value))


def _split(sums_RK: Floats) -> tuple[Counts, Counts, Counts, Counts]:
    """Hits, support and predictions per label, (R, C), and rows, (R,)."""
    hit_RC, support_RC, predicted_RC = np.split(sums_RK[:, :-1], 3, axis=1)
    return hit_RC, support_RC, predicted_RC, sums_RK[:, -1]


def _f1_macro(sums_RK: Floats) -> Floats:
    hit_RC, support_RC, predicted_RC, _ = _split(sums_RK)
    return f1_macro(hit_RC, predicted_RC, support_RC)


def _f1_micro(sums_RK: Floats) -> Floats:
    hit_RC, support_RC, predicted_RC, _ = _split(sums_RK)
    both_R = (support_RC + predicted_RC).sum(axis=1)
    return np.asarray(2 * hit_RC.sum(axis=1) / np.maximum(both_R, 1))


def _f1_weighted(sums_RK: Floats) -> Floats:
    hit_RC, support_RC, predicted_RC, _ = _split(sums_RK)
    f1_RC = 2 * hit_RC / np.maximum(support_RC + predicted_RC, 1)
    return np.asarray((f1_RC * support_RC).sum(axis=1) / np.maximum(support_RC.sum(axis=1), 1))


def _mcc(
    hit_RC: Floats, support_RC: Floats, predicted_RC: Floats, n_R: Floats, is_multi: bool
) -> Floats:
    """Compute the Matthews correlation coefficient; 0 where either side is constant.

    Multi-label: of the two categories yes and no, over all decisions. Source: J. Gorodkin
    (2004), Comparing two K-category assignments by a K-category correlation coefficient,
    Computational Biology and Chemistry 28, eq. 8.
    """
    if is_multi:
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
    variance_R = (n_R**2 - (support_RC**2).sum(axis=1)) * (n_R**2 - (predicted_RC**2).sum(axis=1))
    return np.where(variance_R > 0, covariance_R / np.sqrt(np.maximum(variance_R, 1e-300)), 0.0)
