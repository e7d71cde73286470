"""The comparison as a page and as a table for the console."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serve.bundle.manifest import Measured
from serve.html import Html, folded, page, paragraph, safe, section, shortened, table
from train.compare.compare import MAX_NAME, Comparison, points, verdict
from train.compare.runs import RunResult
from train.gate.page import changes_tables
from train.report.cells import interval, method_name, provenance_table
from train.report.marks import Axis, dots

OPEN_LABELS = 15

SHOWN_METRICS = {
    "single_label": {"accuracy": "accuracy", "f1_macro": "macro-F1", "ece": "calibration error"},
    "multi_label": {
        "accuracy": "all labels right",
        "f1_micro": "micro-F1",
        "f1_macro": "macro-F1",
        "ece": "calibration error",
    },
}
"""Metrics of the table, and their names."""


def to_text(comparison: Comparison) -> str:
    """Format the comparison for the console: the verdict, then one line per run."""
    rows = [["run", "method", "accuracy", "macro-F1", "to the first", "train s", "MB"]]
    differences = {id(each.run): each for each in comparison.differences}
    for run in comparison.runs:
        difference = differences.get(id(run))
        rows.append(
            [
                run.name,
                method_name(run.manifest),
                f"{run.metrics['accuracy']}",
                f"{run.metrics['f1_macro']:.4f}".partition(" ")[0],
                points(difference.accuracy) if difference else "-",
                "-" if run.train_seconds is None else f"{run.train_seconds:.0f}",
                f"{run.megabytes:.0f}",
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(v.ljust(w) for v, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([verdict(comparison), *(line.rstrip() for line in lines)])


def compare_page(comparison: Comparison) -> bytes:
    """Render the page."""
    first = comparison.runs[0]
    sections = [
        ("runs", "Runs", _runs(comparison)),
        ("settings", "Settings that differ", _settings(comparison)),
        ("changes", "Texts with another answer than the first run gives", _changes(comparison)),
        ("labels", "Recall of each label", _labels(comparison)),
        ("provenance", "Provenance", _provenance(comparison)),
    ]
    return page(
        _title(comparison),
        [(anchor, title) for anchor, title, _ in sections],
        [section(anchor, title, *parts) for anchor, title, parts in sections],
        verdict=[verdict(comparison)],
        kind="Comparison of runs",
        about=[f"{first.test['rows']:,} test rows; the others are compared with the first run."],
    )


def name_of(run: RunResult) -> str:
    """The run's name, as short as a table needs it."""
    return shortened(run.name, MAX_NAME)


def _title(comparison: Comparison) -> str:
    names = [name_of(run) for run in comparison.runs]
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return " and ".join(names) if not more else ", ".join(names[:2]) + more


def _runs(comparison: Comparison) -> list[Html]:
    runs = comparison.runs
    ends = [end for run in runs for end in _ends(run.metrics["accuracy"])]
    axis = Axis.around(ends)
    names = SHOWN_METRICS[comparison.runs[0].manifest.task]
    rows = [
        [
            name_of(run),
            method_name(run.manifest),
            dots([run.metrics["accuracy"]], axis),
            *(interval(run.metrics.get(key)) for key in names),
            _int8(run),
            "-" if run.coverage is None else interval(run.coverage),
            "-" if run.train_seconds is None else f"{run.train_seconds:,.0f}",
            f"{run.megabytes:,.0f}",
        ]
        for run in runs
    ]
    parts = [
        table(
            ["run", "method", axis.head(".2f"), *names.values(), "int8", "answered",
             "seconds of training", "MB"],
            rows,
            kinds=["name", "", "chart", *["number"] * (len(names) + 4)],
            caption="Test metrics with 95 % intervals; the chart shows the accuracy",
        )
    ]  # fmt: skip
    if comparison.differences:
        parts.append(_difference_table(comparison))
    return parts


def _difference_table(comparison: Comparison) -> Html:
    axis = Axis.around(
        [0.0, *(e for each in comparison.differences for e in _ends(each.accuracy.interval))]
    )
    rows = [
        [
            name_of(each.run),
            interval(each.accuracy.interval, "+.4f"),
            dots([each.accuracy.interval], axis, lines=[(0.0, "quiet")]),
            each.finding,
            f"{each.accuracy.gained:.2%}",
            f"{each.accuracy.lost:.2%}",
        ]
        for each in comparison.differences
    ]
    first = name_of(comparison.runs[0])
    return table(
        ["run", "difference", axis.head("+.3f"), "finding", "only it is right",
         f"only {first} is right"],
        rows,
        kinds=["name", "number", "chart", "", "number", "number"],
        caption=f"Accuracy minus that of {first}, on the same rows, with 95 % intervals; findings "
        "by exact tests, at an error of 5 % over all of them",
    )  # fmt: skip


def _ends(metric: Measured) -> list[float]:
    return [end for end in (metric.low, metric.value, metric.high) if end is not None]


def _int8(run: RunResult) -> Html:
    if not run.int8:
        return Html("&ndash;")
    difference = Measured.model_validate(run.int8["accuracy_difference"])
    return interval(difference, "+.4f")


def _settings(comparison: Comparison) -> list[Html]:
    if not comparison.settings:
        return [paragraph("The runs have the same settings.")]
    rows: list[Sequence[Any]] = [
        [Html(f"<code>{safe(key)}</code>"), *("" if v is None else str(v) for v in values)]
        for key, values in sorted(comparison.settings.items())
    ]
    return [
        table(
            ["key", *(name_of(run) for run in comparison.runs)],
            rows,
            kinds=["name", *["name"] * len(comparison.runs)],
            caption="Values of the configuration, empty where a run has none",
        )
    ]


def _changes(comparison: Comparison) -> list[Html]:
    parts: list[Html] = []
    first = comparison.runs[0]
    for each in comparison.differences:
        titles = changes_tables(each.changes, names=(name_of(first), name_of(each.run)))
        if not titles:
            parts.append(
                paragraph(f"{name_of(each.run)} gives the same answers as {name_of(first)}.")
            )
        elif len(comparison.differences) == 1:
            parts += titles
        else:
            parts.append(folded(f"{name_of(each.run)}: {len(each.changes):,} texts", *titles))
    return parts or [paragraph("No run has the same test rows.")]


def _labels(comparison: Comparison) -> list[Html]:
    runs = [comparison.runs[0], *(each.run for each in comparison.differences)]
    rows: list[Sequence[Any]] = [
        [
            each.label,
            f"{each.rows:,}",
            *("-" if value is None else f"{value:.3f}" for value in each.recalls),
        ]
        for each in comparison.labels
    ]

    def shown(part: Sequence[Sequence[Any]], caption: str) -> Html:
        kinds = ["name", *["number"] * (1 + len(runs))]
        return table(
            ["label", "rows", *(name_of(run) for run in runs)], part, kinds=kinds, caption=caption
        )

    if len(rows) <= OPEN_LABELS:
        return [shown(rows, "The largest differences first")]
    return [
        shown(rows[:OPEN_LABELS], f"The {OPEN_LABELS} labels with the largest differences"),
        folded(f"All {len(rows)} labels", shown(rows, "Every label")),
    ]


def _provenance(comparison: Comparison) -> list[Html]:
    return [
        provenance_table(
            name_of(run),
            [
                ("directory", str(run.directory)),
                ("version", run.manifest.version),
                ("base model", run.manifest.base_model.get("base")),
                ("SHA-256 of the test rows", run.test["sha256"]),
                ("code revision", run.manifest.code_revision),
                ("sealed", run.manifest.created),
            ],
        )
        for run in comparison.runs
    ]
