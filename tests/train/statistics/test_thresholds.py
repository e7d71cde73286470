"""The precision-recall curve and the choice of a decision threshold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from train.statistics.selective import sure_rows
from train.statistics.thresholds import (
    precision_recall_curve,
    threshold_for_costs,
    threshold_for_f1,
    threshold_for_precision,
    threshold_for_recall,
)


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


# Thresholds


def sample(n: int, share: float, separation: float, seed: int) -> tuple[Any, Any]:
    generator = np.random.default_rng(seed)
    positive_N = generator.random(n) < share
    odds_N = separation * (generator.standard_normal(n) + separation * (positive_N - 0.5))
    odds_N += np.log(share / (1 - share))
    return (1 / (1 + np.exp(-odds_N))).astype(np.float32), positive_N


def figures(scores_N: Any, positive_N: Any, threshold: float) -> tuple[float, float]:
    """Precision and recall."""
    predicted_N = scores_N.astype(np.float64) >= threshold
    hits = (predicted_N & positive_N).sum()
    return hits / max(1, predicted_N.sum()), hits / positive_N.sum()


@pytest.mark.parametrize(("positives", "is_proved"), [(58, False), (59, True)])
def test_recall_needs_as_many_positive_rows_as_the_exact_test(
    positives: int, is_proved: bool
) -> None:
    positive_N = np.arange(300) < positives

    found = threshold_for_recall(positive_N * 0.8 + 0.1, positive_N, min_recall=0.95, level=0.05)

    assert sure_rows(0.95, 0.05) == 59
    assert (found is not None) == is_proved


def test_recall_is_proved_exactly_where_the_binomial_test_rejects() -> None:
    scores_N, positive_N = sample(2000, 0.2, 2.0, seed=3)

    found = threshold_for_recall(scores_N, positive_N, min_recall=0.9, level=0.05)

    assert found is not None
    positives = int(positive_N.sum())
    missed = int((positive_N & (scores_N < found)).sum())
    assert binom.cdf(missed, positives, 0.1) <= 0.05
    least = np.sort(scores_N[positive_N])[missed : missed + 8]  # the next missed positive rows
    assert binom.cdf(missed + 8, positives, 0.1) > 0.05
    assert found < least[0]


def test_recall_takes_the_best_precision_among_what_is_proved() -> None:
    scores_N, positive_N = sample(1000, 0.3, 2.0, seed=5)

    found = threshold_for_recall(scores_N, positive_N, min_recall=0.9, level=0.05)

    proved = [
        figures(scores_N, positive_N, each)[0]
        for each in np.unique(scores_N).astype(np.float64)
        if binom.cdf((positive_N & (scores_N < each)).sum(), positive_N.sum(), 0.1) <= 0.05
    ]
    assert figures(scores_N, positive_N, found)[0] == pytest.approx(max(proved))


@pytest.mark.parametrize("choose", ["f1", "recall", "costs"])
def test_perfect_separation_puts_the_threshold_half_way(choose: str) -> None:
    positive_N = np.arange(200) < 80
    scores_N = np.where(positive_N, 0.7, 0.2)

    found = {
        "f1": lambda: threshold_for_f1(scores_N, positive_N),
        "recall": lambda: threshold_for_recall(scores_N, positive_N, min_recall=0.95, level=0.05),
        "costs": lambda: threshold_for_costs(
            scores_N, positive_N, false_positive=0.45, false_negative=0.55
        ),
    }[choose]()

    assert figures(scores_N, positive_N, found) == (1.0, 1.0)
    assert found == pytest.approx(0.5 if choose == "f1" else 0.45)


def test_equal_scores_predict_every_row_for_recall_and_prove_no_precision() -> None:
    scores_N, positive_N = np.full(300, 0.3, dtype=np.float32), np.arange(300) < 90
    pilot_N = np.arange(300) % 3 == 0

    recall = threshold_for_recall(scores_N, positive_N, min_recall=0.9, level=0.05)
    precision = threshold_for_precision(
        scores_N, positive_N, pilot_N=pilot_N, min_precision=0.5, level=0.05
    )

    assert recall is not None
    assert (scores_N >= recall).all()
    assert precision is None


@pytest.mark.parametrize("positives", [0, 1])
def test_hardly_any_positive_row_gives_no_threshold_but_that_of_the_costs(positives: int) -> None:
    scores_N, positive_N = np.linspace(0, 1, 50), np.arange(50) >= 50 - positives

    assert threshold_for_f1(scores_N, positive_N) is None
    assert threshold_for_recall(scores_N, positive_N, min_recall=0.9, level=0.05) is None
    assert (
        threshold_for_precision(
            scores_N, positive_N, pilot_N=np.arange(50) % 3 == 0, min_precision=0.9, level=0.05
        )
        is None
    )
    implied = threshold_for_costs(scores_N, positive_N, false_positive=1, false_negative=4)
    assert implied == pytest.approx(0.2)


def test_costs_choose_the_least_cost_of_all_thresholds() -> None:
    scores_N, positive_N = sample(400, 0.3, 1.5, seed=8)

    def cost(threshold: float) -> float:
        predicted_N = scores_N >= threshold
        return float((predicted_N & ~positive_N).sum() + 7 * (~predicted_N & positive_N).sum())

    found = threshold_for_costs(scores_N, positive_N, false_positive=1, false_negative=7)

    assert cost(found) == min(cost(each) for each in [*scores_N.tolist(), 2.0])


def test_costs_may_predict_no_row_positive() -> None:
    generator = np.random.default_rng(0)
    scores_N, positive_N = generator.random(200), generator.random(200) < 0.2

    found = threshold_for_costs(scores_N, positive_N, false_positive=1000, false_negative=1)

    assert not (scores_N >= found).any()


def test_precision_takes_the_smallest_threshold_that_the_other_rows_prove() -> None:
    scores_N, positive_N = sample(1500, 0.3, 2.5, seed=11)
    pilot_N = np.arange(1500) % 3 == 0

    found = threshold_for_precision(
        scores_N, positive_N, pilot_N=pilot_N, min_precision=0.85, level=0.05
    )

    assert found is not None
    predicted_N = (scores_N >= found.threshold) & ~pilot_N
    errors = int((predicted_N & ~positive_N).sum())
    assert (found.answered, found.errors) == (int(predicted_N.sum()), errors)
    assert binom.cdf(errors, found.answered, 0.15) <= 0.05
    assert figures(scores_N, positive_N, found.threshold)[1] > 0.7


@pytest.mark.parametrize("shift", [-8.0, 8.0])
def test_precision_is_proved_for_a_model_whose_probabilities_are_far_off(shift: float) -> None:
    scores_N, positive_N = sample(2000, 0.2, 3.0, seed=12)
    odds_N = np.log(scores_N / (1 - scores_N)) + shift

    found = threshold_for_precision(
        1 / (1 + np.exp(-odds_N)),
        positive_N,
        pilot_N=np.arange(2000) % 3 == 0,
        min_precision=0.8,
        level=0.05,
    )

    assert found is not None


@pytest.mark.parametrize("wish", ["recall", "precision"])
def test_promise_is_kept_near_what_the_model_can_do(wish: str) -> None:
    scores_N, positive_N = sample(200_000, 0.3, 2.0, seed=0)
    generator = np.random.default_rng(1)
    offered = broken = 0
    for _ in range(150):
        rows_M = generator.integers(0, len(scores_N), 300)
        drawn = scores_N[rows_M], positive_N[rows_M]
        if wish == "recall":
            found = threshold_for_recall(*drawn, min_recall=0.85, level=0.05)
        else:
            proved = threshold_for_precision(
                *drawn, pilot_N=np.arange(300) < 90, min_precision=0.75, level=0.05
            )
            found = proved.threshold if proved else None
        if found is not None:
            offered += 1
            precision, recall = figures(scores_N, positive_N, found)
            broken += recall < 0.85 if wish == "recall" else precision < 0.75

    assert broken <= binom.ppf(0.999, 150, 0.05)
    assert offered > 75
