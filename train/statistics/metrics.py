"""Accuracy and F1 of predictions. Pure.

Shape suffixes: N examples, C labels. References and predictions are boolean (N, C) for both
tasks, one True per row for a single-label one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Choice = NDArray[np.bool_]
Floats = NDArray[np.float64]
Counts = NDArray[Any]
"""Numbers of rows: integers, or floats where rows are weighted."""


def one_hot(classes_N: NDArray[np.int64], num_labels: int) -> Choice:
    """Convert class numbers to boolean rows, (N, C)."""
    return np.asarray(np.arange(num_labels) == np.asarray(classes_N)[:, None])


def given(labels: Any, num_labels: int) -> Choice:
    """Return encoded labels, class numbers or 0/1 rows, as boolean rows, (N, C)."""
    values = np.asarray(labels)
    return values.astype(bool) if values.ndim == 2 else one_hot(values, num_labels)


def f1_macro(hit: Counts, predicted: Counts, support: Counts) -> Counts:
    """Mean F1 over the labels that occur in either, from counts per label on the last axis."""
    total = predicted + support
    f1 = 2 * hit / np.maximum(total, 1)
    return np.asarray(f1.sum(axis=-1) / np.maximum((total > 0).sum(axis=-1), 1))


def scores(reference_NC: Choice, predicted_NC: Choice) -> dict[str, float]:
    """Accuracy and F1 of predictions.

    accuracy: fraction of rows whose labels are all correct (exact match). f1_macro: mean over
    the labels that occur in either; f1_micro: over all decisions; f1_weighted: mean over
    labels weighted by support.
    """
    hit_C = (reference_NC & predicted_NC).sum(axis=0)
    support_C = reference_NC.sum(axis=0)
    predicted_C = predicted_NC.sum(axis=0)
    total_C = support_C + predicted_C
    f1_C = 2 * hit_C / np.maximum(total_C, 1)
    return {
        "accuracy": float((reference_NC == predicted_NC).all(axis=1).mean()),
        "f1_macro": float(f1_macro(hit_C, predicted_C, support_C)),
        "f1_micro": float(2 * hit_C.sum() / max(total_C.sum(), 1)),
        "f1_weighted": float((f1_C * support_C).sum() / max(support_C.sum(), 1)),
    }


def label_score(measure: str, reference_N: Choice, predicted_N: Choice) -> float:
    """f1, precision or recall of one label; 0 where the denominator is."""
    hits, support, predicted = (
        int(each_N.sum()) for each_N in (reference_N & predicted_N, reference_N, predicted_N)
    )
    total = {"f1": support + predicted, "precision": predicted, "recall": support}[measure]
    return (2 if measure == "f1" else 1) * hits / max(total, 1)


def shown_name(metric: str, task: str) -> str:
    """Return a metric's name for people: the accuracy of several labels is that of whole rows."""
    return "all labels right" if (metric, task) == ("accuracy", "multi_label") else metric
