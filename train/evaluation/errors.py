"""What a table of metrics does not show: confused labels, confident errors, abstention.

Shape suffixes: N rows, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve.bundle.manifest import Abstention, Measured
from serve.inference.text import Text
from serve.stats import wilson
from train.evaluation.result import AbstentionResult
from train.statistics.metrics import Choice

MOST_CONFUSED = 25
MOST_CONFIDENT_ERRORS = 30


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """A true label that went missing and a predicted one that was not true, in the same rows."""

    true: str
    predicted: str
    rows: int
    share: float
    """Of the rows with the true label."""


def confusion_matrix(reference_NC: Choice, predicted_NC: Choice) -> NDArray[np.int64]:
    """Rows by true and predicted label, (C, C); labels decided right stand on the diagonal.

    Multi-label: a missed label counts against each wrong one that was given in its row.
    """
    missed_NC = (reference_NC & ~predicted_NC).astype(np.float64)
    wrong_NC = (predicted_NC & ~reference_NC).astype(np.float64)
    matrix = np.rint(missed_NC.T @ wrong_NC).astype(np.int64)
    np.fill_diagonal(matrix, (reference_NC & predicted_NC).sum(axis=0))
    return matrix


def most_confused(
    matrix_CC: NDArray[np.int64], support_C: NDArray[np.int64], labels: Sequence[str]
) -> list[Confusion]:
    """The pairs of labels that are confused most often, by number of rows."""
    off_CC = matrix_CC.copy()
    np.fill_diagonal(off_CC, 0)
    order = np.argsort(-off_CC, axis=None, kind="stable")[:MOST_CONFUSED]
    pairs = [divmod(int(flat), len(labels)) for flat in order]
    return [
        Confusion(
            true=labels[true],
            predicted=labels[predicted],
            rows=int(off_CC[true, predicted]),
            share=float(off_CC[true, predicted] / max(1, support_C[true])),
        )
        for true, predicted in pairs
        if off_CC[true, predicted] > 0
    ]


@dataclass(frozen=True, kw_only=True)
class ConfidentError:
    """A row that the model got wrong and was sure of: often the label is what is wrong."""

    row: int
    text: Text
    true: tuple[str, ...]
    predicted: tuple[str, ...]
    confidence: float


def confident_errors(
    texts: Sequence[Text],
    reference_NC: Choice,
    predicted_NC: Choice,
    confidence_N: NDArray[np.float64],
    labels: Sequence[str],
) -> list[ConfidentError]:
    """The wrong rows that the model was surest of, the surest first."""
    wrong = np.flatnonzero((reference_NC != predicted_NC).any(axis=1))
    order = wrong[np.argsort(-confidence_N[wrong], kind="stable")][:MOST_CONFIDENT_ERRORS]

    def names(choice_C: NDArray[np.bool_]) -> tuple[str, ...]:
        return tuple(label for label, on in zip(labels, choice_C, strict=True) if on)

    return [
        ConfidentError(
            row=int(n),
            text=texts[n],
            true=names(reference_NC[n]),
            predicted=names(predicted_NC[n]),
            confidence=float(confidence_N[n]),
        )
        for n in order
    ]


def evaluate_abstention(
    asked: Abstention | None,
    abstain_N: NDArray[np.bool_] | None,
    right_N: NDArray[np.bool_],
) -> AbstentionResult | None:
    """Coverage and risk, with Wilson's intervals; None where the bundle never abstains."""
    if asked is None or abstain_N is None:
        return None
    answered, n = int((~abstain_N).sum()), len(abstain_N)
    low, high = wilson(answered, n)
    risk = None
    if answered:
        errors = int((~right_N[~abstain_N]).sum())
        risk_low, risk_high = wilson(errors, answered)
        risk = Measured(value=errors / answered, low=risk_low, high=risk_high)
    return AbstentionResult(
        asked=asked, coverage=Measured(value=answered / n, low=low, high=high), risk=risk
    )
