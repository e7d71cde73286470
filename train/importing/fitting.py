"""What is fitted and judged on the user's texts: calibration, bf16, int8 export, metrics.

All of it is what `merge` does, by the same code; the rows have the roles of `train.importing.rows`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from serve.bundle.manifest import Calibration, Int8Export
from serve.bundle.seal import Bundle, record_metrics
from serve.inference.backends.torch import TorchBackend
from serve.inference.passes import batched_logits
from serve.inference.predictor import Predictor
from train.evaluation.measure import BACKEND_SPLITS, measure, reference
from train.importing.checkpoint import Checkpoint, write_checkpoint
from train.importing.convert import Fitted
from train.importing.rows import UserRows
from train.merge.bf16 import compare_bf16
from train.merge.calibrate import calibrate, choose_temperature, scale_head
from train.merge.int8 import add_int8
from train.merge.roles import fitting_rows
from train.merge.weights import Merged
from train.model.base import last_linear
from train.report.progress import Progress

MIN_TEXTS = 100
"""Different texts that judge the int8 export: 99 % agreement means nothing on fewer."""


def fit_on(rows: UserRows, checkpoint: Checkpoint, staging: Path) -> Fitted:
    """Fit and judge on the written directory; a temperature is folded into it."""
    merged = _merged(rows, checkpoint, staging)
    calibration = _calibration(rows, merged)
    parity = compare_bf16(staging, rows.config, rows.data, merged, calibration, "cpu")
    int8, calibration = _int8(rows, merged, calibration, staging)
    return Fitted(
        temperature=merged.temperature,
        calibration=calibration,
        int8=int8,
        parity=parity,
        data=_fingerprints(rows),
    )


def _merged(rows: UserRows, checkpoint: Checkpoint, staging: Path) -> Merged:
    """Run the rows that choose; with labels fit the temperature and fold it into the head."""
    texts = rows.data.validation.texts
    encoder = checkpoint.encoder
    backend = TorchBackend(checkpoint.model, device="cpu")
    with Progress("full precision", len(texts)) as bar:
        logits_NC = batched_logits(
            backend, encoder, encoder.encode(texts), batch_size=32, progress=bar.update
        )
    temperature, notes = 1.0, list[str]()
    reference_NC = None
    if rows.is_labelled:
        section = rows.config.calibration
        reference_NC = reference(rows.data.validation, checkpoint.labels)
        if section.temperature:
            temperature, note = _temperature(rows, checkpoint, logits_NC, reference_NC)
            notes += filter(None, [note])
        if temperature != 1.0:
            scale_head(checkpoint.model, temperature)
            write_checkpoint(checkpoint, staging)
    return Merged(
        encoder=encoder,
        parity={},
        temperature=temperature,
        notes=tuple(notes),
        logits_NC=(logits_NC / np.float32(temperature)).astype(np.float32),
        reference_NC=reference_NC,
    )


def _temperature(
    rows: UserRows, checkpoint: Checkpoint, logits_NC: np.ndarray, reference_NC: np.ndarray
) -> tuple[float, str]:
    try:
        last_linear(checkpoint.model)
    except ValueError as error:
        return 1.0, f"the temperature stays 1: it is folded into the last layer, and {error}"
    fit_N = fitting_rows(rows.data.validation.texts, rows.config.calibration)
    return choose_temperature(logits_NC[fit_N], reference_NC[fit_N], checkpoint.task)


def _calibration(rows: UserRows, merged: Merged) -> Calibration | None:
    if merged.reference_NC is None:
        return None
    fitted = calibrate(
        merged.logits_NC,
        merged.reference_NC,
        merged.temperature,
        rows.config.calibration,
        task=rows.config.task,
        labels=rows.data.labels,
        texts=rows.data.validation.texts,
        notes=merged.notes,
    )
    if fitted is None:
        return None
    counts = len(rows.data.validation), len(rows.data.test)
    role = (
        f"fitted on {fitted.rows} of {counts[0]} rows that the hash of the text chose; the metrics "
        f"on the {counts[1]} test rows are on rows that chose nothing"
    )
    return fitted.model_copy(update={"notes": (role, *fitted.notes[1:])})


def _int8(
    rows: UserRows, merged: Merged, calibration: Calibration | None, staging: Path
) -> tuple[Int8Export, Calibration | None]:
    judging = len(set(rows.data.validation.texts))
    if judging < MIN_TEXTS or len(rows.data.train) < 2:
        reason = (
            f"{judging} different texts are too few to judge it by, it needs {MIN_TEXTS}; name "
            "more with --texts"
        )
        return Int8Export(shipped=False, reason=reason), calibration
    return add_int8(staging, rows.config, rows.data, merged, calibration, checkpoints=1)


def _fingerprints(rows: UserRows) -> dict[str, object]:
    data = rows.data
    found: dict[str, object] = {"int8_ranges": data.train.fingerprint}
    if not rows.is_labelled:
        return found | {"int8_texts": data.validation.fingerprint}
    return found | {"validation": data.validation.fingerprint, "test": data.test.fingerprint}


def record_user_metrics(rows: UserRows, bundle: Bundle) -> Bundle:
    """Measure every backend that the bundle serves on the labelled rows."""
    if not rows.is_labelled:
        return bundle
    int8 = bundle.manifest.int8
    for backend, suffix in BACKEND_SPLITS.items():
        if backend == "onnx" and not (int8 and int8.shipped):
            continue
        predictor = Predictor.load(bundle.path, device="cpu", backend=backend)
        for name, split in (("validation", rows.data.validation), ("test", rows.data.test)):
            metrics = measure(predictor, split, rows.config.seed)
            bundle = record_metrics(bundle, f"{name}{suffix}", metrics.intervals)
    return bundle
