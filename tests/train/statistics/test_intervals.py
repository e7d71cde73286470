"""Metrics equal those of scikit-learn, and their intervals those of a plain bootstrap."""

from __future__ import annotations

import time

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    f1_score,
    log_loss,
    matthews_corrcoef,
    precision_recall_fscore_support,
    roc_auc_score,
)

from serve.bundle.manifest import Measured
from serve.inference.scores import chosen, sigmoid, softmax
from serve.stats import weighted_bootstrap, wilson
from train.statistics.intervals import Metrics, measure_all
from train.statistics.metrics import one_hot, scores
from train.statistics.probability_metrics import (
    bin_numbers,
    calibration_bins,
    predictions_and_outcomes,
)
from train.statistics.ranking_metrics import areas, rank

GENERATOR = np.random.default_rng(0)


def single(n: int, num_labels: int, seed: int, noise: float = 1.5) -> tuple:
    """Reference, prediction and probabilities of a simulated classifier."""
    generator = np.random.default_rng(seed)
    reference_N = generator.integers(0, num_labels, n)
    logits_NC = generator.normal(0, noise, (n, num_labels)).astype(np.float32)
    logits_NC[np.arange(n), reference_N] += 2
    probabilities_NC = softmax(logits_NC)
    return one_hot(reference_N, num_labels), chosen(logits_NC, "single_label"), probabilities_NC


def multi(n: int, num_labels: int, seed: int) -> tuple:
    generator = np.random.default_rng(seed)
    reference_NC = generator.random((n, num_labels)) < np.linspace(0.05, 0.6, num_labels)
    logits_NC = generator.normal(0, 1.5, (n, num_labels)) + np.where(reference_NC, 1.5, -1.5)
    probabilities_NC = sigmoid(logits_NC.astype(np.float32))
    return reference_NC, chosen(probabilities_NC, "multi_label"), probabilities_NC


def measured(data: tuple, task: str, resamples: int = 50, seed: int = 0) -> Metrics:
    labels = [f"label {c}" for c in range(data[0].shape[1])]
    return measure_all(*data, task=task, labels=labels, seed=seed, resamples=resamples)


