"""Metrics of a classifier, through Hugging Face `evaluate` and without the network.

`evaluate.load("accuracy")` downloads a script from the Hub, so it fails or hangs offline
(evaluate 0.4.6). The metric here is a local subclass of `evaluate.Metric`.

Shape suffixes: N examples, C labels. References and predictions are boolean (N, C) for both
tasks, one True per row for a single-label one.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import NDArray

from serve.scores import chosen as chosen

Choice = NDArray[np.bool_]


def one_hot(classes_N: NDArray[np.int64], num_labels: int) -> Choice:
    """Class numbers as boolean rows."""
    return np.asarray(np.arange(num_labels) == np.asarray(classes_N)[:, None])


def scores(reference_NC: Choice, predicted_NC: Choice) -> dict[str, float]:
    """Accuracy and F1 of predictions.

    accuracy: share of rows whose labels are all right. f1_macro: mean over labels that occur
    in either; f1_micro: over all decisions; f1_weighted: mean by the labels' frequency.
    """
    hit_C = (reference_NC & predicted_NC).sum(axis=0)
    support_C = reference_NC.sum(axis=0)
    total_C = support_C + predicted_NC.sum(axis=0)
    f1_C = 2 * hit_C / np.maximum(total_C, 1)
    return {
        "accuracy": float((reference_NC == predicted_NC).all(axis=1).mean()),
        "f1_macro": float(f1_C[total_C > 0].mean()) if total_C.any() else 0.0,
        "f1_micro": float(2 * hit_C.sum() / max(total_C.sum(), 1)),
        "f1_weighted": float((f1_C * support_C).sum() / max(support_C.sum(), 1)),
    }


class ClassificationMetrics(evaluate.Metric):
    """`scores` as an `evaluate` metric: compute(references=..., predictions=...)."""

    def __init__(self) -> None:
        # evaluate makes its cache directory even if it keeps all in memory; the home
        # directory may be read-only.
        cache = Path(tempfile.gettempdir(), f"textloop-{os.getuid()}")
        super().__init__(keep_in_memory=True, cache_dir=str(cache))

    def _info(self) -> evaluate.MetricInfo:
        row = datasets.Sequence(datasets.Value("bool"))
        return evaluate.MetricInfo(
            description="Accuracy and F1 of single-label or multi-label predictions.",
            citation="",
            features=datasets.Features({"references": row, "predictions": row}),
        )

    def _compute(self, references: Any, predictions: Any) -> dict[str, float]:
        return scores(np.asarray(references, dtype=bool), np.asarray(predictions, dtype=bool))
