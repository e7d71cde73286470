"""The decision threshold of a binary task: the precision-recall curve, and the choice on it.

Scores are probabilities of the positive label; a row is predicted positive if its score is at
least the threshold.

Shape suffixes: N rows, K points of a curve, one per distinct score.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
    scores_N: NDArray[np.floating], positive_N: NDArray[np.bool_]
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
    scores_N: NDArray[np.floating], positive_N: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
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