def test_single_label_metrics_are_those_of_scikit_learn() -> None:
    data = reference_NC, predicted_NC, probabilities_NC = single(400, 6, seed=1)
    true_N, given_N = reference_NC.argmax(axis=1), predicted_NC.argmax(axis=1)
    p_NC = probabilities_NC.astype(np.float64)
    p_NC /= p_NC.sum(axis=1, keepdims=True)

    found = {name: each.value for name, each in measured(data, "single_label").overall.items()}

    assert next(iter(found)) == "accuracy"
    expected = {
        "accuracy": (true_N == given_N).mean(),
        **{f"f1_{a}": f1_score(true_N, given_N, average=a) for a in ("macro", "micro", "weighted")},
        "mcc": matthews_corrcoef(true_N, given_N),
        "roc_auc": roc_auc_score(true_N, p_NC, multi_class="ovr", average="macro"),
        "pr_auc": average_precision_score(reference_NC, p_NC, average="macro"),
        "log_loss": log_loss(true_N, p_NC),
        "brier": brier_score_loss(true_N, p_NC),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert found.keys() == expected.keys() | {"ece"}


def test_multi_label_metrics_are_those_of_scikit_learn() -> None:
    data = reference_NC, predicted_NC, probabilities_NC = multi(300, 5, seed=2)
    p_NC = probabilities_NC.astype(np.float64)

    found = {name: each.value for name, each in measured(data, "multi_label").overall.items()}

    expected = {
        "accuracy": (reference_NC == predicted_NC).all(axis=1).mean(),
        "f1_macro": f1_score(reference_NC, predicted_NC, average="macro"),
        "mcc": matthews_corrcoef(reference_NC.ravel(), predicted_NC.ravel()),
        "roc_auc": roc_auc_score(reference_NC, p_NC, average="macro"),
        "pr_auc": average_precision_score(reference_NC, p_NC, average="macro"),
        "log_loss": np.mean([log_loss(reference_NC[:, c], p_NC[:, c]) for c in range(5)]),
        "brier": np.mean([brier_score_loss(reference_NC[:, c], p_NC[:, c]) for c in range(5)]),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_label_metrics_are_those_of_scikit_learn(task: str) -> None:
    data = single(300, 5, seed=3) if task == "single_label" else multi(300, 5, seed=3)
    precision_C, recall_C, f1_C, support_C = precision_recall_fscore_support(
        data[0], data[1], zero_division=0
    )

    per_label = measured(data, task).per_label

    assert [each.precision.value for each in per_label] == pytest.approx(precision_C)
    assert [each.recall.value for each in per_label] == pytest.approx(recall_C)
    assert [each.f1.value for each in per_label] == pytest.approx(f1_C)
    assert [each.support for each in per_label] == support_C.tolist()
    for each in per_label:
        for metric in (each.precision, each.recall, each.f1):
            assert metric.low <= metric.value <= metric.high


def test_areas_count_ties_as_scikit_learn_does() -> None:
    scores_N = GENERATOR.integers(0, 6, 200).astype(np.float32)
    positive_N = GENERATOR.random(200) < (scores_N + 1) / 8

    ranking = rank(scores_N, positive_N)
    weights_NR = np.column_stack(
        [np.ones(200), np.bincount(GENERATOR.integers(0, 200, 200), minlength=200)]
    )
    roc_R, average_R = areas(ranking, weights_NR)

    for r in range(2):
        rows = np.repeat(np.arange(200), weights_NR[:, r].astype(int))
        assert roc_R[r] == pytest.approx(roc_auc_score(positive_N[rows], scores_N[rows]))
        expected = average_precision_score(positive_N[rows], scores_N[rows])
        assert average_R[r] == pytest.approx(expected)


def test_label_that_never_or_always_occurs_has_no_area() -> None:
    data = reference_NC, predicted_NC, probabilities_NC = multi(50, 2, seed=4)
    reference_NC[:, 0], reference_NC[:, 1] = False, True

    found = measured((reference_NC, predicted_NC, probabilities_NC), "multi_label").overall

    assert rank(probabilities_NC[:, 0], reference_NC[:, 0]) is None
    assert "roc_auc" not in found
    assert "pr_auc" not in found
    assert "f1_macro" in found
    assert len(data[0]) == 50


def test_calibration_error_is_that_computed_by_hand() -> None:
    """Two bins: 0.6, 0.7, 0.8 of which one came true; 0.9, 0.9, 1.0 of which all did."""
    predicted_M = np.array([0.9, 0.6, 0.8, 1.0, 0.7, 0.9])
    true_M = np.array([True, False, True, True, False, True])

    bins = calibration_bins(predicted_M, true_M, num_bins=2)

    assert bins.count_B.tolist() == [3, 3]
    assert bins.mean_predicted_B == pytest.approx([0.7, 2.8 / 3])
    assert bins.observed_frequency_B == pytest.approx([1 / 3, 1.0])
    assert bins.ece == pytest.approx((3 * (0.7 - 1 / 3) + 3 * (1 - 2.8 / 3)) / 6)


def test_calibration_error_in_the_table_is_that_of_the_bins() -> None:
    for data, task in [
        (single(500, 4, seed=5), "single_label"),
        (multi(200, 3, seed=5), "multi_label"),
    ]:
        found = measured(data, task).overall["ece"]

        assert found.value == pytest.approx(
            calibration_bins(*predictions_and_outcomes(data[0], data[2], task)).ece
        )
        assert found.low <= found.value <= found.high


def test_equal_probabilities_fall_into_one_bin() -> None:
    numbers = bin_numbers(np.array([0.5] * 90 + [0.9] * 10))

    assert len(set(numbers[:90])) == 1
    assert numbers[90] != numbers[0]
    assert sorted(set(numbers)) == [0, 1]


@pytest.mark.parametrize(("sharpen", "true_ece"), [(1.0, 0.0), (2.0, 0.116)])
def test_interval_of_the_calibration_error_holds_the_true_one(
    sharpen: float, true_ece: float
) -> None:
    """For a calibrated model, whose percentile intervals never cover it, and for one
    whose logits are twice too large, whose error is that of 300,000 rows."""
    covered = 0
    for seed in range(40):
        generator = np.random.default_rng(seed)
        logits_NC = generator.normal(0, 2, (600, 3)).astype(np.float32)
        p_NC = softmax(logits_NC)
        drawn_N = (generator.random(600)[:, None] > p_NC.cumsum(axis=1)).sum(axis=1).clip(0, 2)
        claimed_NC = softmax(logits_NC * np.float32(sharpen))
        data = one_hot(drawn_N, 3), chosen(p_NC, "single_label"), claimed_NC
        ece = measured(data, "single_label", resamples=100, seed=seed).overall["ece"]
        covered += ece.low <= true_ece <= ece.high

    assert covered >= 32


def test_weighted_bootstrap_gives_the_intervals_of_the_plain_one() -> None:
    reference_NC, predicted_NC, _ = data = single(250, 4, seed=6)

    generator = np.random.default_rng(7)
    resampled = []
    for _ in range(300):
        rows = generator.integers(0, 250, 250)
        resampled.append(list(scores(reference_NC[rows], predicted_NC[rows]).values()))
    plain_2K = np.quantile(resampled, [0.025, 0.975], axis=0)
    found = measured(data, "single_label", resamples=300, seed=7).overall

    for k, name in enumerate(["f1_macro", "f1_micro", "f1_weighted"], start=1):
        # The same generator draws the same resamples.
        assert (found[name].low, found[name].high) == pytest.approx(plain_2K[:, k])
    low, high = wilson(int((reference_NC == predicted_NC).all(axis=1).sum()), 250)
    assert (found["accuracy"].low, found["accuracy"].high) == (low, high)


def test_statistic_without_any_value_has_no_interval() -> None:
    interval_2K = weighted_bootstrap(
        lambda weights_NR: np.column_stack([np.full(weights_NR.shape[1], np.nan), weights_NR[0]]),
        20,
        seed=0,
        resamples=150,
    )

    assert np.isnan(interval_2K[:, 0]).all()
    assert not np.isnan(interval_2K[:, 1]).any()


def test_bootstrap_covers_the_mean_and_repeats_under_its_seed() -> None:
    values_N = np.random.default_rng(0).normal(5.0, 2.0, 400)

    def mean(weights_NR: NDArray[np.float64]) -> NDArray[np.float64]:
        return (values_N @ weights_NR / 400)[:, None]

    interval_2K = weighted_bootstrap(mean, 400, seed=1)

    half_width = 1.96 * values_N.std() / 20
    middle = values_N.mean()
    assert interval_2K[:, 0] == pytest.approx([middle - half_width, middle + half_width], abs=0.05)
    assert np.array_equal(interval_2K, weighted_bootstrap(mean, 400, seed=1))


def test_bootstrap_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="0 examples"):
        weighted_bootstrap(lambda weights_NR: weights_NR.T, 0, seed=0)


def test_thousand_resamples_of_a_large_test_set_take_seconds() -> None:
    data = single(3080, 77, seed=8)

    started_s = time.process_time()
    found = measured(data, "single_label", resamples=1000)

    assert time.process_time() - started_s < 20
    assert len(found.overall) == 10


def test_measured_value_is_printed_with_its_interval_in_one_format() -> None:
    assert str(Measured(value=0.9, low=0.85, high=0.93456)) == "0.9000 [0.8500, 0.9346]"
    assert f"{Measured(value=0.01, low=-0.02, high=0.04):+.2f}" == "+0.01 [-0.02, +0.04]"
    assert str(Measured(value=0.5)) == "0.5000"
