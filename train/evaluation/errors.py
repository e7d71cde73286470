"""Confused labels, most confident errors and abstention.

Shape suffixes: N rows, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from serve.bundle.manifest import Abstention, Measured
from serve.inference.text import Text
from serve.stats import wilson
from train.evaluation.result import AbstentionResult
from train.statistics.metrics import Choice

MOST_CONFUSED = 25
MOST_CONFIDENT_ERRORS = 30


def confusion_matrix(reference_NC: Choice, predicted_NC: Choice) -> NDArray[np.int64]:
    """Count rows by true and predicted label, (C, C); correct predictions are on the diagonal.

    Multi-label: a missed label counts against each wrong label predicted in the same row.
    """
    missed_NC = (reference_NC & ~predicted_NC).astype(np.float64)
    wrong_NC = (predicted_NC & ~reference_NC).astype(np.float64)
    matrix = np.rint(missed_NC.T @ wrong_NC).astype(np.int64)
    np.fill_diagonal(matrix, (reference_NC & predicted_NC).sum(axis=0))
    return matrix


def most_confused(
    matrix_CC: NDArray[np.int64], support_C: NDArray[np.int64], labels: Sequence[str]
) -> list[tuple[str, str, int, float]]:
    """The most frequent confusions: true label, predicted label, rows, fraction of true rows."""
    off_CC = matrix_CC.copy()
    np.fill_diagonal(off_CC, 0)
    order = np.argsort(-off_CC, axis=None, kind="stable")[:MOST_CONFUSED]
    pairs = [divmod(int(flat), len(labels)) for flat in order]
    return [
        (
            labels[true],
            labels[predicted],
            int(off_CC[true, predicted]),
            float(off_CC[true, predicted] / max(1, support_C[true])),
        )
        for true, predicted in pairs
        if off_CC[true, predicted] > 0
    ]


def confident_errors(
    texts: Sequence[Text],
    reference_NC: Choice,
    predicted_NC: Choice,
    confidence_N: NDArray[np.float64],
    labels: Sequence[str],
) -> list[tuple[int, Text, tuple[str, ...], tuple[str, ...], float]]:
    """Misclassified rows by descending confidence; often it is their label that is wrong.

    Returns row, text, true labels, predicted labels and confidence.
    """
    wrong = np.flatnonzero((reference_NC != predicted_NC).any(axis=1))
    order = wrong[np.argsort(-confidence_N[wrong], kind="stable")][:MOST_CONFIDENT_ERRORS]

    def names(choice_C: NDArray[np.bool_]) -> tuple[str, ...]:
        return tuple(label for label, on in zip(labels, choice_C, strict=True) if on)

    return [
        (
            int(n),
            texts[n],
            names(reference_NC[n]),
            names(predicted_NC[n]),
            float(confidence_N[n]),
        )
        for n in order
    ]


def evaluate_abstention(
    requested: Abstention | None,
    abstain_N: NDArray[np.bool_] | None,
    correct_N: NDArray[np.bool_],
) -> AbstentionResult | None:
    """Measure coverage and selective risk; None where the bundle never abstains."""
    if requested is None or abstain_N is None:
        return None
    answered, n = int((~abstain_N).sum()), len(abstain_N)
    low, high = wilson(answered, n)
    risk = None
    if answered:
        errors = int((~correct_N[~abstain_N]).sum())
        risk_low, risk_high = wilson(errors, answered)
        risk = Measured(value=errors / answered, low=risk_low, high=risk_high)
    return AbstentionResult(
        requested=requested, coverage=Measured(value=answered / n, low=low, high=high), risk=risk
    )
