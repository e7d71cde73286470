"""Wrong labels are ranked first, right ones get no suggestion, rare labels are not checked."""

from __future__ import annotations

import numpy as np
import pytest

from train.audit.label_errors import LabelIssues, cross_fit, find_label_issues
from train.audit.planted import measure_reliability
from train.statistics.metrics import Choice, one_hot


def clusters(rows: int, labels: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of length 1 around a centre per label, and the true labels."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(labels, 24))
    true_N = np.arange(rows) % labels
    features = centres[true_N] + random.normal(scale=0.7, size=(rows, 24))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return features.astype(np.float32), true_N


def cross_fit_issues(
    features: np.ndarray, given: Choice, task: str, *, judged_C: np.ndarray, folds: int = 5
) -> LabelIssues:
    probs = cross_fit(features, given, task, folds=folds, seed=0).probs_NC
    options = {"judged_C": judged_C, "folds": folds, "seed": 0}
    threshold = measure_reliability(probs, features, given, task, **options).threshold
    assert threshold is not None
    return find_label_issues(probs, given, task, threshold=threshold, judged_C=judged_C)


def test_changed_labels_are_ranked_first_and_get_their_own_back() -> None:
    features, true_N = clusters(600, 6, seed=0)
    changed = np.random.default_rng(1).choice(600, 30, replace=False)
    given_N = true_N.copy()
    given_N[changed] = (given_N[changed] + 2) % 6
    given = one_hot(given_N, 6)

    found = cross_fit_issues(features, given, "single_label", judged_C=np.ones(6, dtype=bool))

    first = set(np.argsort(found.score_N)[:30].tolist())
    assert len(first & set(changed.tolist())) >= 28
    assert found.suspect_N[changed].mean() >= 0.5
    assert (found.suggested_NC[changed].argmax(axis=1) == true_N[changed]).mean() >= 0.5
    assert found.suspect_N.sum() <= 45
    untouched = ~found.suspect_N
    assert (found.suggested_NC[untouched] == given[untouched]).all()


def test_every_row_is_judged_by_models_that_did_not_see_it() -> None:
    """Random labels: a model that was fitted on the rows would know them."""
    random = np.random.default_rng(0)
    features = random.normal(size=(60, 200)).astype(np.float32)
    given = one_hot(random.integers(0, 2, 60), 2)

    cross = cross_fit(features, given, "single_label", folds=5, seed=0)

    assert (cross.probs_NC.argmax(axis=1) == given.argmax(axis=1)).mean() < 0.75
    assert cross.predict_unseen(features).shape == (60, 2)


def test_rows_of_labels_that_are_too_rare_are_not_judged() -> None:
    features, true_N = clusters(302, 3, seed=0)
    true_N[-2:] = 3
    given = one_hot(true_N, 4)

    found = cross_fit_issues(features, given, "single_label", judged_C=given.sum(axis=0) >= 5)

    assert not found.suspect_N[-2:].any()
    assert np.isinf(found.score_N[-2:]).all()


@pytest.mark.parametrize("kind", ["missing", "needless"])
def test_label_that_is_missing_or_needless_is_found_in_multi_label_data(kind: str) -> None:
    random = np.random.default_rng(0)
    centres = random.normal(size=(4, 24))
    true_NC = random.random((800, 4)) < 0.4
    features = true_NC @ centres + random.normal(scale=0.4, size=(800, 24))
    features = features.astype(np.float32)
    candidates = np.argwhere(true_NC if kind == "missing" else ~true_NC)
    changed, labels = random.permutation(candidates)[:20].T
    given = true_NC.copy()
    given[changed, labels] = kind == "needless"

    found = cross_fit_issues(
        features, given, "multi_label", judged_C=np.ones(4, dtype=bool), folds=4
    )

    assert len(set(np.argsort(found.score_N)[:30].tolist()) & set(changed.tolist())) >= 16
    suspects = np.flatnonzero(found.suspect_N)
    assert len(suspects) >= 4
    assert np.isin(suspects, changed).mean() >= 0.8
    caught = np.intersect1d(suspects, changed)
    assert (found.suggested_NC[caught] == true_NC[caught]).all(axis=1).mean() >= 0.8
