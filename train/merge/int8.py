"""Whether the int8 export for CPUs is included in the bundle.

It is compared with the full-precision model on the validation split, and included if it loses
at most `MAX_LOSS` of accuracy and at least `MIN_AGREEMENT` of the texts keep their labels.
Otherwise it is skipped, and the manifest states why. `train.merge.export` makes it.

Shape suffixes: N texts, C labels.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from serve.bundle.contents import ONNX_FILE
from serve.bundle.manifest import Calibration, Int8Export, Measured
from serve.inference.backends.onnx import OnnxBackend
from serve.inference.decision import Rules
from serve.inference.passes import batched_logits
from serve.inference.scores import Array, activate, default_activation
from serve.language.lines import first_line
from serve.stats import paired_difference
from train.config.run import RunConfig
from train.data.splits import LabelledData
from train.merge.calibrate import for_backend
from train.merge.weights import Merged
from train.report.progress import Progress
from train.statistics.metrics import Choice

CALIBRATION_TEXTS = 512
"""Training texts on which the export measures the range of each channel."""

MAX_LOSS = 0.003
"""Largest accuracy loss with which the int8 export is included, a fraction."""

MIN_AGREEMENT = 0.99
"""Minimum fraction of validation texts with the same labels as in full precision."""


def add_int8(
    staging: Path,
    config: RunConfig,
    data: LabelledData,
    merged: Merged,
    calibration: Calibration | None,
    *,
    checkpoints: int,
) -> tuple[Int8Export, Calibration | None]:
    """Export to int8; return the comparison, and the calibration with the export's thresholds."""
    int8, int8_NC = export_into(staging, config, data, merged, calibration)
    if calibration and int8.shipped:
        assert merged.reference_NC is not None
        calibration = for_backend(
            *(int8_NC, merged.reference_NC, calibration, config.calibration, "onnx"),
            task=config.task,
            labels=data.labels,
            texts=data.validation.texts,
            checkpoints=checkpoints,
        )
    return int8, calibration


def export_into(
    staging: Path,
    config: RunConfig,
    data: LabelledData,
    merged: Merged,
    calibration: Calibration | None,
) -> tuple[Int8Export, Array]:
    """Write the int8 export into `staging` if it passes; return the comparison and its logits.

    The logits, (N, C), are those of the validation rows; (0, 0) if the export failed.
    """
    from train.merge.export import export_int8

    encoder, file = merged.encoder, staging / ONNX_FILE
    try:
        typical = encoder.encode(data.train.texts[:CALIBRATION_TEXTS])
        batches = [encoder.pad(typical[n : n + 2]) for n in range(0, len(typical) - 1, 2)]
        export_int8(staging, batches, file)
        backend = OnnxBackend.load(staging)
    except Exception as error:  # an architecture may raise anything here
        file.unlink(missing_ok=True)
        failed = Int8Export(shipped=False, reason=f"it could not be exported: {first_line(error)}")
        return failed, np.zeros((0, 0), dtype=np.float32)
    encodings = encoder.encode(data.validation.texts)
    with Progress("int8", len(encodings)) as bar:
        int8_NC = batched_logits(backend, encoder, encodings, batch_size=32, progress=bar.update)
    rules = Rules.fitted(calibration, "torch", task=config.task, labels=data.labels)
    result = compare_int8(
        merged.logits_NC,
        int8_NC,
        merged.reference_NC,
        rules=replace(rules, binary=None),  # of a binary model each backend has its own
    )
    if not result.shipped:
        shutil.rmtree(file.parent)
    return result, int8_NC


def compare_int8(
    full_NC: Array,
    int8_NC: Array,
    reference_NC: Choice | None,
    *,
    rules: Rules,
) -> Int8Export:
    """Compare the export's logits with those of full precision, both of shape (N, C).

    reference_NC: the true labels; None where they are unknown, and agreement alone decides.
    rules: decide for both.
    """
    first_NC, second_NC = (
        rules.decide(activate(logits_NC, default_activation(rules.task))).predicted_NC
        for logits_NC in (full_NC, int8_NC)
    )
    agreement = float((first_NC == second_NC).all(axis=1).mean())
    figures = f"{agreement:.2%} of {len(full_NC)} labels agree"
    problems = []
    if not agreement >= MIN_AGREEMENT:
        problems.append(f"fewer than {MIN_AGREEMENT:.0%} of the labels agree")
    accuracy: dict[str, Any] = {}
    if reference_NC is not None:
        first_N, second_N = ((each == reference_NC).all(axis=1) for each in (first_NC, second_NC))
        value, low, high = paired_difference(first_N, second_N)
        figures = (
            f"accuracy {first_N.mean():.4f} in full precision, {second_N.mean():.4f} in int8, "
            f"difference {value:+.4f} [{low:+.4f}, {high:+.4f}]; {figures}"
        )
        if not value >= -MAX_LOSS:
            problems.append(f"the accuracy loss is over {MAX_LOSS}")
        accuracy = {
            "accuracy_fp32": float(first_N.mean()),
            "accuracy_int8": float(second_N.mean()),
            "difference": Measured(value=value, low=low, high=high),
        }
    if not np.isfinite(int8_NC).all():
        problems.append("logits are not finite")
    return Int8Export(
        shipped=not problems,
        reason="; ".join([*problems, figures]),
        texts=len(full_NC),
        agreement=agreement,
        max_logit_difference=float(np.abs(full_NC - int8_NC).max()),
        **accuracy,
    )
