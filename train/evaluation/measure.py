"""Run a bundle on a split, through the predictor that serves it.

Shape suffixes: N texts, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from serve.bundle.manifest import Manifest
from serve.inference.predictor import Predictor
from serve.inference.scores import Array
from train.config.run import RunConfig
from train.data.splits import Split
from train.evaluation.binary import measure_binary
from train.evaluation.errors import evaluate_abstention
from train.evaluation.result import Measurement
from train.report.progress import Progress
from train.statistics.intervals import measure_all
from train.statistics.metrics import Choice

BLOCK_TEXTS = 1024

BACKEND_SPLITS: dict[Literal["torch", "onnx"], str] = {"torch": "", "onnx": "_int8"}
"""Suffix of a split's name in the manifest, by the backend that was measured."""


def measure(predictor: Predictor, split: Split, seed: int) -> Measurement:
    """Predict every text of a split, and compute the metrics with 95 % intervals.

    The labels are those that the bundle's rules choose; for the intervals see
    `train.statistics.intervals`. Raises ValueError for a label that the bundle does not know.
    """
    manifest = predictor.bundle.manifest
    reference_NC = reference(split, manifest.labels)
    probabilities_NC = predict(predictor, split, "predict")
    decision = predictor.rules.decide(probabilities_NC)
    metrics = measure_all(
        reference_NC,
        decision.predicted_NC,
        probabilities_NC,
        task=manifest.task,
        labels=manifest.labels,
        seed=seed,
    )
    correct_N = (reference_NC == decision.predicted_NC).all(axis=1)
    return Measurement(
        probabilities_NC=probabilities_NC,
        decision=decision,
        reference_NC=reference_NC,
        metrics=metrics,
        abstention=evaluate_abstention(predictor.rules.abstention, decision.abstain_N, correct_N),
        binary=measure_binary(predictor.rules, probabilities_NC, reference_NC, manifest.labels),
    )


def predict(predictor: Predictor, split: Split, description: str) -> Array:
    """Probabilities of a split's texts, (N, C), with a progress bar."""
    blocks = []
    with Progress(description, len(split)) as bar:
        for start in range(0, len(split), BLOCK_TEXTS):
            texts = split.texts[start : start + BLOCK_TEXTS]
            blocks.append(predictor.predict(texts, progress=bar.update))
    return np.concatenate(blocks)


def reference(split: Split, names: Sequence[str], *, others: bool = False) -> Choice:
    """The true labels, bool of shape (N, C).

    others: leave out labels that are not among `names`, instead of raising ValueError.
    """
    index = {label: number for number, label in enumerate(names)}
    reference_NC = np.zeros((len(split), len(index)), dtype=bool)
    for row, labels in enumerate(split.labels):
        for label in labels:
            if others and label not in index:
                continue
            if label not in index:
                raise ValueError(f"the data has the label {label!r}, the bundle does not")
            reference_NC[row, index[label]] = True
    return reference_NC


def check_task(name: str, manifest: Manifest, config: RunConfig) -> None:
    """Raise ValueError unless a bundle has the configuration's task and number of text columns."""
    if manifest.task != config.task or manifest.is_pair != config.is_pair:
        raise ValueError(
            f"{name} is a {manifest.task} model of {len(manifest.text_columns)} text columns, but "
            f"the configuration has {config.task} and {len(config.data.text_columns)}"
        )
