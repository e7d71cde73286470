"""Metrics during training, through Hugging Face `evaluate` and without the network.

`evaluate.load("accuracy")` downloads a script from the Hub, so it fails or hangs offline
(evaluate 0.4.6). The metric here is a local subclass of `evaluate.Metric`.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import datasets
import evaluate
import numpy as np

from serve.inference.scores import Array, activate, chosen, default_activation
from train.statistics.metrics import one_hot, scores


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


def classification_metrics(
    metrics: ClassificationMetrics, logits_NC: Array, label_ids: Any, task: str
) -> dict[str, float]:
    """Metrics of an evaluation during training, from logits and label numbers."""
    predicted_NC = chosen(activate(logits_NC, default_activation(task)), task)
    reference_NC = (
        label_ids.astype(bool) if task == "multi_label" else one_hot(label_ids, logits_NC.shape[1])
    )
    values: dict[str, float] = metrics.compute(references=reference_NC, predictions=predicted_NC)
    return values
