"""Metrics equal those of scikit-learn, and their intervals hold the true values."""

from __future__ import annotations

import time

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom
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
from train.statistics.calibration_error import CalibrationError
from train.statistics.intervals import Metrics, measure_all
from train.statistics.metrics import one_hot
from train.statistics.probability_metrics import (
    bin_numbers,
    calibration_bins,
    num_bins,
    predictions_and_outcomes,
)
from train.statistics.ranking_metrics import areas
from train.statistics.score_intervals import (
    f1_ends,
    newcombe,
    of_counts,
    proportion_ends,
    wilson_ends,
)

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


def measured(data: tuple, task: str, seed: int = 0) -> Metrics:
    labels = [f"label {c}" for c in range(data[0].shape[1])]
    return measure_all(*data, task=task, labels=labels, seed=seed)


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

    found = areas(scores_N, positive_N)

    assert found is not None
    assert found.roc == pytest.approx(roc_auc_score(positive_N, scores_N))
    assert found.average_precision == pytest.approx(average_precision_score(positive_N, scores_N))


def test_influence_of_a_row_is_what_another_copy_of_it_changes() -> None:
    scores_N = GENERATOR.integers(0, 40, 300).astype(np.float32)
    positive_N = GENERATOR.random(300) < (scores_N + 1) / 60
    found = areas(scores_N, positive_N)
    assert found is not None

    for row in range(0, 300, 20):
        weights_N = np.ones(300)
        weights_N[row] += 1e-5
        for value, influence_N, score in (
            (found.roc, found.roc_influence_N, roc_auc_score),
            (found.average_precision, found.average_precision_influence_N, average_precision_score),
        ):
            change = score(positive_N, scores_N, sample_weight=weights_N) - value
            assert change / 1e-5 == pytest.approx(influence_N[row], abs=1e-4)


def test_label_that_never_or_always_occurs_has_no_area() -> None:
    data = reference_NC, predicted_NC, probabilities_NC = multi(50, 2, seed=4)
    reference_NC[:, 0], reference_NC[:, 1] = False, True

    found = measured((reference_NC, predicted_NC, probabilities_NC), "multi_label").overall

    assert areas(probabilities_NC[:, 0], reference_NC[:, 0]) is None
    assert "roc_auc" not in found
    assert "pr_auc" not in found
    assert "f1_macro" in found
    assert len(data[0]) == 50


def test_calibration_error_is_that_computed_by_hand() -> None:
    """Two bins: 0.6, 0.7, 0.8 of which one came true; 0.9, 0.9, 1.0 of which all did."""
    predicted_M = np.array([0.9, 0.6, 0.8, 1.0, 0.7, 0.9])
    true_M = np.array([True, False, True, True, False, True])

    bins = calibration_bins(predicted_M, true_M, bins=2)

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
    numbers = bin_numbers(np.array([0.5] * 90 + [0.9] * 10), bins=15)

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
        ece = measured(data, "single_label", seed=seed).overall["ece"]
        covered += ece.low <= true_ece <= ece.high

    assert covered >= 32


@pytest.mark.parametrize(
    ("n", "few", "right"),
    [
        pytest.param(160, 20, 1.0, id="all right"),
        pytest.param(1, 1, 1.0, id="one row"),
        pytest.param(40, 1, 1.0, id="one row of a label"),
        pytest.param(50, 25, 0.0, id="all wrong"),
    ],
)
@pytest.mark.parametrize("certain", [True, False])
@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_no_interval_of_finite_rows_has_zero_width(
    n: int, few: int, right: float, certain: bool, task: str
) -> None:
    true_N = (np.arange(n) < few).astype(np.int64)
    reference_NC, predicted_NC = one_hot(true_N, 2), one_hot(true_N if right else 1 - true_N, 2)
    high = 1.0 if certain else 0.9
    probabilities_NC = np.where(predicted_NC, high, 1 - high).astype(np.float32)

    found = measured((reference_NC, predicted_NC, probabilities_NC), task)

    known = [*found.overall.values(), *(each.f1 for each in found.per_label)]
    known += [each.recall for each in found.per_label]
    widths = [each.high - each.low for each in known if each.low is not None]
    assert len(widths) >= 9
    assert min(widths) > 1e-4
    for each in known:
        assert each.low is None or each.low <= each.value <= each.high


