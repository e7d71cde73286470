"""Sections of an evaluation's report about labels, confusions, errors and slices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serve.html import Html, columns, folded, paragraph, table
from train.data.splits import Split
from train.evaluation.errors import confident_errors, confusion_matrix, most_confused
from train.evaluation.result import Measurement
from train.evaluation.slices import LENGTH_BINS, MIN_ROWS, Slices
from train.report.cells import interval, label_cell, percent, text_cell
from train.report.heat import confusion_table
from train.report.marks import Axis, dots
from train.statistics.intervals import LabelMetrics

MAX_OPEN_LABELS = 20
"""Labels that are shown at once; of more, the ones with the lowest F1, the others on demand."""

OPEN_ERRORS = 10

MAX_SLICES = 60


def label_section(full: Measurement) -> list[Html]:
    """Precision, recall and F1 of every label, the lowest F1 first."""
    ordered = sorted(full.metrics.per_label, key=lambda each: (each.f1.value, -each.support))
    note = paragraph(
        "Lowest F1 first. A metric with a zero denominator is shown as 0, without an interval.",
        quiet=True,
    )
    if len(ordered) <= MAX_OPEN_LABELS:
        return [_label_table(ordered, "Every label"), note]
    worst = ordered[: MAX_OPEN_LABELS // 2]
    return [
        _label_table(worst, f"The {len(worst)} labels with the lowest F1"),
        folded(f"All {len(ordered)} labels", _label_table(ordered, "Every label")),
        note,
    ]


def _label_table(labels: Sequence[LabelMetrics], caption: str) -> Html:
    axis = Axis.unit([each.f1 for each in labels])
    rows = [
        [
            each.label,
            f"{each.support:,}",
            f"{each.predicted:,}",
            *(interval(metric, ".3f") for metric in (each.precision, each.recall, each.f1)),
            dots([each.f1], axis),
        ]
        for each in labels
    ]
    head = ["label", "rows", "predicted", "precision", "recall", "F1", axis.head()]
    kinds = ["name", *["number"] * 5, "chart"]
    return table(head, rows, kinds=kinds, caption=f"{caption}, with 95 % intervals; drawn: F1")


def confusion_section(full: Measurement, labels: Sequence[str]) -> list[Html]:
    """The most frequent confusions, and the matrix."""
    matrix_CC = confusion_matrix(full.reference_NC, full.predicted_NC)
    pairs = most_confused(matrix_CC, full.reference_NC.sum(axis=0), labels)
    if not pairs:
        return [paragraph("No labels were confused.")]
    rows = [[*names, f"{count:,}", percent(share)] for *names, count, share in pairs]
    shown, left = rows[: MAX_OPEN_LABELS // 2], rows[MAX_OPEN_LABELS // 2 :]
    head, kinds = (
        ["true", "predicted", "rows", "of the true label"],
        ["name", "name", *["number"] * 2],
    )
    parts = [table(head, shown, kinds=kinds, caption="The most frequent confusions")]
    if left:
        parts.append(
            folded("More confusions", table(head, left, kinds=kinds, caption="Further ones"))
        )
    matrix = confusion_table(matrix_CC, labels)
    return [columns(Html("".join(parts)), matrix)] if len(labels) <= 12 else [*parts, matrix]


def error_section(full: Measurement, split: Split, labels: Sequence[str]) -> list[Html]:
    """The most confident errors with their texts."""
    found = confident_errors(
        split.texts, full.reference_NC, full.predicted_NC, full.decision.confidence_N, labels
    )
    if not found:
        return [paragraph("There are no errors.")]
    total = int((~full.correct_N).sum())
    rows = [
        [text_cell(text), label_cell(true), label_cell(predicted), f"{sure:.3f}", row_of(split, n)]
        for n, text, true, predicted, sure in found
    ]

    def listed(some: list[list[Any]], caption: str) -> Html:
        head = ["text", "true", "predicted", "confidence", "row"]
        kinds = ["text", "name", "name", "number", "number"]
        return table(head, some, kinds=kinds, caption=caption)

    shown, left = rows[:OPEN_ERRORS], rows[OPEN_ERRORS:]
    caption = f"{len(shown)} of {total:,} errors" if len(shown) < total else f"All {total} errors"
    return [
        paragraph(
            "Texts with a wrong answer, the most confident first: check their labels before "
            "anything else. The row is the one in the source, counted from 1."
        ),
        listed(shown, caption),
        *([folded(f"{len(left)} more errors", listed(left, "Further errors"))] if left else []),
    ]


def row_of(split: Split, index: int) -> int:
    """The number of a row in its source, from 1."""
    return split.rows[index] if len(split.rows) else index + 1


def slice_section(found: Slices, accuracy: float) -> list[Html]:
    """The accuracy of every slice, the flagged ones first."""
    shown = found.slices[:MAX_SLICES]
    flagged = [each for each in shown if each.flag == "worse"]
    explained = paragraph(
        f"{len(found.slices)} slices: by number of words ({LENGTH_BINS} bins), by true label "
        "and by the columns in `evaluation.slice_columns`. A slice is flagged only if its "
        "interval excludes the accuracy on all rows; the intervals hold for all slices "
        f"simultaneously (Bonferroni). {found.num_skipped} slices with fewer than {MIN_ROWS} "
        "rows are skipped.",
        quiet=True,
    )
    if not shown:
        return [explained]
    summary = (
        f"{len(flagged)} of {len(found.slices)} slices are worse than all rows together."
        if flagged
        else "No slice is worse than all rows together, beyond chance."
    )
    tables = [_slice_table(flagged, "Worse than all rows", accuracy)] if flagged else []
    caption = "Every slice"
    if len(found.slices) > len(shown):
        caption = f"{len(shown)} of {len(found.slices)} slices"
    every = folded(f"{caption}, with its accuracy", _slice_table(shown, caption, accuracy))
    return [paragraph(summary), *tables, every, explained]


def _slice_table(slices: Sequence[Any], caption: str, accuracy: float) -> Html:
    axis = Axis.unit([each.accuracy for each in slices])
    rows = [
        [
            each.value,
            each.by,
            f"{each.rows:,}",
            interval(each.accuracy, ".3f"),
            dots([each.accuracy], axis, lines=[(accuracy, "accent")]),
            each.flag,
        ]
        for each in slices
    ]
    return table(
        ["slice", "by", "rows", "accuracy", axis.head(), ""],
        rows,
        kinds=["name", "", "number", "number", "chart", ""],
        classes=[each.flag for each in slices],
        caption=f"{caption}; the dashed line is the accuracy on all rows",
    )
