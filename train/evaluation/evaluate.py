"""Score a bundle on the test split, through the predictor that serves it.

Writes `output_dir/evaluation/` (`evaluation-VERSION/` for a bundle other than the run's own):
`predictions.parquet`, one row per text, `metrics.json`, and `report.html` with its plots.
The metrics of the run's own bundle on its own test rows are also recorded in its manifest.

Shape suffixes: N texts, C labels.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from serve.bundle.manifest import Manifest, Measured
from serve.bundle.seal import record_metrics
from serve.files import write_atomic
from serve.inference.predictor import Predictor
from serve.stats import paired_difference
from train.config.run import RunConfig
from train.data.label_names import positive_label
from train.data.split_checks import count_labels
from train.data.splits import LabelledData, Split, load_data
from train.evaluation.binary import BinaryResult
from train.evaluation.measure import BACKEND_SPLITS, check_task, measure
from train.evaluation.predictions import write_predictions
from train.evaluation.result import AbstentionResult, Evaluation, Measurement
from train.evaluation.slices import find_slices
from train.evaluation.usefulness import commonest_answer
from train.statistics.intervals import LabelMetrics


def evaluate(config: RunConfig, *, bundle: Path | None = None, device: str = "auto") -> Evaluation:
    """Score `bundle` (the run's own by default) on the run's test split and write the results.

    Raises ValueError if the bundle's task, labels or columns are not those of the data.
    """
    from train.evaluation.report import Subject, write_report  # fails early without matplotlib

    data = load_data(config)
    test = data.test
    predictor = Predictor.load(
        bundle or config.output_dir / "bundle", device=device, backend="torch"
    )
    manifest = predictor.bundle.manifest
    check_task("the bundle", manifest, config)
    suffix = f"-{manifest.version}" if bundle else ""
    directory = config.output_dir / f"evaluation{suffix}"

    result = _measure(predictor, data, config, directory)
    directory.mkdir(parents=True, exist_ok=True)
    write_predictions(directory / "predictions.parquet", test, manifest, result.full)
    _write_metrics(test, manifest, result)
    if bundle is None:
        _record(predictor, test, result)
    subject = Subject(
        manifest=manifest,
        split=test,
        run=config.output_dir.name if bundle is None else f"version {manifest.version}",
        source=_source_name(config),
        log_history=_log_history(config) if bundle is None else [],
    )
    write_report(result, subject)
    return result


def _source_name(config: RunConfig) -> str:
    """Name where the test rows come from, for a title."""
    source = config.data.test or config.data.train
    where = source.rstrip("/").rpartition("/")[2] or source
    return where if config.data.test else f"rows split off {where}"


def _positive_label(data: LabelledData, manifest: Manifest, configured: str | None) -> str | None:
    """The label whose precision and recall are meant by those of a binary task."""
    if manifest.task != "single_label" or len(manifest.labels) != 2:
        return None
    counts = count_labels(data.train.labels)
    return positive_label(counts, configured) if counts.keys() == {*manifest.labels} else None


def _measure(
    predictor: Predictor, data: LabelledData, config: RunConfig, directory: Path
) -> Evaluation:
    """Measure full precision, and the int8 export where the bundle has one."""
    manifest, test = predictor.bundle.manifest, data.test
    full = measure(predictor, test, config.seed)
    int8 = difference = agreement = None
    if manifest.int8 and manifest.int8.shipped:
        path = predictor.bundle.path
        onnx = Predictor.load(path, device="cpu", backend="onnx", verify=False)
        int8 = measure(onnx, test, config.seed)
        value, low, high = paired_difference(full.correct_N, int8.correct_N)
        difference = Measured(value=value, low=low, high=high)
        agreement = float((full.predicted_NC == int8.predicted_NC).all(axis=1).mean())
    return Evaluation(
        full=full,
        int8=int8,
        difference=difference,
        agreement=agreement,
        slices=find_slices(test, full.correct_N),
        task=manifest.task,
        positive=_positive_label(data, manifest, config.calibration.positive_label),
        commonest=commonest_answer(data.train.labels),
        directory=directory,
    )


def _write_metrics(test: Split, manifest: Manifest, result: Evaluation) -> None:
    values = {"model_version": manifest.version, "test": test.fingerprint}
    values |= _result_values(result, manifest)
    write_atomic(result.directory / "metrics.json", json.dumps(values, indent=2).encode())


def _record(predictor: Predictor, test: Split, result: Evaluation) -> None:
    """Record the metrics in the manifest of the run's own bundle, if the test rows are its own."""
    sealed = predictor.bundle
    if test.fingerprint != sealed.manifest.data.get("test"):
        print("note: these are not the test rows recorded in the bundle; its manifest is unchanged")
        return
    sealed = record_metrics(sealed, "test", result.full.intervals)
    if result.int8:
        record_metrics(sealed, "test" + BACKEND_SPLITS["onnx"], result.int8.intervals)


def _log_history(config: RunConfig) -> list[dict[str, Any]]:
    """The Trainer's log of the run; empty where it is not available."""
    file = config.output_dir / "adapter" / "fit.json"
    record = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return list(record.get("log_history", []))


def _result_values(result: Evaluation, manifest: Manifest) -> dict[str, Any]:
    """Content of `metrics.json`."""
    full, int8, difference = result.full, result.int8, result.difference
    values: dict[str, Any] = {
        "metrics": _values(full),
        "per_label": [_label_values(each) for each in full.metrics.per_label],
        "calibration": manifest.calibration.model_dump() if manifest.calibration else None,
        "decision": _binary_values(full.binary),
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
            "decision": _binary_values(int8.binary),
            "abstention": _abstention_values(int8.abstention),
        }
    return values


def _label_values(label: LabelMetrics) -> dict[str, Any]:
    measured = {name: getattr(label, name).model_dump() for name in ("precision", "recall", "f1")}
    counts = {"support": label.support, "predicted": label.predicted}
    return {"label": label.label, **counts, **measured}


def _binary_values(result: BinaryResult | None) -> dict[str, Any] | None:
    if result is None:
        return None
    served = result.at_threshold
    return {
        "asked": result.requested.model_dump(),
        "at_half": _label_values(result.at_half),
        "at_threshold": _label_values(served) if served else None,
    }


def _abstention_values(result: AbstentionResult | None) -> dict[str, Any] | None:
    if result is None:
        return None
    return {
        "asked": result.requested.model_dump(),
        "coverage": result.coverage.model_dump(),
        "risk": result.risk.model_dump() if result.risk else None,
    }


def _values(measurement: Measurement) -> dict[str, Any]:
    return {name: value.model_dump() for name, value in measurement.intervals.items()}
