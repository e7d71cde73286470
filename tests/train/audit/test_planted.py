"""Suspicion is reported where planted errors are found, and only there."""

from __future__ import annotations

import numpy as np
import pytest

from train.audit.label_errors import cross_fit, find_label_issues
from train.audit.planted import Reliability, measure_reliability, plant_errors
from train.statistics.metrics import Choice, one_hot


def made(task: str, noise: float, *, rows: int, labels: int) -> tuple[np.ndarray, Choice]:
    """Features around a centre per label, as far apart as `noise` allows, and right labels."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(labels, 32))
    if task == "multi_label":
        right = random.random((rows, labels)) < 1.5 / labels
    else:
        right = one_hot(random.integers(0, labels, rows), labels)
    features = right @ centres + random.normal(scale=noise, size=(rows, 32))
    return features.astype(np.float32), right


def judge(features: np.ndarray, given: Choice, task: str) -> tuple[Reliability, np.ndarray]:
    """How reliable suspicion is, and the suspects."""
    judged_C = np.asarray(given.sum(axis=0) >= 5)
    probs = cross_fit(features, given, task, folds=5, seed=0).probs_NC
    found = measure_reliability(probs, features, given, task, judged_C=judged_C, folds=5, seed=1)
    if found.threshold is None:
        return found, np.zeros(len(given), dtype=bool)
    issues = find_label_issues(probs, given, task, threshold=found.threshold, judged_C=judged_C)
    return found, issues.suspect_N


@pytest.mark.parametrize(
    ("task", "labels", "noise"),
    [("single_label", 2, 1.0), ("single_label", 30, 0.6), ("multi_label", 20, 0.3)],
)
@pytest.mark.parametrize("fraction", [0.03, 0.15])
def test_most_suspects_are_planted_errors_where_labels_can_be_told_apart(
    task: str, labels: int, noise: float, fraction: float
) -> None:
    features, right = made(task, noise, rows=800, labels=labels)
    count = round(fraction * 800)
    given, rows = plant_errors(right, task, count, np.random.default_rng(2))

    found, suspect_N = judge(features, given, task)

    assert found.reason == ""
    assert suspect_N[rows].sum() >= 0.6 * suspect_N.sum()
    assert suspect_N[rows].sum() >= 0.4 * count


@pytest.mark.parametrize(
    ("task", "labels", "noise"),
    [("single_label", 2, 12.0), ("single_label", 20, 5.0), ("multi_label", 28, 3.0)],
)
@pytest.mark.parametrize("rows", [300, 900])
def test_nothing_is_suspected_where_probes_know_little(
    task: str, labels: int, noise: float, rows: int
) -> None:
    features, right = made(task, noise, rows=rows, labels=labels)
    given, _ = plant_errors(right, task, round(0.03 * rows), np.random.default_rng(2))

    found, suspect_N = judge(features, given, task)

    assert not suspect_N.any()
    assert found.reason


def test_clean_data_gets_almost_no_suspects() -> None:
    features, right = made("single_label", 0.6, rows=900, labels=30)

    found, suspect_N = judge(features, right, "single_label")

    assert found.threshold is not None
    assert suspect_N.sum() <= 5


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_planting_changes_as_many_rows_as_asked(task: str) -> None:
    _, right = made(task, 1.0, rows=200, labels=6)

    changed, rows = plant_errors(right, task, 20, np.random.default_rng(0))

    assert set(np.flatnonzero((changed != right).any(axis=1))) == set(rows)
    assert len(set(rows)) == 20
