"""The decision threshold of a binary task: the precision-recall curve, and the choice on it.

Scores are probabilities of the positive label; a row is predicted positive if its score is at
least the threshold.

What a wish guarantees, in finite samples, for any model, over the draw of the rows:

- Recall. Given the number of positive rows, that of the missed ones at a fixed threshold is
  binomial, and it falls with the threshold. So the exact tests, in order of rising thresholds
  until one fails, hold for all thresholds up to the last one at once (Learn then Test with a
  fixed sequence, see `train.statistics.selective`; the same as the tolerance limit of S. S. Wilks
  1941, Determination of sample sizes for setting tolerance limits). Any of them may be taken,
  here the one with the best precision on the same rows. Only the order of the scores counts, so
  rows that fitted a temperature may test.
- Precision does not rise with the threshold everywhere, and its denominator, the rows predicted
  positive, varies with it. Given that number, the number of errors at a fixed threshold is
  binomial: it is the selective risk of answering "positive". So the same tests are used, on a
  fixed grid, from a start that other rows chose.

The best F1 or cost on some rows guarantees nothing.

Shape suffixes: N rows, C labels, K points of a curve, one per distinct score.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train.statistics.metrics import Choice, Floats
from train.statistics.selective import Proved, smallest_proved

LOWEST = -12.0
"""Log odds of the smallest threshold for precision, except 0: probabilities of a rare label are
small."""

MIN_POSITIVES = 10
"""Rows with a label, and rows without it, needed to choose its threshold; else it is 0.5."""


@dataclass(frozen=True, kw_only=True)
class PrecisionRecallCurve:
    """Precision and recall of the positive label as the threshold falls."""

    precision_K: NDArray[np.float64]
    """Fraction of the rows predicted positive that are positive."""
    recall_K: NDArray[np.float64]
    """Fraction of the positive rows that are predicted positive; 0 where there are none."""
    threshold_K: NDArray[np.float64]
    """The distinct scores, falling; rows from here up are predicted positive."""


def precision_recall_curve(
    scores_N: NDArray[np.floating], positive_N: Choice
) -> PrecisionRecallCurve:
    """Compute one point per distinct score: rows of equal score are predicted together.

    The last point predicts all rows positive; there is none for no row, whose precision is
    undefined. Between points the curve is a step, not a line: J. Davis and M. Goadrich (2006),
    The relationship between precision-recall and ROC curves, ICML.
    Raises ValueError for no rows and for unequal shapes.
    """
    threshold_K, predicted_K, hits_K = counts(scores_N, positive_N)
    return PrecisionRecallCurve(
        precision_K=hits_K / predicted_K,
        recall_K=hits_K / max(1, int(positive_N.sum())),
        threshold_K=threshold_K,
    )


def counts(
    scores_N: NDArray[np.floating], positive_N: Choice
) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
    """Distinct scores, falling, and rows and positive rows from each up: each (K,)."""
    if len(scores_N) == 0 or scores_N.shape != positive_N.shape:
        raise ValueError(
            f"{len(scores_N)} scores and {len(positive_N)} outcomes: expected as many, and at "
            "least one"
        )
    order_N = np.argsort(-scores_N, kind="stable")
    sorted_N = scores_N[order_N].astype(np.float64)
    last_N = np.append(sorted_N[1:] != sorted_N[:-1], True)
    hits_N = np.cumsum(positive_N[order_N])
    return sorted_N[last_N], np.flatnonzero(last_N) + 1, hits_N[last_N]


def threshold_for_recall(
    scores_N: NDArray[np.floating], positive_N: Choice, *, min_recall: float, level: float
) -> float | None:
    """Choose, of the thresholds that are proved to reach a recall, the one of best precision.

    level: probability of a threshold that does not reach it. Of equal precisions the highest
    recall counts. None: nothing is proved, because of too few positive rows: even the threshold
    that misses none of them is no proof. Raises ValueError as `precision_recall_curve` does.
    """
    from scipy.stats import binom

    score_K, predicted_K, hits_K = counts(scores_N, positive_N)
    positives = int(positive_N.sum())
    if positives == 0:
        return None
    proved_K = binom.cdf(positives - hits_K, positives, 1 - min_recall) <= level
    if not proved_K.any():
        return None
    precision_K = np.where(proved_K, hits_K / predicted_K, -1.0)
    best = int(np.flatnonzero(precision_K == precision_K.max())[-1])
    return float(_between(score_K)[best])


def threshold_for_precision(
    scores_N: NDArray[np.floating],
    positive_N: Choice,
    *,
    pilot_N: Choice,
    min_precision: float,
    level: float,
) -> Proved | None:
    """Choose, of the thresholds that are proved to reach a precision, the one of best recall.

    pilot_N: the rows that decide where the tests start; all others test. level: probability of
    a threshold that does not reach it. None: none is proved.
    """
    return smallest_proved(
        scores_N.astype(np.float64),
        ~positive_N,
        pilot_N=pilot_N,
        max_risk=1 - min_precision,
        level=level,
        lowest=LOWEST,
    )


def threshold_for_f1(scores_N: NDArray[np.floating], positive_N: Choice) -> float | None:
    """Choose the threshold of the best F1; None for fewer than `MIN_POSITIVES` rows of a label."""
    if has_few(positive_N):
        return None
    return float(fit_thresholds(scores_N[:, None], positive_N[:, None])[0])


def threshold_for_costs(
    scores_N: NDArray[np.floating],
    positive_N: Choice,
    *,
    false_positive: float,
    false_negative: float,
) -> float:
    """Choose the threshold of the least total cost; ties go to the one that calibration implies.

    That is the cost of a false positive over the sum of both, the best one for probabilities
    that are right (C. Elkan 2001, The foundations of cost-sensitive learning, IJCAI). It is also
    taken for fewer than `MIN_POSITIVES` rows of a label.
    """
    implied = false_positive / (false_positive + false_negative)
    if has_few(positive_N):
        return implied
    score_K, predicted_K, hits_K = counts(scores_N, positive_N)
    positives = int(positive_N.sum())
    threshold_K = np.concatenate([[implied, (1 + score_K[0]) / 2], _between(score_K)])
    at_implied_N = scores_N >= implied
    wrong = int((at_implied_N & ~positive_N).sum()), int((~at_implied_N & positive_N).sum())
    false_positives_K = np.concatenate([[wrong[0], 0], predicted_K - hits_K])
    false_negatives_K = np.concatenate([[wrong[1], positives], positives - hits_K])
    cost_K = false_positive * false_positives_K + false_negative * false_negatives_K
    best = np.flatnonzero(cost_K <= cost_K.min() * (1 + 1e-12))
    return float(threshold_K[best[np.abs(threshold_K[best] - implied).argmin()]])


def has_few(positive_N: Choice) -> bool:
    """Whether too few rows have a label, or too few do not have it, to choose its threshold."""
    positives = int(positive_N.sum())
    return min(positives, len(positive_N) - positives) < MIN_POSITIVES


def _between(score_K: Floats) -> Floats:
    """Thresholds that the first 1 to K distinct scores reach, half-way to the next score or 0."""
    return np.asarray((score_K + np.append(score_K[1:], 0.0)) / 2)


def fit_thresholds(probabilities_NC: NDArray[np.floating], reference_NC: Choice) -> Floats:
    """Choose each label's threshold with the best F1, (C,), half-way between two probabilities.

    Ties go to the threshold nearest to 0.5. A label with fewer than `MIN_POSITIVES` rows with
    or without it keeps 0.5: its best threshold would be chance.
    """
    thresholds_C = np.full(probabilities_NC.shape[1], 0.5)
    for c, (p_N, has_N) in enumerate(zip(probabilities_NC.T, reference_NC.T, strict=True)):
        if has_few(has_N):
            continue
        support = int(has_N.sum())
        order_N = np.argsort(-p_N, kind="stable")
        sorted_N = p_N[order_N].astype(np.float64)
        hits_N = np.cumsum(has_N[order_N])
        f1_N = 2 * hits_N / (np.arange(1, len(p_N) + 1) + support)
        between_N = (sorted_N[:-1] + sorted_N[1:]) / 2
        candidates, f1 = (
            np.append(0.5, between_N),
            np.append(_f1_at(p_N, has_N, 0.5), np.where(np.diff(sorted_N) < 0, f1_N[:-1], -1.0)),
        )
        best = np.flatnonzero(f1 >= f1.max() - 1e-12)
        thresholds_C[c] = candidates[best[np.abs(candidates[best] - 0.5).argmin()]]
    return thresholds_C


def _f1_at(p_N: NDArray[np.floating], has_N: Choice, threshold: float) -> float:
    given_N = p_N >= threshold
    return 2 * float((given_N & has_N).sum()) / max(1, int(given_N.sum()) + int(has_N.sum()))
