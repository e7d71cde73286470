"""The gate's report as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from serve.bundle.manifest import Measured
from serve.html import (
    Html,
    bullets,
    folded,
    key_figures,
    page,
    paragraph,
    section,
    shortened,
    table,
)
from train.gate.changes import Change, LabelChange, Outcome, changes_file
from train.gate.report import BundleInfo, GateReport, verdict_sentence
from train.report.cells import interval, label_cell, percent, provenance_table, text_cell
from train.report.marks import Axis, dots

SHOWN_CHANGES = 20
"""Texts of each outcome that the page shows; the file beside it has all."""

OPEN_LABELS = 20

TITLES: dict[Outcome, str] = {
    "broken": "Right before, wrong now",
    "fixed": "Wrong before, right now",
    "both wrong": "Wrong in another way",
}


def gate_page(
    report: GateReport, changes: Sequence[Change], labels: Sequence[LabelChange], file: Path
) -> bytes:
    """Render the page. file: of the report as JSON."""
    sections = [
        ("differences", "Differences", _differences(report)),
        ("guards", "Guards", _guards(report)),
        ("changes", "Texts with another answer", _changes(report, changes, file)),
        ("labels", "Recall of each label", _labels(labels, report.settings.max_recall_drop)),
        ("power", "What these rows can show", _power(report)),
        ("provenance", "Provenance", _provenance(report)),
    ]
    sides = report.candidates, report.champions
    candidate, champion = (_name(each[0]) if each else "given predictions" for each in sides)
    versions = " against ".join(each[0].version for each in sides if each)
    seeds = len(report.candidates)
    about = f"{versions}; {report.rows:,} test rows; required: "
    about += f"{report.settings.require.replace('_', '-')}, one-sided error "
    about += f"{report.settings.alpha:g}"
    return page(
        f"{candidate} against {champion}",
        [(anchor, title) for anchor, title, _ in sections],
        [_figures(report, changes), *(section(*each[:2], *each[2]) for each in sections)],
        verdict=[Html(f"<b>{'Passed' if report.passed else 'Not passed'}</b>: "),
                 verdict_sentence(report)],
        tone="good" if report.passed else "bad",
        kind="Gate: may the candidate replace the champion?",
        about=[about + (f"; {seeds} seeds" if seeds > 1 else "") + "."],
    )  # fmt: skip


def _name(bundle: BundleInfo) -> str:
    """The name of a bundle's run, or of its directory."""
    path = Path(bundle.path)
    name = path.parent.name if path.name == "bundle" else path.name
    return shortened(name, 40) or bundle.version


def _figures(report: GateReport, changes: Sequence[Change]) -> Html:
    accuracy = report.accuracy
    counts = {outcome: sum(each.outcome == outcome for each in changes) for outcome in TITLES}
    changed = (
        f"{counts['fixed']:,} right now, {counts['broken']:,} wrong now, "
        f"{counts['both wrong']:,} wrong in both"
    )
    low, high = f"{100 * accuracy.low:+.1f}", f"{100 * accuracy.high:+.1f}"
    refused = sum(not check.passed for check in report.checks)
    return key_figures(
        [
            ("candidate's accuracy", percent(accuracy.candidate),
             f"champion {percent(accuracy.champion)}"),
            ("difference, in points", f"{100 * accuracy.difference:+.1f}", f"{low} to {high}"),
            ("texts with another answer", f"{len(changes):,}", changed),
            ("guards", f"{len(report.checks) - refused} passed", f"{refused} refused"),
        ]
    )  # fmt: skip


def _differences(report: GateReport) -> list[Html]:
    section, accuracy = report.settings, report.accuracy
    rows: list[tuple[str, float, float, Measured, float]] = [
        ("accuracy", accuracy.champion, accuracy.candidate, accuracy.interval, -section.margin)
    ]
    for check in report.checks:
        if check.difference and check.champion is not None and check.candidate is not None:
            name = check.name.removesuffix(" increase")
            rows.append((name, check.champion, check.candidate, check.difference, check.limit))
    ends = [
        end
        for *_, each, limit in rows
        for end in (each.value, each.low, each.high, limit)
        if end is not None
    ]
    axis = Axis.around_zero(ends)
    return [
        table(
            ["", "champion", "candidate", "difference", axis.head("+g"), "limit"],
            [
                [
                    name,
                    old,
                    new,
                    interval(difference, "+.4f"),
                    dots([difference], axis, lines=[(0.0, "quiet"), (limit, "accent")]),
                    f"{limit:+.4f}",
                ]
                for name, old, new, difference, limit in rows
            ],
            kinds=["name", "number", "number", "number", "chart", "number"],
            caption="Candidate minus champion, with intervals; grey: no difference, orange: the "
            "limit",
        ),
        paragraph(
            f"The intervals have an error of {section.alpha:g} on each side; they cover "
            f"{accuracy.covers}. Accuracy and macro-F1 must be shown to be above their limit; a "
            "calibration error is refused only if it is shown to have risen by more than its "
            "limit.",
            quiet=True,
        ),
        *([] if report.passed else [bullets([f"{each}." for each in report.reasons])]),
    ]