def test_label_f1_is_that_of_wilson_on_its_decisions() -> None:
    """20 hits of 20: recall and F1 are 1, and neither is certain."""
    reference_NC = one_hot((np.arange(160) < 20).astype(np.int64), 2)

    rare = measured((reference_NC, reference_NC, reference_NC.astype(np.float32)), "single_label")

    low = wilson(20, 20)[0]
    assert rare.per_label[1].recall.low == pytest.approx(low)
    assert rare.per_label[1].f1.low == pytest.approx(2 * low / (1 + low))
    assert rare.per_label[1].f1.high == 1.0


@pytest.mark.parametrize(("true", "trials"), [(0.9938, 360), (0.996, 30), (0.01, 200), (0.9, 20)])
def test_proportions_near_the_ends_are_held_too(true: float, trials: int) -> None:
    """Wilson's interval holds 0.9938 on 92 % of test sets of 360 rows."""
    low, high = proportion_ends(np.arange(trials + 1) / trials, np.full(trials + 1, float(trials)))

    chance = binom.pmf(np.arange(trials + 1), trials, true) @ ((low <= true) & (true <= high))

    assert chance >= 0.93


def test_label_f1_near_one_is_held_too() -> None:
    """30 rows of a label, an error on 1 of 250: one error must not exclude the true F1."""
    true, trials = 0.996, 30
    weights = binom.pmf(np.arange(trials + 1), trials, true)
    low, high = f1_ends(np.arange(trials + 1) / trials, np.full(trials + 1, float(trials)))

    holds = (low <= 2 * true / (1 + true)) & (2 * true / (1 + true) <= high)

    assert weights @ holds >= 0.93


def test_label_that_nobody_has_or_predicts_has_no_interval() -> None:
    reference_NC = one_hot(np.zeros(30, dtype=np.int64), 2)

    absent = measured((reference_NC, reference_NC, reference_NC * 0.8), "single_label").per_label[1]

    assert (absent.f1.value, absent.f1.low, absent.f1.high) == (0.0, None, None)


def test_wilson_of_fractional_trials_is_wilson() -> None:
    low, high = wilson_ends(np.array([0.0, 0.3, 1.0]), np.array([10.0, 10.0, 10.0]), 1.959964)

    expected = [wilson(hits, 10) for hits in (0, 3, 10)]
    assert np.column_stack([low, high]) == pytest.approx(np.array(expected), abs=1e-6)


def test_area_interval_solves_the_equation_of_hanley_and_mcneil() -> None:
    auc, positives, negatives = np.array([0.9, 1.0]), np.array([20.0, 8.0]), np.array([80.0, 300.0])

    low, high = newcombe(auc, positives, negatives, 1.96)

    mean = (positives + negatives) / 2 - 1
    factor = 1 + mean * ((1 - low) / (2 - low) + low / (1 + low))
    error = np.sqrt(low * (1 - low) * factor / (positives * negatives))
    assert auc - low == pytest.approx(1.96 * error, rel=1e-6)
    assert high[1] == pytest.approx(1.0)
    assert high[0] < 0.97


def test_interval_of_counts_of_one_proportion_is_that_of_wilson_with_t() -> None:
    """The mean of 0 and 1 over 200 rows, as a function of sums."""
    hit_N1 = (np.arange(200) < 150).astype(np.float64)[:, None]
    rows_NK, certain = np.hstack([hit_N1, np.ones((200, 1))]), np.ones((1, 2))
    pseudo_MK = np.vstack([certain, [[0.0, 1.0]]])

    low, high = of_counts(lambda sums_RK: sums_RK[:, 0] / sums_RK[:, 1], rows_NK, pseudo_MK)

    assert (low, high) == pytest.approx(wilson(150, 200), abs=0.003)


