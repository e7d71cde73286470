"""Bootstrap intervals of macro-F1 and calibration error differences."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from outcomes import answers_of, some_answers

from serve.stats import weighted_bootstrap
from train.statistics.intervals import measure_all
from train.statistics.metrics import scores
from train.statistics.resampling import Predictions, ece_difference, f1_difference

BOOTSTRAP: Any = {"alpha": 0.05, "resamples": 500, "seed": 0}


def test_macro_f1_is_that_of_the_metrics_and_its_interval_nearly_that_of_resampled_rows() -> None:
    champion, candidate = some_answers(400, 5, 0.8, 1), some_answers(400, 5, 0.9, 2)

    found = f1_difference([champion], [candidate], **BOOTSTRAP)

    def f1(answers: Predictions, rows: NDArray[np.int64]) -> float:
        return scores(answers.reference_NC[rows], answers.predicted_NC[rows])["f1_macro"]

    assert found.champion == pytest.approx(f1(champion, np.arange(400)))
    assert found.candidate == pytest.approx(f1(candidate, np.arange(400)))
    generator = np.random.default_rng(0)
    one_by_one = []
    for _ in range(500):
        rows = generator.integers(0, 400, 400)
        one_by_one.append(f1(candidate, rows) - f1(champion, rows))
    assert (found.difference.low, found.difference.high) == pytest.approx(
        np.quantile(one_by_one, [0.05, 0.95]), abs=0.004
    )


def test_equal_predictions_leave_a_macro_f1_as_uncertain_as_the_rows_are_few() -> None:
    def lowest(rows: int) -> float:
        same = some_answers(rows, 4, 0.8, 3)
        low = f1_difference([same], [same], **BOOTSTRAP).difference.low
        assert low is not None
        return low

    assert lowest(100) < 2 * lowest(1000) < 0

    same = some_answers(100, 4, 0.8, 3)
    difference = ece_difference([same], [same], **BOOTSTRAP, task="single_label").difference
    assert difference.low == difference.high == 0.0


@pytest.mark.parametrize(
    ("priors", "rows", "accuracy", "flips", "drop"),
    [
        ([0.97, 0.03], 360, 0.99, 0.0016, 0.01),
        ([0.9, 0.08, 0.02], 1000, 0.97, 0.0032, 0.01),
        ([0.5, 0.5], 300, 0.9, 0.038, 0.03),
    ],
)
def test_a_drop_of_macro_f1_is_seldom_ruled_out_where_it_is_real(
    priors: list[float], rows: int, accuracy: float, flips: float, drop: float
) -> None:
    """flips: share of the candidate's answers replaced by another, which costs `drop`."""
    generator = np.random.default_rng(0)
    labels = len(priors)

    def replaced(answers: NDArray[np.int64], rate: float) -> NDArray[np.int64]:
        others = (answers + generator.integers(1, labels, len(answers))) % labels
        return np.where(generator.random(len(answers)) < rate, others, answers)

    def pair(count: int) -> tuple[Predictions, Predictions]:
        true_N = generator.choice(labels, count, p=priors)
        champion_N = replaced(true_N, 1 - accuracy)
        candidate_N = replaced(champion_N, flips)
        return answers_of(champion_N, true_N, labels), answers_of(candidate_N, true_N, labels)

    def value(each: Predictions) -> float:
        return scores(each.reference_NC, each.predicted_NC)["f1_macro"]

    many = pair(1_000_000)
    assert value(many[0]) - value(many[1]) == pytest.approx(drop, rel=0.1)
    ruled_out = 0
    for _ in range(60):
        champion, candidate = pair(rows)
        low = f1_difference(
            [champion], [candidate], **BOOTSTRAP | {"resamples": 300}
        ).difference.low
        assert low is not None
        ruled_out += low > -drop
    assert ruled_out <= 8  # 5 % of 60 are 3


def test_bootstrap_of_seeds_is_wider_than_that_of_one() -> None:
    champion = some_answers(300, 3, 0.8, 1)
    seeds = [some_answers(300, 3, accuracy, 5) for accuracy in (0.7, 0.8, 0.9)]

    several = f1_difference([champion], seeds, **BOOTSTRAP).difference

    one = f1_difference([champion], [seeds[1]], **BOOTSTRAP).difference
    assert several.high - several.low > one.high - one.low


def test_bootstrap_of_a_full_test_set_takes_less_than_five_seconds_of_cpu() -> None:
    champion, candidate = some_answers(3080, 77, 0.92, 1), some_answers(3080, 77, 0.93, 2)
    started = time.process_time()

    f1_difference([champion], [candidate], **BOOTSTRAP | {"resamples": 2000})

    assert time.process_time() - started < 5


def test_resamples_draw_every_row_with_the_same_probability() -> None:
    blocks = []

    def record(weights_NR: NDArray[np.float64]) -> NDArray[np.float64]:
        blocks.append(weights_NR.T)
        return weights_NR.T

    weighted_bootstrap(record, 50, resamples=3000, seed=0)

    counts_RN = np.concatenate(blocks)
    assert (counts_RN.sum(axis=1) == 50).all()
    assert counts_RN.mean(axis=0) == pytest.approx(1, abs=0.1)
    assert counts_RN.var(axis=0).mean() == pytest.approx(1 - 1 / 50, abs=0.02)


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_calibration_error_is_that_of_the_evaluation(task: str) -> None:
    answers = some_answers(400, 5, 0.8, 4)
    found = ece_difference([answers], [answers], **BOOTSTRAP, task=task)

    measured = measure_all(
        answers.reference_NC,
        answers.predicted_NC,
        answers.probabilities_NC,
        task=task,
        labels=[str(c) for c in range(5)],
        seed=0,
    ).overall["ece"]

    assert found.candidate == pytest.approx(measured.value)
