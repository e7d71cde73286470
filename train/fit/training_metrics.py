"""Validation metrics during training, through Hugging Face `evaluate`, without the network.

`evaluate.load("accuracy")` downloads a script from the Hub, so it fails or hangs offline
(evaluate 0.4.6). The metric here is a local subclass of `evaluate.Metric`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from serve.inference.scores import Array, activate, chosen, default_activation
from train.config.trainer_keys import label_metric
from train.statistics.calibrated_loss import calibrated_losses
from train.statistics.metrics import label_score, one_hot, scores


class ClassificationMetrics(evaluate.Metric):
    """`scores` as an `evaluate` metric: compute(references=..., predictions=...)."""

    def __init__(self) -> None:
        # evaluate creates its cache directory even with keep_in_memory, though it puts nothing
        # there; the home directory may be read-only.
        with tempfile.TemporaryDirectory(prefix="textloop-") as cache:
            super().__init__(keep_in_memory=True, cache_dir=cache)

    def _info(self) -> evaluate.MetricInfo:
        row = datasets.Sequence(datasets.Value("bool"))
        return evaluate.MetricInfo(
            description="Accuracy and F1 of single-label or multi-label predictions.",
            citation="",
            features=datasets.Features({"references": row, "predictions": row}),
        )

    def _compute(self, references: Any, predictions: Any) -> dict[str, float]:
        return scores(np.asarray(references, dtype=bool), np.asarray(predictions, dtype=bool))


class ValidationMetrics:
    """The Trainer's `compute_metrics`; keeps the logits of the last evaluation."""

    logits_NC: Array

    def __init__(self, task: str, labels: Sequence[str], chosen_by: str = "loss") -> None:
        """chosen_by: the metric that chooses the checkpoint, as `f1:LABEL` for one label."""
        self.task = task
        self.label_metric = label_metric(chosen_by)
        self.labels = labels
        self.metrics = ClassificationMetrics()

    def __call__(self, result: Any) -> dict[str, float]:
        """Compute the metrics of an evaluation."""
        self.logits_NC = np.asarray(result.predictions, dtype=np.float32)
        return self.of(self.logits_NC, result.label_ids)

    def of(self, logits_NC: Array, label_ids: Any) -> dict[str, float]:
        """Compute the metrics from logits and label numbers, or 0/1 rows for multi-label.

        log_loss: see `train.statistics.calibrated_loss`.
        """
        predicted_NC = chosen(activate(logits_NC, default_activation(self.task)), self.task)
        reference_NC = (
            label_ids.astype(bool)
            if self.task == "multi_label"
            else one_hot(label_ids, logits_NC.shape[1])
        )
        values: dict[str, float] = self.metrics.compute(
            references=reference_NC, predictions=predicted_NC
        )
        if self.label_metric is not None:
            measure, label = self.label_metric
            c = self.labels.index(label)
            score = label_score(measure, reference_NC[:, c], predicted_NC[:, c])
            values[f"{measure}:{label}"] = score
        losses_N = calibrated_losses(logits_NC, reference_NC, self.task)
        return {"log_loss": float(losses_N.mean()), **values}
