"""Metrics are right, come through `evaluate`, and need neither network nor home."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from processes import run
from sklearn.metrics import accuracy_score, f1_score

from serve.inference.scores import (
    activate,
    chosen,
    json_heads,
    ranked_json,
    sigmoid,
    softmax,
)
from serve.stats import wilson
from train.fit.training_metrics import ClassificationMetrics
from train.statistics.metrics import one_hot, scores

GENERATOR = np.random.default_rng(0)


def test_single_label_scores_equal_those_of_scikit_learn() -> None:
    reference_N = GENERATOR.integers(0, 7, 300)
    predicted_N = np.where(GENERATOR.random(300) < 0.6, reference_N, GENERATOR.integers(0, 8, 300))

    values = scores(one_hot(reference_N, 9), one_hot(predicted_N, 9))

    assert values["accuracy"] == pytest.approx(accuracy_score(reference_N, predicted_N))
    for average in ("macro", "micro", "weighted"):
        expected = f1_score(reference_N, predicted_N, average=average)
        assert values[f"f1_{average}"] == pytest.approx(expected)


def test_multi_label_scores_equal_those_of_scikit_learn() -> None:
    reference_NC = GENERATOR.random((200, 5)) < 0.3
    predicted_NC = reference_NC ^ (GENERATOR.random((200, 5)) < 0.1)

    values = scores(reference_NC, predicted_NC)

    assert values["accuracy"] == pytest.approx(accuracy_score(reference_NC, predicted_NC))
    for average in ("macro", "micro", "weighted"):
        expected = f1_score(reference_NC, predicted_NC, average=average)
        assert values[f"f1_{average}"] == pytest.approx(expected)


def test_evaluate_metric_gives_the_scores() -> None:
    reference_NC, predicted_NC = one_hot(np.array([0, 1, 2]), 3), one_hot(np.array([0, 1, 1]), 3)

    values = ClassificationMetrics().compute(references=reference_NC, predictions=predicted_NC)

    assert values == pytest.approx(scores(reference_NC, predicted_NC))


@pytest.mark.slow
def test_metric_works_without_network_and_home(tmp_path: Path) -> None:
    """`evaluate.load("accuracy")` fails here: it wants a script from the Hub."""
    code = """
import socket
def refuse(*_, **__): raise OSError("no network")
socket.socket.connect = refuse
import evaluate, numpy as np
try:
    evaluate.load("accuracy")
except Exception as error:
    print("stock:", type(error).__name__)
from train.fit.training_metrics import ClassificationMetrics
print(ClassificationMetrics().compute(references=np.eye(2, dtype=bool), predictions=np.eye(2)))
"""
    result = run("-c", code, HOME=str(tmp_path / "home"), HF_HOME=str(tmp_path / "hf"))

    assert "stock: " in result.stdout, result.stderr
    assert "'accuracy': 1.0" in result.stdout, result.stderr


def test_choice_is_the_best_label_or_all_from_one_half() -> None:
    scores_NC = np.array([[0.2, 0.7, 0.1], [0.5, 0.4, 0.6]], dtype=np.float32)

    assert chosen(scores_NC, "single_label").tolist() == [
        [False, True, False],
        [False, False, True],
    ]
    assert chosen(scores_NC, "multi_label").tolist() == [[False, True, False], [True, False, True]]


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662), (1, 1, 0.2065, 1.0)],
)
def test_wilson_interval(successes: int, trials: int, low: float, high: float) -> None:
    """81 of 263: R. G. Newcombe (1998), Statistics in Medicine 17, 857-872, table I."""
    assert wilson(successes, trials) == pytest.approx((low, high), abs=1e-4)


def test_wilson_refuses_what_is_no_proportion() -> None:
    with pytest.raises(ValueError, match="3 of 2"):
        wilson(3, 2)


def test_softmax_and_sigmoid_are_safe_at_extreme_logits() -> None:
    logits_NC = np.array([[1e4, -1e4, 0.0], [-100.0, 50.0, 50.0], [3e4, 3e4, -3e4]], np.float32)

    assert softmax(logits_NC) == pytest.approx(
        np.array([[1, 0, 0], [0, 0.5, 0.5], [0.5, 0.5, 0]]), abs=1e-6
    )
    assert sigmoid(logits_NC)[0] == pytest.approx([1, 0, 0.5])
    assert np.array_equal(activate(logits_NC, "none"), logits_NC)


def test_ranking_is_by_score_and_keeps_label_order_among_equals() -> None:
    (row,) = ranked_json(np.array([[0.2, 0.4, 0.4]], np.float32), json_heads("abc"), top_k=2)

    assert [entry["label"] for entry in json.loads(row)] == ["b", "c"]


@pytest.mark.parametrize("top_k", [None, 1, 3])
def test_ranked_json_holds_labels_and_scores_exactly(top_k: int | None) -> None:
    labels = ['with "quotes"', "back\\slash", "Grüße", "new\nline", "plain"]
    logits_NC = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32) * 30
    scores_NC = softmax(logits_NC)
    scores_NC[0] = 0.2  # equal scores keep the labels' order

    rows = ranked_json(scores_NC, json_heads(labels), top_k)

    for row, scores_C in zip(rows, scores_NC.tolist(), strict=True):
        entries = [{"label": label, "score": s} for label, s in zip(labels, scores_C, strict=True)]
        assert json.loads(row) == sorted(entries, key=lambda e: e["score"], reverse=True)[:top_k]
