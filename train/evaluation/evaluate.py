"""Judge a bundle on the test split, through the predictor that serves it.

Writes `output_dir/evaluation/` (`evaluation-VERSION/` for another bundle than the run's own):
`predictions.parquet`, one row per text, `metrics.json`, and `report.html` with its figures;
the metrics of the run's own bundle on its own test rows go into its manifest as well.

Shape suffixes: N texts, C labels.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from serve.bundle.manifest import Manifest, Measured
from serve.bundle.seal import record_metrics
from serve.files import write_atomic
from serve.inference.predictor import Predictor
from serve.stats import paired_difference
from serve.tables import write_rows
from train.config.run import RunConfig
from train.data.splits import Split, load_data
from train.evaluation.errors import evaluate_abstention
from train.evaluation.result import AbstentionResult, Evaluation, Measurement
from train.evaluation.slices import find_slices
from train.statistics.intervals import LabelMetrics, measure_all
from train.statistics.metrics import Choice

BLOCK_TEXTS = 1024

BACKEND_SPLITS: dict[Literal["torch", "onnx"], str] = {"torch": "", "onnx": "_int8"}
"""What is added to a split's name in the manifest, by the backend that was measured."""


def evaluate(config: RunConfig, *, bundle: Path | None = None, device: str = "auto") -> Evaluation:
    """Score `bundle` (the run's own by default) on the run's test split and write the results.

    Raises ValueError if the bundle's task, labels or columns are not those of the data.
    """
    from train.evaluation.report import write_report  # before the work: it wants matplotlib

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
    result = Evaluation(
        full=full,
        int8=int8,
        difference=difference,
        agreement=agreement,
        slices=find_slices(data.test, full.right_N),
        directory=directory,
    )
    rows = _prediction_rows(data.test, manifest.labels, full)
    temporary = directory / ".predictions.parquet"
    write_rows(temporary, lambda: rows, list(rows[0]))
    temporary.replace(directory / "predictions.parquet")
    values = {"model_version": manifest.version, "test": data.test.fingerprint}
    values |= _result_values(result, manifest)
    write_atomic(directory / "metrics.json", json.dumps(values, indent=2).encode())
    if own and data.test.fingerprint == manifest.data["test"]:
        sealed = predictor.bundle
        for split, measurement in measured.items():
            sealed = record_metrics(sealed, split, measurement.intervals)
    elif own:
        print(
            "note: these are not the test rows that the bundle knows; its manifest stays as it is"
        )
    fitted = config.output_dir / "adapter" / "fit.json"
    record = json.loads(fitted.read_text(encoding="utf-8")) if own and fitted.is_file() else {}
    write_report(result, manifest, data.test, record.get("log_history", []))
    return result


def _result_values(result: Evaluation, manifest: Manifest) -> dict[str, Any]:
    """What `metrics.json` says of the test split."""
    full, int8, difference = result.full, result.int8, result.difference
    values: dict[str, Any] = {
        "metrics": _values(full),
        "per_label": [_label_values(each) for each in full.metrics.per_label],
        "calibration": manifest.calibration.model_dump() if manifest.calibration else None,
        "abstention": _abstention_values(full.abstention),
        "slices": [
            {"by": each.by, "value": each.value, "rows": each.rows, "flag": each.flag}
            | {"accuracy": each.accuracy.model_dump()}
            for each in result.slices.slices
        ],
    }
    if int8 and difference:
        values["int8"] = {
            "metrics": _values(int8),
            "accuracy_difference": difference.model_dump(),
            "agreement": result.agreement,
            "abstention": _abstention_values(int8.abstention),
        }
    return values


def _label_values(label: LabelMetrics) -> dict[str, Any]:
    measured = {name: getattr(label, name).model_dump() for name in ("precision", "recall", "f1")}
    counts = {"support": label.support, "predicted": label.predicted}
    return {"label": label.label, **counts, **measured}


def _abstention_values(result: AbstentionResult | None) -> dict[str, Any] | None:
    if result is None:
        return None
    return {
        "asked": result.asked.model_dump(),
        "coverage": result.coverage.model_dump(),
        "risk": result.risk.model_dump() if result.risk else None,
    }


def _values(measurement: Measurement) -> dict[str, Any]:
    return {name: value.model_dump() for name, value in measurement.intervals.items()}


def measure(predictor: Predictor, split: Split, seed: int) -> Measurement:
    """Predict every text of a split; metrics with 95 % intervals.

    The labels are those that the bundle's rules choose; the intervals are those of
    `train.statistics.intervals`. Raises ValueError for a label that the bundle does not know.
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
    decision = predictor.rules.decide(probabilities_NC)
    metrics = measure_all(
        reference_NC,
        decision.predicted_NC,
        probabilities_NC,
        task=manifest.task,
        labels=manifest.labels,
        seed=seed,
    )
    right_N = (reference_NC == decision.predicted_NC).all(axis=1)
    return Measurement(
        probabilities_NC=probabilities_NC,
        decision=decision,
        reference_NC=reference_NC,
        metrics=metrics,
        abstention=evaluate_abstention(predictor.rules.abstention, decision.abstain_N, right_N),
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
    return "\n".join(f"{name:<12} {shown(metric)}" for name, metric in intervals.items())


def shown(metric: Measured) -> str:
    """Value and interval of a metric."""
    if metric.low is None or metric.high is None:
        return f"{metric.value:.4f}"
    return f"{metric.value:.4f}  [{metric.low:.4f}, {metric.high:.4f}]"


def abstention_line(result: AbstentionResult) -> str:
    """What abstaining did, in a sentence."""
    asked = result.asked
    risk = shown(result.risk) if result.risk else "none"
    return (
        f"answers {shown(result.coverage)} of the texts, wrong among them {risk}; "
        f"asked for at most {asked.max_risk:g} with confidence {asked.risk_confidence:g}"
    )


def _prediction_rows(split: Split, names: tuple[str, ...], result: Measurement) -> list[Any]:
    rows = []
    decision = result.decision
    for n, text in enumerate(split.texts):
        predicted_C = result.predicted_NC[n]
        parts = {"text": text} if isinstance(text, str) else {"text": text[0], "text_pair": text[1]}
        rows.append(
            {
                "row": n,
                **parts,
                "labels": list(split.labels[n]),
                "predicted": [name for name, on in zip(names, predicted_C, strict=True) if on],
                "correct": bool((predicted_C == result.reference_NC[n]).all()),
                "probabilities": result.probabilities_NC[n].tolist(),
                "confidence": float(decision.confidence_N[n]),
                "abstain": None if decision.abstain_N is None else bool(decision.abstain_N[n]),
            }
        )
    return rows
