"""The figures of an evaluation's report, drawn from its result.

Shape suffixes: C labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve.bundle.manifest import Abstention, Manifest
from train.evaluation.result import Measurement
from train.report import plots
from train.statistics.probability_metrics import calibration_bins, predictions_and_outcomes
from train.statistics.selective import risk_curve


def draw(
    full: Measurement,
    manifest: Manifest,
    matrix_CC: NDArray[np.int64],
    log_history: Sequence[dict[str, Any]],
) -> dict[str, bytes | None]:
    """Draw the figures, as PNG by name; None for a learning curve without a log."""
    single = manifest.task == "single_label"
    bins = calibration_bins(
        *predictions_and_outcomes(full.reference_NC, full.probabilities_NC, manifest.task)
    )
    curve = risk_curve(full.decision.confidence_N, ~full.correct_N)
    abstention, point = full.abstention, None
    if abstention and abstention.risk:
        point = (abstention.coverage.value, abstention.risk.value)
    requested = requested_abstention(manifest)
    return {
        "reliability": plots.reliability(bins, "of the top label" if single else "of a label"),
        "risk_coverage": plots.risk_coverage(
            curve, point, requested.max_risk if requested else None
        ),
        "confusion": plots.confusion(matrix_CC, manifest.labels),
        "learning_curve": plots.learning_curve(log_history, "accuracy" if single else "f1_micro"),
    }


def requested_abstention(manifest: Manifest) -> Abstention | None:
    """The abstention rule of full precision; None where none was requested."""
    return manifest.calibration.abstention.get("torch") if manifest.calibration else None
