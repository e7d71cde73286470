"""The plots of an evaluation's report, drawn from its result.

Shape suffixes: C labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serve.bundle.manifest import Abstention, Manifest
from train.evaluation.result import Measurement
from train.report import plots
from train.statistics.probability_metrics import Bins, calibration_bins, predictions_and_outcomes
from train.statistics.selective import risk_curve
from train.statistics.thresholds import precision_recall_curve


def draw(
    full: Measurement,
    manifest: Manifest,
    positive: str | None,
    log_history: Sequence[dict[str, Any]],
) -> dict[str, plots.Plot]:
    """Draw what the result has something to show for, by name.

    positive: the label of a binary task whose precision and recall are drawn. The risk-coverage
    curve needs an error, and the learning curve a log.
    """
    single = manifest.task == "single_label"
    whose = "of the top label" if single else "of a label"
    drawn: list[plots.Plot | None] = [plots.reliability(bins_of(full, manifest), whose)]
    if positive is not None:
        drawn.append(_precision_recall(full, positive, manifest.labels.index(positive)))
    if not full.correct_N.all():
        drawn.append(_risk_coverage(full, manifest))
    drawn.append(plots.learning_curve(log_history, "accuracy" if single else "f1_micro"))
    return {plot.name: plot for plot in drawn if plot is not None}


def bins_of(full: Measurement, manifest: Manifest) -> Bins:
    """The calibration bins of the test rows."""
    return calibration_bins(
        *predictions_and_outcomes(full.reference_NC, full.probabilities_NC, manifest.task)
    )


def _precision_recall(full: Measurement, label: str, column: int) -> plots.Plot | None:
    positive_N = full.reference_NC[:, column]
    metrics = full.metrics.per_label[column]
    if not positive_N.any():
        return None
    return plots.precision_recall(
        precision_recall_curve(full.probabilities_NC[:, column], positive_N),
        label,
        (metrics.recall.value, metrics.precision.value),
        float(positive_N.mean()),
    )


def _risk_coverage(full: Measurement, manifest: Manifest) -> plots.Plot:
    abstention, point = full.abstention, None
    if abstention and abstention.risk:
        point = (abstention.coverage.value, abstention.risk.value)
    requested = requested_abstention(manifest)
    curve = risk_curve(full.decision.confidence_N, ~full.correct_N)
    return plots.risk_coverage(curve, point, requested.max_risk if requested else None)


def requested_abstention(manifest: Manifest) -> Abstention | None:
    """The abstention rule of full precision; None where none was requested."""
    return manifest.calibration.abstention.get("torch") if manifest.calibration else None
