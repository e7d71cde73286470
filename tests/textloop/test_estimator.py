"""`textloop.TextClassifier` is an estimator of scikit-learn, of texts."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rows import FILLER, TOPICS, make_rows
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import validate_data

import textloop
from train.api.estimator import held_out

ROWS = pd.DataFrame(make_rows(120, seed=1, columns=1))
X, Y = ROWS["text"], ROWS["label"]


@pytest.fixture(scope="module")
def estimator(tiny_base: Path) -> Any:
    config = {"export_int8": False, "cpu_threads": 1}
    return textloop.TextClassifier(base=str(tiny_base), max_length=32, config=config)


@pytest.fixture(scope="module")
def fitted(estimator: Any) -> Any:
    return clone(estimator).fit(X, Y)


# The checks of scikit-learn give numbers. Rows of numbers become words here, so that all of them
# are applied to training and predicting as such.

WORDS = sorted({*FILLER, *" ".join(TOPICS.values()).split()})

NOT_OF_TEXTS = {
    "check_fit_idempotent": "a probe separates its random labels without a rest, and merging "
    "refuses logits that are so large that single precision changes them",
    "check_fit_check_is_fitted": "the same",
}
"""Checks that cannot hold for texts, with the reason."""


class OfNumbers(textloop.TextClassifier):
    """Classifies rows of numbers: each is a word by its column and size."""

    def fit(self, X: Any, y: Any) -> Any:
        X, y = validate_data(self, X, y, dtype=float)
        return super().fit(self._words(X), y)

    def predict_proba(self, X: Any) -> Any:
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(self)
        return super().predict_proba(self._words(validate_data(self, X, dtype=float, reset=False)))

    def _words(self, X: Any) -> list[str]:
        sizes = np.clip(np.round(3 * X), -20, 20).astype(int)
        places = 7 * np.arange(X.shape[1]) + sizes
        return [" ".join(WORDS[place % len(WORDS)] for place in row) for row in places]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.string = False
        tags.input_tags.one_d_array = False
        return tags


@pytest.mark.slow
def test_checks_of_scikit_learn_hold_with_numbers_made_words(tiny_base: Path) -> None:
    config = {"export_int8": False, "cpu_threads": 1, "calibration.temperature": False}
    checked = OfNumbers(base=str(tiny_base), max_length=16, config=config)

    results = check_estimator(
        checked, on_fail=None, on_skip=None, expected_failed_checks=NOT_OF_TEXTS
    )

    by_status: dict[str, set[str]] = {}
    for each in results:
        by_status.setdefault(each["status"], set()).add(each["check_name"])
    failed = {
        each["check_name"]: repr(each["exception"])
        for each in results
        if each["status"] == "failed"
    }
    assert failed == {}
    assert by_status["xfail"] == set(NOT_OF_TEXTS)
    assert len(by_status["passed"]) > 40


def test_checks_for_texts_pass(estimator: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that its other checks have numbers only
        results = check_estimator(estimator)

    assert {each["status"] for each in results} == {"passed"}


def test_parameters_are_set_read_and_cloned(estimator: Any) -> None:
    other = clone(estimator).set_params(method="lora", random_state=3)

    assert other.get_params() == estimator.get_params() | {"method": "lora", "random_state": 3}
    with pytest.raises(NotFittedError):
        other.predict(X)


def test_predictions_are_labels_as_given(fitted: Any) -> None:
    assert list(fitted.classes_) == sorted(TOPICS)
    assert fitted.score(X, Y) > 0.6
    assert fitted.predict(X.to_numpy()[:, None]).tolist() == fitted.predict(list(X)).tolist()
    probabilities_NC = fitted.predict_proba(X)
    assert probabilities_NC.shape == (len(X), 3)
    assert (fitted.classes_[probabilities_NC.argmax(axis=1)] == fitted.predict(X)).all()


def test_numbers_as_labels_keep_type_and_order(estimator: Any) -> None:
    numbers = Y.map({"billing": 10, "delivery": 9, "login": 1}).to_numpy()

    found = clone(estimator).fit(X, numbers)

    assert found.classes_.tolist() == [1, 9, 10]
    assert found.predict(X).dtype == numbers.dtype
    assert (found.predict(X) == numbers).mean() > 0.6


def test_a_pickle_brings_its_bundle(fitted: Any, estimator: Any) -> None:
    again = pickle.loads(pickle.dumps(fitted))

    assert again.bundle_ != fitted.bundle_
    assert (again.predict_proba(X) == fitted.predict_proba(X)).all()
    assert not hasattr(pickle.loads(pickle.dumps(estimator)), "classes_")


def test_pipelines_and_cross_validation_work(estimator: Any) -> None:
    lower = FunctionTransformer(lambda texts: [text.lower() for text in texts])
    scores = cross_val_score(make_pipeline(lower, estimator), list(X), Y, cv=2)

    assert scores.min() > 0.4


@pytest.mark.slow
def test_grid_search_sets_parameters(estimator: Any) -> None:
    search = GridSearchCV(estimator, {"max_length": [8, 32]}, cv=2).fit(X, Y)

    assert search.best_params_["max_length"] in (8, 32)
    assert search.score(X, Y) > 0.6


def test_pairs_are_two_columns(tiny_base: Path, estimator: Any) -> None:
    pairs = pd.DataFrame(make_rows(120, seed=1, columns=2))

    found = clone(estimator).fit(pairs[["text", "text_pair"]], pairs["label"])

    assert len(found.predict(pairs[["text", "text_pair"]])) == 120
    with pytest.raises(ValueError, match=r"X has 1 texts per row, but .* was fitted with 2"):
        found.predict(X)


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        (["a", "b"], ["x", "x"], "one class, .*'x'.*; a classifier needs two"),
        (["a", "b", "c"], ["x", "y"], "X has 3 texts, y has 2 labels"),
        (["a", None, "c"], ["x", "y", "y"], "at position 1: expected a string, got a missing"),
        (["a", " ", "c"], ["x", "y", "y"], "at position 1: the text is empty"),
        (["a", "b"], ["x", "y"], "at least one label needs two rows"),
        (["a", "b", "c"], ["x", "x ", "y"], "are not all different texts"),
        ("a", ["x"], "X is one text; give a list"),
        (np.zeros((3, 3)), ["x", "y", "y"], "X has 3 columns; expected one with the text"),
    ],
)
def test_what_cannot_be_trained_on_is_named(
    texts: Any, labels: Any, message: str, estimator: Any
) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        clone(estimator).fit(texts, labels)


def test_rows_set_apart_leave_each_class_one() -> None:
    codes_N = np.array([0] * 40 + [1] * 10 + [2])

    held_N = held_out(codes_N, 0.1, seed=0)

    assert [int(held_N[codes_N == code].sum()) for code in range(3)] == [4, 1, 0]
    assert held_out(np.array([0, 0, 1]), 0.1, seed=0).sum() == 1
