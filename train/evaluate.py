"""Judge a bundle on the test split, through the predictor that serves it.

Writes `output_dir/evaluation/` (`evaluation-VERSION/` for another bundle than the run's own):
`predictions.parquet`, one row per text, and `metrics.json`;
the metrics of the run's own bundle on its own test rows go into its manifest as well.

Shape suffixes: N texts, C labels.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from serve.bundle import Measured, record_metrics
from serve.files import write_atomic
from serve.predictor import Predictor
from serve.scores import Array
from serve.stats import bootstrap, paired_difference, wilson
from serve.tables import write_rows
from train.config import RunConfig
from train.data import Split, load_data
from train.metrics import Choice, ClassificationMetrics, chosen, scores

BLOCK_TEXTS = 1024

BACKEND_SPLITS: dict[Literal["torch", "onnx"], str] = {"torch": "", "onnx": "_int8"}
"""What is added to a split's name in the manifest, by the backend that was measured."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What a predictor does on a split."""

    probabilities_NC: Array
    predicted_NC: Choice
    reference_NC: Choice
    intervals: dict[str, Measured]

    @property
    def right_N(self) -> NDArray[np.bool_]:
        """Whether a text got exactly its labels."""
        right_N: NDArray[np.bool_] = (self.predicted_NC == self.reference_NC).all(axis=1)
        return right_N


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A bundle on the test split: in full precision, and its int8 export where it has one."""

    full: Measurement
    int8: Measurement | None
    difference: Measured | None
    """Accuracy of int8 minus that of full precision, paired."""
    agreement: float | None
    """Share of texts on which both choose the same labels."""
    directory: Path


def evaluate(config: RunConfig, *, bundle: Path | None = None, device: str = "auto") -> Evaluation:
    """Score `bundle` (the run's own by default) on the run's test split and write the results.

    Raises ValueError if the bundle's task, labels or columns are not those of the data.
    """
    data = load_data(config)
    path = bundle or config.output_dir / "bundle"
    predictor = Predictor.load(path, device=device, backend="torch")
    manifest = predictor.bundle.manifest
    if manifest.task != config.task or manifest.is_pair != config.is_pair:
        raise ValueError(
            f"the bundle is a {manifest.task} model of {len(manifest.text_columns)} text columns, "
            f"the configuration asks for {config.task} and {len(config.data.text_columns)}"
        )
    full = measure(predictor, data.test, config.seed)
    measured = {"test": full}
    int8 = difference = agreement = None
    if manifest.int8 and manifest.int8.shipped:
        onnx = Predictor.load(path, device="cpu", backend="onnx", verify=False)
        int8 = measured["test_int8"] = measure(onnx, data.test, config.seed)
        value, low, high = paired_difference(full.right_N, int8.right_N)
        difference = Measured(value=value, low=low, high=high)
        agreement = float((full.predicted_NC == int8.predicted_NC).all(axis=1).mean())

    own = bundle is None
    directory = config.output_dir / ("evaluation" if own else f"evaluation-{manifest.version}")
    directory.mkdir(parents=True, exist_ok=True)
    rows = _prediction_rows(data.test, manifest.labels, full)
    temporary = directory / ".predictions.parquet"
    write_rows(temporary, lambda: rows, list(rows[0]))
    temporary.replace(directory / "predictions.parquet")
    report: dict[str, Any] = {
        "model_version": manifest.version,
        "test": data.test.fingerprint,
        "metrics": _values(full),
    }
    if int8 and difference:
        report["int8"] = {
            "metrics": _values(int8),
            "accuracy_difference": difference.model_dump(),
            "agreement": agreement,
        }
    write_atomic(directory / "metrics.json", json.dumps(report, indent=2).encode())
    if own and data.test.fingerprint == manifest.data["test"]:
        sealed = predictor.bundle
        for split, measurement in measured.items():
            sealed = record_metrics(sealed, split, measurement.intervals)
    elif own:
        print(
            "note: these are not the test rows that the bundle knows; its manifest stays as it is"
        )
    return Evaluation(
        full=full, int8=int8, difference=difference, agreement=agreement, directory=directory
    )


def _values(measurement: Measurement) -> dict[str, Any]:
    return {name: value.model_dump() for name, value in measurement.intervals.items()}


def measure(predictor: Predictor, split: Split, seed: int) -> Measurement:
    """Predict every text of a split; metrics with 95 % intervals.

    Accuracy has Wilson's interval, the F1 scores percentile bootstrap intervals.
    Raises ValueError for a label that the bundle does not know.
    """
    manifest = predictor.bundle.manifest
    reference_NC = reference(split, manifest.labels)
    parts = []
    with tqdm(total=len(split), unit="texts", desc="predict", disable=None) as bar:
        for start in range(0, len(split), BLOCK_TEXTS):
            texts = split.texts[start : start + BLOCK_TEXTS]
            parts.append(predictor.predict(texts))
            bar.update(len(texts))
    probabilities_NC = np.concatenate(parts)
    predicted_NC = chosen(probabilities_NC, manifest.task)
    values = ClassificationMetrics().compute(references=reference_NC, predictions=predicted_NC)
    interval_2K = bootstrap(
        lambda rows: np.array(list(scores(reference_NC[rows], predicted_NC[rows]).values())),
        len(split),
        seed=seed,
    )
    intervals = {
        name: Measured(value=value, low=float(low), high=float(high))
        for (name, value), low, high in zip(values.items(), *interval_2K, strict=True)
    }
    num_right = int((reference_NC == predicted_NC).all(axis=1).sum())
    low, high = wilson(num_right, len(split))
    intervals["accuracy"] = Measured(value=values["accuracy"], low=low, high=high)
    return Measurement(
        probabilities_NC=probabilities_NC,
        predicted_NC=predicted_NC,
        reference_NC=reference_NC,
        intervals=intervals,
    )


def reference(split: Split, names: Sequence[str]) -> Choice:
    """The true labels, bool of shape (N, C); ValueError for one that is not among `names`."""
    index = {label: number for number, label in enumerate(names)}
    reference_NC = np.zeros((len(split), len(index)), dtype=bool)
    for row, labels in enumerate(split.labels):
        for label in labels:
            if label not in index:
                raise ValueError(f"the data has the label {label!r}, the bundle does not")
            reference_NC[row, index[label]] = True
    return reference_NC


def table(intervals: dict[str, Measured]) -> str:
    """One line per metric: name, value and 95 % interval, as fractions."""
    return "\n".join(
        f"{name:<12} {metric.value:.4f}  [{metric.low:.4f}, {metric.high:.4f}]"
        for name, metric in intervals.items()
    )


def _prediction_rows(split: Split, names: tuple[str, ...], result: Measurement) -> list[Any]:
    rows = []
    for n, text in enumerate(split.texts):
        predicted_C = result.predicted_NC[n]
        parts = {"text": text} if isinstance(text, str) else {"text": text[0], "text_pair": text[1]}
        rows.append(
            {
                **parts,
                "labels": list(split.labels[n]),
                "predicted": [name for name, on in zip(names, predicted_C, strict=True) if on],
                "correct": bool((predicted_C == result.reference_NC[n]).all()),
                "probabilities": result.probabilities_NC[n].tolist(),
            }
        )
    return rows
