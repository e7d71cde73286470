"""The precision-recall curve and the choice of a decision threshold."""

from __future__ import annotations

import numpy as np
import pytest

from train.statistics.thresholds import precision_recall_curve


def test_curve_equals_sklearns_at_every_distinct_score() -> None:
    from sklearn.metrics import precision_recall_curve as sklearns

    generator = np.random.default_rng(0)
    scores_N = np.round(generator.random(300), 2).astype(np.float32)  # with ties
    positive_N = generator.random(300) < scores_N

    curve = precision_recall_curve(scores_N, positive_N)

    precision, recall, threshold = sklearns(positive_N, scores_N)
    assert np.allclose(curve.precision_K[::-1], precision[:-1])
    assert np.allclose(curve.recall_K[::-1], recall[:-1])
    assert np.allclose(curve.threshold_K[::-1], threshold)


def test_curve_of_equal_scores_has_one_point() -> None:
    curve = precision_recall_curve(np.full(4, 0.3), np.array([True, False, False, False]))

    assert (curve.precision_K.tolist(), curve.recall_K.tolist()) == ([0.25], [1.0])
    assert curve.threshold_K.tolist() == [0.3]


def test_curve_without_positive_rows_has_no_recall() -> None:
    curve = precision_recall_curve(np.array([0.2, 0.8]), np.zeros(2, dtype=bool))

    assert not curve.recall_K.any()
    assert not curve.precision_K.any()


def test_curve_of_no_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        precision_recall_curve(np.zeros(0), np.zeros(0, dtype=bool))
