"""`report.html`: what an evaluation found, in one file that needs nothing else.

Decides what is shown and says how it was measured. The figures also lie beside it as PNG,
for a model card. Drawing is in `train.report.plots`, markup in `serve.html`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serve.bundle.manifest import Manifest
from serve.files import write_atomic
from serve.html import Html, image, page, paragraph, section, table
from train.data.splits import Split
from train.evaluation.errors import confident_errors, confusion_matrix, most_confused
from train.evaluation.result import AbstentionResult, Evaluation, Measurement
from train.evaluation.slices import LENGTH_BINS, MIN_ROWS
from train.report import plots
from train.report.cells import interval
from train.statistics.probability_metrics import (
    NUM_BINS,
    calibration_bins,
    predictions_and_outcomes,
)
from train.statistics.selective import risk_curve

NAMES = {
    "accuracy": "accuracy: all labels of a text right",
    "f1_macro": "F1, mean over labels",
    "f1_micro": "F1 over all decisions",
    "f1_weighted": "F1, labels weighed by frequency",
    "mcc": "Matthews' correlation",
    "roc_auc": "ROC-AUC, mean of one against the rest",
    "pr_auc": "PR-AUC, mean of one against the rest",
    "log_loss": "log-loss in nats (smaller is better)",
    "brier": "Brier score (smaller is better)",
    "ece": f"calibration error, {NUM_BINS} bins of equal mass (smaller is better)",
}
"""What the report calls the metrics."""

SECTIONS = (
    ("metrics", "Metrics"),
    ("calibration", "Calibration"),
    ("abstention", "Abstention"),
    ("confusion", "Confused labels"),
    ("labels", "Every label"),
    ("slices", "Slices"),
    ("errors", "Confident errors"),
    ("learning", "Learning curve"),
    ("origin", "Origin"),
)

MAX_SLICES = 60


def write_report(
    result: Evaluation, manifest: Manifest, split: Split, log_history: Sequence[dict[str, Any]]
) -> None:
    """Write `report.html` and its figures into the evaluation's directory.

    split: the rows that were scored. log_history: the Trainer's, empty where it is not known.
    """
    full, labels = result.full, manifest.labels
    matrix_CC = confusion_matrix(full.reference_NC, full.predicted_NC)
    bins = calibration_bins(
        *predictions_and_outcomes(full.reference_NC, full.probabilities_NC, manifest.task)
    )
    curve = risk_curve(full.decision.confidence_N, ~full.right_N)
    abstained = full.abstention
    point = None
    if abstained and abstained.risk:
        point = (abstained.coverage.value, abstained.risk.value)
    metric = "accuracy" if manifest.task == "single_label" else "f1_micro"
    claim = "probability of the " + ("best label" if metric == "accuracy" else "label")
    asked = manifest.calibration.abstention.get("torch") if manifest.calibration else None
    figures = {
        "reliability": plots.reliability(bins, claim),
        "risk_coverage": plots.risk_coverage(curve, point, asked.max_risk if asked else None),
        "confusion": plots.confusion(matrix_CC, labels),
        "learning_curve": plots.learning_curve(log_history, metric),
    }
    for name, png in figures.items():
        file = result.directory / f"{name}.png"
        if png is None:
            file.unlink(missing_ok=True)
        else:
            write_atomic(file, png)
    bodies = {
        "metrics": _metrics(result),
        "calibration": [*_calibration(manifest), _figure(figures["reliability"], "reliability")],
        "abstention": [
            *_abstention(manifest, full.abstention),
            _figure(figures["risk_coverage"], "risk and coverage"),
        ],
        "confusion": _confusion(full, matrix_CC, labels, figures["confusion"]),
        "labels": _labels(full),
        "slices": _slices(result),
        "errors": _errors(full, split, labels),
        "learning": [_figure(figures["learning_curve"], "learning curve")],
        "origin": _origin(manifest, split),
    }
    parts = [
        paragraph(
            f"Version {manifest.version} of a {manifest.task.replace('_', '-')} classifier with "
            f"{len(labels)} labels, on {len(split)} test rows."
        ),
        *(section(name, title, *bodies[name]) for name, title in SECTIONS),
    ]
    title = f"Evaluation of {manifest.base_model.get('base', 'a model')}, fine-tuned"
    write_atomic(result.directory / "report.html", page(title, SECTIONS, parts))


def _figure(png: bytes | None, what: str) -> Html:
    if png is None:
        return paragraph("The history of the training is not at hand.", quiet=True)
    return image(png, f"Figure: {what}")


def _metrics(result: Evaluation) -> list[Html]:
    full, int8 = result.full.intervals, result.int8.intervals if result.int8 else None
    head = ["metric", "full precision", *(["int8, for CPUs"] if int8 else [])]
    rows = [
        [NAMES[name], interval(value), *([interval(int8.get(name))] if int8 else [])]
        for name, value in full.items()
    ]
    parts = [table(head, rows, kinds=["", *["number"] * (len(head) - 1)])]
    if result.difference and result.agreement is not None:
        parts.append(
            paragraph(
                "Accuracy of int8 minus that of full precision, paired: ",
                interval(result.difference),
                f"; {result.agreement:.2%} of the texts get the same labels.",
            )
        )
    parts.append(
        paragraph(
            "In brackets 95 % intervals: Wilson's for accuracy, else percentile bootstrap over "
            "the test rows (1,000 resamples); that of the calibration error is corrected for "
            "its upward bias. They say how far another test set of this size, drawn alike, "
            "would move a figure, and not what another training run would give.",
            quiet=True,
        )
    )
    return parts


def _calibration(manifest: Manifest) -> list[Html]:
    fitted = manifest.calibration
    if fitted is None:
        return [paragraph("Nothing was calibrated; the configuration asked for nothing.")]
    parts = [
        table(
            ["on the validation split", "as trained", "calibrated"],
            [
                ["log-loss", fitted.log_loss_before, fitted.log_loss_after],
                ["calibration error", fitted.ece_before, fitted.ece_after],
            ],
            kinds=["", "number", "number"],
        ),
        paragraph(
            f"Temperature {fitted.temperature:.4f}, folded into the last layer. "
            + " ".join(f"{note[0].upper()}{note[1:]}." for note in fitted.notes)
        ),
    ]
    if fitted.thresholds:
        rows = list(zip(manifest.labels, fitted.thresholds, strict=True))
        parts.append(table(["label", "threshold"], rows, kinds=["", "number"], tall=True))
    parts.append(
        paragraph(
            "Below, on the test split: points on the dashed line are probabilities that come "
            "true as often as they say; the bars are 95 % intervals of a bin.",
            quiet=True,
        )
    )
    return parts


def _abstention(manifest: Manifest, result: AbstentionResult | None) -> list[Html]:
    found = manifest.calibration.abstention.get("torch") if manifest.calibration else None
    if found is None:
        return [
            paragraph(
                "The model answers everything: no acceptable risk (calibration.max_risk) was set."
            )
        ]
    parts = [paragraph(f"Asked for: {found.reason}.")]
    if result is not None:
        parts.append(
            table(
                ["on the test split", "share"],
                [
                    ["texts answered", interval(result.coverage)],
                    ["wrong among the answers", interval(result.risk)],
                ],
                kinds=["", "number"],
            )
        )
    parts.append(
        paragraph(
            "The promise is about the draw of the validation rows. They also chose the "
            "checkpoint and the temperature, which no theorem covers.",
            quiet=True,
        )
    )
    return parts


def _confusion(full: Measurement, matrix_CC: Any, labels: Sequence[str], png: Any) -> list[Html]:
    pairs = most_confused(matrix_CC, full.reference_NC.sum(axis=0), labels)
    rows = [[each.true, each.predicted, each.rows, f"{each.share:.1%}"] for each in pairs]
    head = ["true", "predicted", "rows", "of the true label's"]
    kinds = ["", "", "number", "number"]
    found = table(head, rows, kinds=kinds) if rows else paragraph("No two labels are confused.")
    return [found, _figure(png, "confusion of labels")]


def _labels(full: Measurement) -> list[Html]:
    numbers = {each.label: n for n, each in enumerate(full.metrics.per_label)}
    rows = [
        [
            numbers[each.label],
            each.label,
            each.support,
            each.predicted,
            *(interval(metric) for metric in (each.precision, each.recall, each.f1)),
        ]
        for each in sorted(full.metrics.per_label, key=lambda each: each.f1.value)
    ]
    head = ["number", "label", "rows", "predicted", "precision", "recall", "F1"]
    note = paragraph("By F1, the worst first. A share of no rows is 0, without interval.")
    return [note, table(head, rows, kinds=["number", "", *["number"] * 5], tall=True)]


def _slices(result: Evaluation) -> list[Html]:
    found = result.slices
    shown = found.slices[:MAX_SLICES]
    rows = [[each.by, each.value, each.rows, interval(each.accuracy), each.flag] for each in shown]
    head = ["by", "value", "rows", "accuracy", ""]
    left = len(found.slices) - len(shown)
    return [
        paragraph(
            f"{len(found.slices)} slices: by number of words ({LENGTH_BINS} bins), by true label "
            "and by the columns in evaluation.slice_columns. One is flagged only if its interval "
            "excludes the accuracy on all rows; the intervals hold for all slices together "
            f"(Bonferroni). {found.not_judged} slices with fewer than {MIN_ROWS} rows are not "
            f"judged{f', {left} more are not shown' if left else ''}."
        ),
        table(
            head,
            rows,
            kinds=["", "", "number", "number", ""],
            classes=[each.flag for each in shown],
            tall=True,
        ),
    ]


def _errors(full: Measurement, split: Split, labels: Sequence[str]) -> list[Html]:
    found = confident_errors(
        split.texts, full.reference_NC, full.predicted_NC, full.decision.confidence_N, labels
    )
    rows = [
        [
            each.row,
            each.text if isinstance(each.text, str) else "\n— ".join(each.text),
            ", ".join(each.true) or "(none)",
            ", ".join(each.predicted) or "(none)",
            each.confidence,
        ]
        for each in found
    ]
    head = ["row", "text", "true", "predicted", "confidence"]
    if not rows:
        return [paragraph("There is none.")]
    return [
        paragraph("Rows that were wrong with the highest confidence: look at their labels first."),
        table(head, rows, kinds=["number", "text", "", "", "number"], tall=True),
    ]


def _origin(manifest: Manifest, split: Split) -> list[Html]:
    rows: list[list[object]] = [
        ["version", manifest.version],
        ["base model", manifest.base_model.get("base")],
        ["base revision or SHA-256", manifest.base_model.get("revision")
         or manifest.base_model.get("weights_sha256")],
        ["sealed", manifest.created],
        ["code", manifest.code_revision],
        ["test rows", len(split)],
        ["SHA-256 of the test rows", split.fingerprint["sha256"]],
        *(["SHA-256 of " + name, each["sha256"]] for name, each in manifest.data.items()
          if name != "test"),
    ]  # fmt: skip
    return [table(["", ""], rows, kinds=["", "text"])]
