"""Guards refuse what accuracy alone would promote, and give the figures."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from outcomes import answers_of, some_answers
from processes import run

from serve.stats import wilson
from train.config.sections import GateSection
from train.gate.guards import calibration_checks, holm, recall_check
from train.gate.judge import build_gate_report
from train.statistics.resampling import Predictions, ece_difference


def test_holm_stops_at_the_first_that_is_not_small_enough() -> None:
    """0.01 <= 0.05/4, 0.014 <= 0.05/3, 0.03 > 0.05/2, so 0.04 is not tested."""
    refuted = holm(np.array([0.04, 0.01, 0.03, 0.014]), 0.05)

    assert refuted.tolist() == [False, True, False, True]
    assert holm(np.array([0.001]), 0.05).tolist() == [True]


def test_label_without_recall_is_named_and_one_lost_row_is_not() -> None:
    true_N = np.arange(600) % 20
    perfect = answers_of(true_N, true_N, 20)
    labels = [f"label-{c}" for c in range(20)]
    dead = answers_of(np.where(true_N == 7, 8, true_N), true_N, 20)
    nearly_N = true_N.copy()
    nearly_N[7] = 8
    nearly = answers_of(nearly_N, true_N, 20)

    refused = recall_check([perfect], [dead], labels, max_drop=0.1, alpha=0.05)
    passed = recall_check([perfect], [nearly], labels, max_drop=0.1, alpha=0.05)

    assert not refused.passed
    assert "significant drop of more than 0.100: label-7;" in refused.detail
    assert passed.passed
    assert "0 of 20 labels have too few rows" in passed.detail
    assert not recall_check([perfect], [dead] * 3, labels, max_drop=0.1, alpha=0.05).passed


def test_recall_check_seldom_refuses_a_candidate_whose_recalls_dropped_by_less() -> None:
    generator = np.random.default_rng(0)
    true_N = np.arange(300) % 10
    perfect = answers_of(true_N, true_N, 10)
    refused = 0
    for _ in range(100):
        chosen_N = np.where(generator.random(300) < 0.1, (true_N + 1) % 10, true_N)
        check = recall_check(
            [perfect],
            [answers_of(chosen_N, true_N, 10)],
            list("abcdefghij"),
            max_drop=0.1,
            alpha=0.05,
        )
        refused += not check.passed

    assert wilson(refused, 100)[0] <= 0.05


def test_guards_refuse_what_accuracy_would_promote_and_say_why() -> None:
    true_N = np.arange(900) % 3
    champion = answers_of(np.where(np.arange(900) % 10 == 0, (true_N + 1) % 3, true_N), true_N, 3)
    unsure = answers_of(true_N, true_N, 3, confidence=0.5)
    section = GateSection(max_ece=0.1, max_latency_ratio=1.2)

    report = build_gate_report(
        section, [champion], [unsure], "abc", task="single_label", seed=0, times_s=(0.01, 0.02)
    )

    assert report.verdict == "superior"
    assert not report.passed
    assert [check.name for check in report.checks if not check.passed] == [
        "calibration error increase",
        "calibration error",
        "latency",
    ]
    assert any("2.00 times" in reason for reason in report.reasons)


def answers_with_odds(logits_N: NDArray[np.float64], softness: float, seed: int) -> Predictions:
    """Two labels; the log odds of being right are those stated, divided by `softness`."""
    stated_N = 1 / (1 + np.exp(-np.abs(logits_N)))
    right_N = np.random.default_rng(seed).random(len(logits_N)) < 1 / (
        1 + np.exp(-np.abs(logits_N) / softness)
    )
    return answers_of(
        np.where(right_N, 0, 1), np.zeros(len(logits_N), int), 2, confidence=stated_N[:, None]
    )


@pytest.mark.parametrize(("softness", "least", "most"), [(1.0, 0, 4), (3.0, 24, 30)])
def test_calibration_guards_refuse_only_what_the_rows_show(
    softness: float, least: int, most: int
) -> None:
    """Of 30 calibrated candidates a limit on the measured value refused a third, or nearly all."""
    refused = {"calibration error increase": 0, "calibration error": 0}
    for seed in range(30):
        logits_N = np.random.default_rng(seed).normal(1, 1.5, 360)
        change = ece_difference(
            [answers_with_odds(logits_N, 1.0, seed + 100)],
            [answers_with_odds(logits_N, softness, seed + 200)],
            task="single_label",
            alpha=0.05,
            resamples=200,
            seed=seed,
        )
        for check in calibration_checks(change, max_ece=0.03, max_increase=0.02):
            refused[check.name] += not check.passed

    assert least <= min(refused.values()) <= max(refused.values()) <= most, refused


def test_calibration_error_over_the_limit_that_is_not_shown_says_so() -> None:
    logits_N = np.random.default_rng(3).normal(1, 1.5, 100)
    answers = answers_with_odds(logits_N, 1.0, 4)
    change = ece_difference(
        [answers], [answers], task="single_label", alpha=0.05, resamples=200, seed=0
    )

    _, check = calibration_checks(change, max_ece=0.001, max_increase=0.02)

    assert check.passed
    assert change.candidate > 0.001
    assert "the observed value is over it, which these rows do not show to be true" in check.detail


def test_scores_that_are_not_finite_are_refused() -> None:
    good = some_answers(600, 3, 0.9, 1)
    probabilities_NC = good.probabilities_NC.copy()
    probabilities_NC[5] = np.nan
    broken = Predictions(
        probabilities_NC=probabilities_NC,
        predicted_NC=good.predicted_NC,
        reference_NC=good.reference_NC,
    )

    report = build_gate_report(
        GateSection(require="non_inferior"),
        [good],
        [broken],
        "abc",
        task="single_label",
        seed=0,
    )

    assert not report.passed
    assert any("not finite: 1" in reason for reason in report.reasons)


def test_too_few_rows_are_inconclusive_whatever_they_say() -> None:
    true_N = np.arange(150) % 3
    bad, good = answers_of((true_N + 1) % 3, true_N, 3), answers_of(true_N, true_N, 3)

    report = build_gate_report(GateSection(), [bad], [good], "abc", task="single_label", seed=0)

    assert report.verdict == "inconclusive"
    assert any("at least 200 are required" in reason for reason in report.reasons)


def test_inconclusive_says_how_many_rows_it_would_take() -> None:
    same = some_answers(300, 3, 0.9, 1)

    report = build_gate_report(
        GateSection(require="non_inferior"), [same], [same], "abc", task="single_label", seed=0
    )

    assert report.verdict == "inconclusive"
    assert "probability 0.8, there are 300" in report.reasons[0]
    assert [each.gain for each in report.power] == [0.0, 0.01, 0.02, 0.05]
    assert report.power[0].power < 0.1


def test_the_decision_needs_neither_torch_nor_a_model() -> None:
    code = "import sys, train.gate.judge; sys.exit('torch' in sys.modules)"

    assert run("-c", code).returncode == 0