@pytest.mark.parametrize(
    ("shares", "separation", "n", "metrics"),
    [
        ([97, 3], 3.0, 360, ("f1_macro", "mcc", "roc_auc", "pr_auc", "brier", "log_loss")),
        ([90, 8, 2], 2.0, 100, ("f1_macro", "f1_weighted", "mcc", "roc_auc", "pr_auc")),
        ([1] * 20, 3.0, 90, ("f1_macro", "f1_weighted", "mcc", "pr_auc")),
    ],
)
def test_intervals_hold_the_true_value_where_labels_are_rare(
    shares: list[int], separation: float, n: int, metrics: tuple[str, ...]
) -> None:
    """Percentile bootstrap held it in 0.58 to 0.88; `scripts/check_intervals` has more designs."""
    shares_C = np.array(shares) / sum(shares)

    def draw(rows: int, seed: int) -> Metrics:
        generator = np.random.default_rng(seed)
        reference_NC = one_hot(generator.choice(len(shares), rows, p=shares_C), len(shares))
        evidence_NC = generator.normal(0, 1, reference_NC.shape) + separation * reference_NC
        p_NC = softmax((separation * evidence_NC + np.log(shares_C)).astype(np.float32))
        return measured((reference_NC, chosen(p_NC, "single_label"), p_NC), "single_label")

    true = draw(30_000, 0).overall
    covered = dict.fromkeys(metrics, 0)
    for seed in range(1, 101):
        found = draw(n, seed).overall
        for name in metrics:
            covered[name] += found[name].low <= true[name].value <= found[name].high

    assert min(covered.values()) >= 87, covered  # 0.1 % quantile at 0.95


def test_calibration_error_is_given_with_that_of_a_calibrated_model() -> None:
    generator = np.random.default_rng(11)
    logits_NC = generator.normal(0, 1.5, (360, 4)).astype(np.float32)
    p_NC = softmax(logits_NC)
    drawn_N = (logits_NC + generator.gumbel(0, 1, (360, 4))).argmax(axis=1)

    found = measured((one_hot(drawn_N, 4), chosen(p_NC, "single_label"), p_NC), "single_label")

    ece = found.overall["ece"]
    assert ece.value < ece.by_chance < 0.12
    assert ece.low == 0.0
    assert str(ece).endswith(
        f"; a calibrated model shows up to {ece.by_chance:.4f} on as many rows"
    )
    assert all(each.by_chance is None for name, each in found.overall.items() if name != "ece")


def test_interval_of_a_large_calibration_error_excludes_zero() -> None:
    gap_NB = np.random.default_rng(0).normal(-0.2, 0.4, (500, 1)) * np.eye(5)[np.arange(500) % 5]

    low, high = CalibrationError(gap_NB, 500, seed=0).interval()

    assert 0.1 < low < 0.2 < high < 0.3


def test_fewer_rows_have_fewer_bins() -> None:
    assert [num_bins(n) for n in (1, 8, 100, 360, 1000, 3080, 10**6)] == [2, 2, 5, 7, 10, 15, 15]


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


def test_metrics_of_a_large_test_set_take_a_second() -> None:
    data = single(3080, 77, seed=8)

    started_s = time.process_time()
    found = measured(data, "single_label")

    assert time.process_time() - started_s < 3
    assert len(found.overall) == 10


def test_measured_value_is_printed_with_its_interval_in_one_format() -> None:
    assert str(Measured(value=0.9, low=0.85, high=0.93456)) == "0.9000 [0.8500, 0.9346]"
    assert f"{Measured(value=0.01, low=-0.02, high=0.04):+.2f}" == "+0.01 [-0.02, +0.04]"
    assert str(Measured(value=0.5)) == "0.5000"
