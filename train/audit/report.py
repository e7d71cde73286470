"""The report of `prepare` as one HTML page; see `serve.html` for how hostile texts are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from serve.html import (
    Html,
    Tone,
    bullets,
    folded,
    key_figures,
    link,
    listing,
    page,
    paragraph,
    section,
    shortened,
    table,
)
from train.audit.advice import Advice
from train.audit.audit import Audit
from train.audit.findings import Finding, Shown
from train.report.cells import label_cell, provenance_table, text_cell
from train.report.marks import bar

SERIOUS = ("unusable", "leakage", "conflicts", "label_errors")
"""Kinds of findings that change what is learned or measured, the worst first."""

MAX_OPEN_LABELS = 20
"""Labels that are shown at once; the others on demand."""

_MAX_NOTE = 400


def report_html(audit: Audit, summary: Mapping[str, Any]) -> bytes:
    """Render the report. summary: the content of `report.json` except the findings."""
    found = sorted(
        (each for each in audit.findings if each.count),
        key=lambda each: SERIOUS.index(each.kind) if each.kind in SERIOUS else len(SERIOUS),
    )
    sections = [
        ("advice", "What would probably help", _advice(audit.advice)),
        ("findings", "Findings", _index(audit, found)),
        *((each.kind, f"{each.title}: {each.count:,}", _finding(each)) for each in found),
        ("labels", "Labels", _labels(audit, list(summary["splits"]))),
        ("provenance", "Provenance", _provenance(summary)),
    ]
    sections = [each for each in sections if each[2]]
    linked = ("advice", "findings", "labels", "provenance")
    contents = [each[:2] for each in sections if each[0] in linked]
    sentence, tone = verdict(audit, summary["splits"])
    parts = [
        _figures(audit, summary["splits"]),
        *map(paragraph, summary["notes"]),
        *(section(anchor, title, *body) for anchor, title, body in sections),
    ]
    return page("Data report", contents, parts, verdict=sentence, tone=tone, kind="prepare")


def verdict(audit: Audit, splits: Mapping[str, Any]) -> tuple[list[object], Tone]:
    """State the serious findings in one sentence, or that there is none."""
    rows = f"{sum(each['rows'] for each in splits.values()):,} usable rows"
    counts = {kind: audit.counts.get(kind, 0) for kind in SERIOUS}
    minor = sum(each.count > 0 for each in audit.findings if each.kind not in SERIOUS)
    rest = f"{minor} lesser kind{'s' if minor > 1 else ''} of findings" if minor else ""
    named = {
        "unusable": "unusable, which `fit` refuses",
        "leakage": "in two splits, which inflates the metrics",
        "conflicts": "groups of duplicates with conflicting labels",
        "label_errors": "with labels that are probably wrong",
    }
    problems = [f"{count:,} {named[kind]}" for kind, count in counts.items() if count]
    if not problems:
        judged = audit.reliability is not None and not audit.reliability.reason
        labels = ", and no label that is probably wrong" if judged else ""
        more = f"; {rest}" if rest else ""
        none = "no unusable row, no text in two splits, no conflicting duplicates"
        return [f"{rows}: {none}{labels}{more}."], "good"
    first = f"{rows}, and " + "; ".join(problems)
    grave = any(counts[kind] for kind in SERIOUS[:3])
    return [f"{first}{f'; beside {rest}' if rest else ''}."], "bad" if grave else "plain"


def _figures(audit: Audit, splits: Mapping[str, Any]) -> Html:
    tokens = audit.tokens
    rarest = list(audit.label_counts)[-1]
    truncated = audit.counts.get("cut", 0)
    return key_figures(
        [
            *((f"{name} rows", f"{each['rows']:,}", "") for name, each in splits.items()),
            ("labels", f"{len(audit.label_counts):,}", f"rarest: {shortened(rarest, 30)}"),
            ("imbalance", f"{audit.imbalance:.1f} times", "most frequent to rarest, in train"),
            (
                "tokens per text",
                f"{tokens['median']:g}",
                f"median; 95 % up to {tokens['p95']:g}, longest {tokens['max']:g}, "
                f"{truncated:,} truncated",
            ),
        ]
    )


def _advice(advice: Sequence[Advice]) -> list[Html]:
    if not advice:
        return []
    said = [f"{each.text[0].upper()}{each.text[1:].rstrip('.')}." for each in advice]
    overrides = " ".join(override for each in advice for override in each.settings)
    return [bullets(said), *([listing(overrides)] if overrides else [])]


def _index(audit: Audit, found: Sequence[Finding]) -> list[Html]:
    unjudged = bool(audit.reliability and audit.reliability.reason)
    nothing = [
        each.title[0].lower() + each.title[1:]
        for each in audit.findings
        if not each.count and not (each.kind == "label_errors" and unjudged)
    ]
    parts = []
    if found:
        largest = max(each.count for each in found)
        parts.append(
            table(
                ["finding", "count", ""],
                [
                    [link(each.kind, each.title), f"{each.count:,}", bar(each.count, largest)]
                    for each in found
                ],
                kinds=["name", "number", "chart"],
                caption="What was found, the most serious first",
            )
        )
    if nothing:
        parts.append(paragraph(f"Looked for and not found: {'; '.join(nothing)}."))
    if audit.reliability and audit.reliability.reason:
        said = f"Labels that are probably wrong are not reported: {audit.reliability.reason}."
        parts.append(paragraph(said))
    return parts


def _finding(finding: Finding) -> list[Html]:
    parts = [paragraph(finding.meaning)]
    if finding.parts:
        counts = ", ".join(f"{count:,} in {name}" for name, count in finding.parts.items())
        parts.append(paragraph(f"{counts}."))
    if finding.rows:
        parts.append(_rows(finding.rows, finding.count))
    return parts


def _rows(rows: Sequence[Shown], count: int) -> Html:
    """Show the rows; where each repeats another one, both texts side by side."""
    paired = any(row.other is not None for row in rows)
    noted = any(row.note for row in rows)
    labelled = any(row.labels for row in rows)
    head = ["text", *["is like"] * paired, *["labels"] * labelled, *["note"] * noted, "row"]
    body = [
        [
            text_cell(row.text),
            *([_other(row)] if paired else []),
            *([label_cell(row.labels)] if labelled else []),
            *([shortened(row.note, _MAX_NOTE)] if noted else []),
            _where(row),
        ]
        for row in rows
    ]
    kinds = ["text", *["text"] * paired, *["name"] * labelled, *["name"] * noted, ""]
    caption = f"{len(rows):,} of {count:,}"
    if len(rows) < count:
        caption += " (`audit.rows_shown`)".replace("`", "")
    return table(head, body, kinds=kinds, caption=caption, tall=len(rows) > MAX_OPEN_LABELS)


def _other(row: Shown) -> Html:
    if row.other is None:
        return Html("")
    return Html(f'{text_cell(row.other)}\n<span class="quiet">{row.other_row}</span>')


def _where(row: Shown) -> str:
    return row.row if not row.split or row.row.endswith(row.split) else f"{row.row}, {row.split}"


def _labels(audit: Audit, splits: Sequence[str]) -> list[Html]:
    counts = list(audit.label_counts.items())
    shown = _label_table(counts[:MAX_OPEN_LABELS], splits, "Rows by label and split")
    if len(counts) <= MAX_OPEN_LABELS:
        return [shown]
    every = _label_table(counts, splits, "Rows by label and split: all labels")
    return [shown, folded(f"All {len(counts)} labels", every)]


def _label_table(
    counts: Sequence[tuple[str, Mapping[Any, int]]], splits: Sequence[str], caption: str
) -> Html:
    largest = max(each["train"] for _, each in counts)
    rows = [
        [label, *(f"{count:,}" for count in each.values()), bar(each["train"], largest)]
        for label, each in counts
    ]
    kinds = ["name", *["number"] * len(splits), "chart"]
    return table(["label", *splits, "drawn: train"], rows, kinds=kinds, caption=caption)


def _provenance(summary: Mapping[str, Any]) -> list[Html]:
    suggestions, fixes = summary["suggestions"], summary["fixes_applied"]
    facts = [
        (f"SHA-256 of {name} ({each['rows']:,} rows)", each["sha256"])
        for name, each in summary["splits"].items()
    ]
    facts += [(f"fixes applied: {name}", value) for name, value in (fixes or {}).items()]
    return [
        bullets(
            [
                f"`fixes.jsonl` suggests dropping {suggestions['drop']:,} rows and relabelling "
                f"{suggestions['relabel']:,}: review it, save the reviewed file outside this "
                "directory, and set `data.fixes` to its path.",
                "Nothing in the data was changed.",
            ]
        ),
        provenance_table(
            "Hashes", [*facts, ("SHA-256 of fixes.jsonl", summary["suggestions_sha256"])]
        ),
    ]
