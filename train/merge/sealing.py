"""What the manifest states about a bundle's origin, and its metrics on the validation split."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serve.bundle.manifest import Calibration, Int8Export
from serve.bundle.seal import Bundle, record_metrics, seal
from serve.inference.backends.torch import TorchBackend
from serve.inference.predictor import Predictor
from train.config.run import RunConfig
from train.data.splits import LabelledData
from train.evaluation.measure import BACKEND_SPLITS, measure
from train.golden import write_golden
from train.merge.weights import Merged
from train.origin import code_revision, library_versions, tokenizer_rules
from train.portable import portable, portable_config


def seal_run(
    staging: Path,
    config: RunConfig,
    data: LabelledData,
    merged: Merged,
    calibration: Calibration | None,
    int8: Int8Export | None,
    *,
    fitted: dict[str, Any],
    device: str,
) -> Bundle:
    """Seal the model directory `staging` as `output_dir/bundle`.

    fitted: the record of `fit`. device: on which its golden cases are recorded.
    """
    run = fitted["run"]
    fields: dict[str, Any] = dict(
        task=config.task,
        labels=data.labels,
        text_columns=config.data.text_columns,
        max_length=config.model.max_length,
        base_model={
            "base": portable(config.model.base),
            "revision": config.model.revision,
            "weights_sha256": run["base_weights_sha256"],
            "content": run.get("base_content"),
        },
        config=portable_config(config),
        choice=fitted.get("choice"),
        data=data.fingerprints,
        tokenizer=tokenizer_rules(staging, merged.encoder, data.validation.texts),
        parity=merged.parity,
        int8=int8,
        calibration=calibration,
        code_revision=code_revision(),
        versions=library_versions(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    backend = TorchBackend.load(staging, device=device)
    fields["parity"] = merged.parity | write_golden(staging, fields, backend)
    return seal(staging, config.output_dir / "bundle", **fields)


def record_validation_metrics(
    bundle: Bundle, config: RunConfig, data: LabelledData, *, device: str
) -> Bundle:
    """Measure every backend that the bundle serves on the validation split."""
    int8 = bundle.manifest.int8
    for backend, split in BACKEND_SPLITS.items():
        if backend == "torch" or (int8 and int8.shipped):
            predictor = Predictor.load(
                bundle.path, device=device if backend == "torch" else "cpu", backend=backend
            )
            metrics = measure(predictor, data.validation, config.seed)
            bundle = record_metrics(bundle, f"validation{split}", metrics.intervals)
    return bundle
