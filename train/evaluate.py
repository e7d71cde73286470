"""Judge a bundle on the test split, through the predictor that serves it.

Writes `output_dir/evaluation/` (`evaluation-VERSION/` for another bundle than the run's own):
`predictions.parquet`, one row per text, and `metrics.json`;
the metrics of the run's own bundle on its own test rows go into its manifest as well.

Shape suffixes: N texts, C labels.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from serve.bundle import Measured, record_metrics
from serve.files import write_atomic
from serve.predictor import Predictor
from serve.scores import Array
from serve.stats import bootstrap, wilson
from serve.tables import write_rows
from train.config import RunConfig
from train.data import Split, load_data
from train.metrics import Choice, ClassificationMetrics, chosen, scores

BLOCK_TEXTS = 1024


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What a predictor does on a split."""

    probabilities_NC: Array
    predicted_NC: Choice
    reference_NC: Choice
    intervals: dict[str, Measured]


def evaluate(config: RunConfig, *, bundle: Path | None = None, device: str = "auto") -> Measurement:
    """Score `bundle` (the run's own by default) on the run's test split and write the results.

    Raises ValueError if the bundle's task, labels or columns are not those of the data.
    """
    data = load_data(config)
    predictor = Predictor.load(bundle or config.output_dir / "bundle", device=device)
    manifest = predictor.bundle.manifest
    if manifest.task != config.task or manifest.is_pair != config.is_pair:
        raise ValueError(
            f"the bundle is a {manifest.task} model of {len(manifest.text_columns)} text columns, "
            f"the configuration asks for {config.task} and {len(config.data.text_columns)}"
        )
    result = measure(predictor, data.test, config.seed)
    own = bundle is None
    directory = config.output_dir / ("evaluation" if own else f"evaluation-{manifest.version}")
    directory.mkdir(parents=True, exist_ok=True)
    rows = _prediction_rows(data.test, manifest.labels, result)
    temporary = directory / ".predictions.parquet"
    write_rows(temporary, lambda: rows, list(rows[0]))
    temporary.replace(directory / "predictions.parquet")
    report = {
        "model_version": manifest.version,
        "test": data.test.fingerprint,
        "metrics": {name: value.model_dump() for name, value in result.intervals.items()},
    }
    write_atomic(directory / "metrics.json", json.dumps(report, indent=2).encode())
    if own and data.test.fingerprint == manifest.data["test"]:
        record_metrics(predictor.bundle, "test", result.intervals)
    elif own:
        print(
            "note: these are not the test rows that the bundle knows; its manifest stays as it is"
        )
    return result


def measure(predictor: Predictor, split: Split, seed: int) -> Measurement:
    """Predict every text of a split; metrics with 95 % intervals.

    Accuracy has Wilson's interval, the F1 scores percentile bootstrap intervals.
    Raises ValueError for a label that the bundle does not know.
    """
    manifest = predictor.bundle.manifest
    index = {label: number for number, label in enumerate(manifest.labels)}
    reference_NC = np.zeros((len(split), len(index)), dtype=bool)
    for row, labels in enumerate(split.labels):
        for label in labels:
            if label not in index:
                raise ValueError(f"the data has the label {label!r}, the bundle does not")
            reference_NC[row, index[label]] = True
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
