"""`report.html`: the result of an evaluation in one self-contained file.

Decides what is shown and how it is explained. The figures are also written next to it as PNG,
for a model card. Drawing is in `train.report.plots`, markup in `serve.html`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serve.bundle.manifest import Manifest
from serve.files import write_atomic
from serve.html import Html, image, page, paragraph, section, table
from train.data.splits import Split
from train.evaluation.binary import decision_parts
from train.evaluation.errors import confident_errors, confusion_matrix, most_confused
from train.evaluation.figures import draw, requested_abstention
from train.evaluation.result import AbstentionResult, Evaluation, Measurement
from train.evaluation.slices import LENGTH_BINS, MIN_ROWS
from train.report.cells import interval
from train.statistics.probability_metrics import MAX_BINS

NAMES = {
    "accuracy": "accuracy (exact match)",
    "f1_macro": "macro-F1",
    "f1_micro": "micro-F1",
    "f1_weighted": "weighted F1",
    "mcc": "Matthews correlation coefficient",
    "roc_auc": "ROC-AUC, macro one-vs-rest",
    "pr_auc": "average precision, macro one-vs-rest",
    "log_loss": "log-loss in nats (lower is better)",
    "brier": "Brier score (lower is better)",
    "ece": f"expected calibration error (ECE), up to {MAX_BINS} equal-mass bins (lower is better)",
}
"""Display names of the metrics."""

SECTIONS = (
    ("metrics", "Metrics"),
    ("calibration", "Calibration"),
    ("abstention", "Abstention"),
    ("confusion", "Confusion"),
    ("labels", "Per-label metrics"),
    ("slices", "Slices"),
    ("errors", "Most confident errors"),
    ("learning", "Learning curve"),
    ("provenance", "Provenance"),
)

MAX_SLICES = 60


def write_report(
    result: Evaluation, manifest: Manifest, split: Split, log_history: Sequence[dict[str, Any]]
) -> None:
    """Write `report.html` and its figures into the evaluation's directory.

    split: the rows that were scored. log_history: the Trainer's, empty if not available.
    """
    full, labels = result.full, manifest.labels
    matrix_CC = confusion_matrix(full.reference_NC, full.predicted_NC)
    figures = draw(full, manifest, matrix_CC, log_history)
    for name, png in figures.items():
        file = result.directory / f"{name}.png"
        if png is None:
            file.unlink(missing_ok=True)
        else:
            write_atomic(file, png)
    bodies = {
        "metrics": _metrics(result),
        "calibration": [
            *_calibration(manifest),
            *decision_parts(full.binary),
            _figure(figures["reliability"], "reliability diagram"),
        ],
        "abstention": [
            *_abstention(manifest, full.abstention),
            _figure(figures["risk_coverage"], "risk-coverage curve"),
        ],
        "confusion": _confusion(full, matrix_CC, labels, figures["confusion"]),
        "labels": _labels(full),
        "slices": _slices(result),
        "errors": _errors(full, split, labels),
        "learning": [_figure(figures["learning_curve"], "learning curve")],
        "provenance": _provenance(manifest, split),
    }
    parts = [
        paragraph(
            f"Version {manifest.version}, a {manifest.task.replace('_', '-')} classifier with "
            f"{len(labels)} labels, evaluated on {len(split):,} test rows."
        ),
        *(section(name, title, *bodies[name]) for name, title in SECTIONS),
    ]
    origin = "imported" if manifest.is_imported else "fine-tuned"
    title = f"Evaluation of {manifest.base_model.get('base', 'a model')}, {origin}"
    write_atomic(result.directory / "report.html", page(title, SECTIONS, parts))


def _figure(png: bytes | None, description: str) -> Html:
    if png is None:
        return paragraph("Training history is not available.", quiet=True)
    return image(png, f"Figure: {description}")


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
                "Accuracy of int8 minus full precision, paired: ",
                interval(result.difference),
                f"; both predict the same labels for {result.agreement:.2%} of the texts.",
            )
        )
    parts.append(
        paragraph(
            "95 % intervals in brackets: Wilson's for accuracy, and for precision, recall and F1 "
            "of a label; the others are approximate (in simulations they hold the true value on "
            "at least 93 % of test sets). They cover the sampling of a test set of this size, not "
            "the variation between training runs. The calibration error of a finite test set is "
            "never 0: it shows miscalibration only where it exceeds what a calibrated model shows.",
            quiet=True,
        )
    )
    return parts


def _calibration(manifest: Manifest) -> list[Html]:
    fitted = manifest.calibration
    if fitted is None:
        return [paragraph("Not calibrated: the configuration requested no calibration.")]
    folded = ", folded into the last layer" if fitted.temperature != 1.0 else ""
    parts = [
        table(
            [f"on {fitted.rows} validation rows", "before", "after calibration"],
            [
                ["log-loss", fitted.log_loss_before, fitted.log_loss_after],
                ["expected calibration error", fitted.ece_before, fitted.ece_after],
            ],
            kinds=["", "number", "number"],
        ),
        paragraph(
            f"Temperature {fitted.temperature:.4f}{folded}. "
            + " ".join(f"{note[0].upper()}{note[1:]}." for note in fitted.notes)
        ),
    ]
    if fitted.thresholds:
        rows = list(zip(manifest.labels, fitted.thresholds, strict=True))
        parts.append(table(["label", "threshold"], rows, kinds=["", "number"], tall=True))
    parts.append(
        paragraph(
            "Reliability diagram on the test split: points on the diagonal are perfectly "
            "calibrated; error bars are 95 % intervals per bin.",
            quiet=True,
        )
    )
    return parts


def _abstention(manifest: Manifest, result: AbstentionResult | None) -> list[Html]:
    requested = requested_abstention(manifest)
    if requested is None:
        return [paragraph("The model never abstains: calibration.max_risk was not set.")]
    parts = [paragraph(f"{requested.reason[0].upper()}{requested.reason[1:]}.")]
    if result is not None:
        parts.append(
            table(
                ["on the test split", ""],
                [
                    ["coverage (fraction of texts answered)", interval(result.coverage)],
                    ["selective risk (error rate on answered texts)", interval(result.risk)],
                ],
                kinds=["", "number"],
            )
        )
    parts.append(
        paragraph(
            "The guarantee is over the draw of the validation rows that tested the threshold. "
            "They chose nothing else but the checkpoint, which it allows for; it does not allow "
            "for settings that were tuned on these rows.",
            quiet=True,
        )
    )
    return parts


def _confusion(full: Measurement, matrix_CC: Any, labels: Sequence[str], png: Any) -> list[Html]:
    pairs = most_confused(matrix_CC, full.reference_NC.sum(axis=0), labels)
    rows = [[*pair, f"{fraction:.1%}"] for *pair, fraction in pairs]
    head = ["true", "predicted", "rows", "% of true label"]
    kinds = ["", "", "number", "number"]
    found = table(head, rows, kinds=kinds) if rows else paragraph("No labels were confused.")
    return [found, _figure(png, "confusion matrix")]


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
    note = paragraph(
        "Sorted by F1, lowest first. A metric with a zero denominator is shown as 0, without an "
        "interval."
    )
    return [note, table(head, rows, kinds=["number", "", *["number"] * 5], tall=True)]


def _slices(result: Evaluation) -> list[Html]:
    found = result.slices
    shown = found.slices[:MAX_SLICES]
    rows = [[each.by, each.value, each.rows, interval(each.accuracy), each.flag] for each in shown]
    head = ["by", "value", "rows", "accuracy", "flag"]
    left = len(found.slices) - len(shown)
    return [
        paragraph(
            f"{len(found.slices)} slices: by number of words ({LENGTH_BINS} bins), by true label "
            "and by the columns in evaluation.slice_columns. A slice is flagged only if its "
            "interval excludes the accuracy on all rows; the intervals hold for all slices "
            f"simultaneously (Bonferroni). {found.num_skipped} slices with fewer than {MIN_ROWS} "
            f"rows are skipped{f'; {left} more are not shown' if left else ''}."
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
            row,
            text if isinstance(text, str) else "\n— ".join(text),
            ", ".join(true) or "(none)",
            ", ".join(predicted) or "(none)",
            confidence,
        ]
        for row, text, true, predicted, confidence in found
    ]
    head = ["row", "text", "true", "predicted", "confidence"]
    if not rows:
        return [paragraph("There are no errors.")]
    return [
        paragraph("Misclassified rows by descending confidence. Check their labels first."),
        table(head, rows, kinds=["number", "text", "", "", "number"], tall=True),
    ]


def _provenance(manifest: Manifest, split: Split) -> list[Html]:
    rows: list[list[object]] = [
        ["version", manifest.version],
        ["base model", manifest.base_model.get("base")],
        ["base revision, or SHA-256 of its weights", manifest.base_model.get("revision")
         or manifest.base_model.get("weights_sha256")],
        ["sealed", manifest.created],
        ["code revision", manifest.code_revision],
        ["test rows", len(split)],
        ["SHA-256 of the test rows", split.fingerprint["sha256"]],
        *(["SHA-256 of " + name, each["sha256"]] for name, each in manifest.data.items()
          if name != "test"),
    ]  # fmt: skip
    return [table(["", ""], rows, kinds=["", "text"])]