def _guards(report: GateReport) -> list[Html]:
    ordered = sorted(report.checks, key=lambda check: check.passed)
    rows = [
        [
            check.name,
            Html(f'<b class="{"good" if check.passed else "bad"}">'
                 f"{'passed' if check.passed else 'refused'}</b>"),
            check.detail,
        ]
        for check in ordered
    ]  # fmt: skip
    caption = "Guards can only refuse, the refused ones first"
    return [
        table(["guard", "result", "figures"], rows, kinds=["name", "", "text"], caption=caption)
    ]


def _changes(report: GateReport, changes: Sequence[Change], file: Path) -> list[Html]:
    if not changes:
        return [paragraph("Both bundles give the same answer to every test text.")]
    parts = changes_tables(changes, names=("champion", "candidate"))
    if len(report.candidates) > 1:
        parts.insert(0, paragraph("Of the first candidate and the first champion."))
    parts.append(paragraph(f"All of them are in `{changes_file(file).name}`.", quiet=True))
    return parts


def changes_tables(changes: Sequence[Change], *, names: tuple[str, str]) -> list[Html]:
    """Show texts with another answer, by outcome. names: of the old and the new side."""
    parts = []
    for outcome, title in TITLES.items():
        found = [each for each in changes if each.outcome == outcome]
        if not found:
            continue
        shown = found[:SHOWN_CHANGES]
        listed = table(
            ["text", "true", *names, "confidence", "row"],
            [
                [
                    text_cell(each.text),
                    label_cell(each.label),
                    label_cell(each.champion),
                    label_cell(each.candidate),
                    f"{each.confidence:.3f}",
                    each.row,
                ]
                for each in shown
            ],
            kinds=["text", "name", "name", "name", "number", "number"],
            caption=f"{title}: {len(shown):,} of {len(found):,}, the most confident answers of "
            f"{names[1]} first",
        )
        parts.append(listed if outcome == "broken" else folded(f"{title}: {len(found):,}", listed))
    return parts


def _labels(labels: Sequence[LabelChange], max_drop: float) -> list[Html]:
    if len(labels) <= OPEN_LABELS:
        return [_label_table(labels, max_drop, "Every label, the largest drop first")]
    worst = labels[: OPEN_LABELS // 2]
    return [
        _label_table(worst, max_drop, f"The {len(worst)} labels with the largest drop"),
        folded(f"All {len(labels)} labels", _label_table(labels, max_drop, "Every label")),
    ]


def _label_table(labels: Sequence[LabelChange], max_drop: float, caption: str) -> Html:
    axis = Axis.around_zero(
        [-max_drop, max_drop, *(each.candidate - each.champion for each in labels)]
    )
    rows: list[list[Any]] = [
        [
            each.label,
            f"{each.rows:,}",
            f"{each.champion:.3f}",
            f"{each.candidate:.3f}",
            f"{each.candidate - each.champion:+.3f}",
            dots(
                [Measured(value=each.candidate - each.champion)],
                axis,
                lines=[(0.0, "quiet"), (-max_drop, "accent")],
            ),
        ]
        for each in labels
    ]
    return table(
        ["label", "rows", "champion", "candidate", "difference", axis.head("+g")],
        rows,
        kinds=["name", *["number"] * 4, "chart"],
        caption=f"{caption}; orange: a drop of {max_drop:g}, refused if significantly exceeded",
    )


def _power(report: GateReport) -> list[Html]:
    rows = [
        [
            f"{each.gain:+.2f}",
            percent(each.power),
            "none is enough" if each.rows_needed is None else f"{each.rows_needed:,}",
        ]
        for each in report.power
    ]
    parts = [
        table(
            ["true gain", "found with probability", "rows for 80 %"],
            rows,
            kinds=["number"] * 3,
            caption=f"Power of {report.rows:,} test rows at this disagreement, guards excluded",
        )
    ]
    if report.minimum_detectable is not None:
        gain = f"{report.minimum_detectable:+.4f}"
        parts.append(paragraph(f"The smallest gain that is found with probability 0.8: {gain}."))
    return parts


def _provenance(report: GateReport) -> list[Html]:
    facts: list[tuple[str, object]] = [
        (f"{side} {each.version}", f"{each.path}, {each.backend} {each.precision} on {each.device}")
        for side, bundles in (("candidate", report.candidates), ("champion", report.champions))
        for each in bundles
    ]
    facts += [("SHA-256 of the test rows", report.test.get("sha256")),
              ("compared", report.created)]  # fmt: skip
    settings = [(f"gate.{key}", value) for key, value in report.settings.model_dump().items()]
    return [
        provenance_table("Bundles and test rows", facts),
        provenance_table("Settings of the gate", settings),
    ]
