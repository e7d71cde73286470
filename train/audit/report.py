"""The report of `prepare` as one HTML file; see `serve.html` for how hostile texts are shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serve.html import Html, link, page, paragraph, safe, section, table
from serve.inference.text import Text
from train.audit.audit import Audit
from train.audit.findings import Finding, Shown

MAX_CHARACTERS = 400
"""Characters of a text or a note in the report; longer ones are truncated."""

_CONTENTS = (("findings", "Findings"), ("labels", "Labels"))


def report_html(audit: Audit, summary: Mapping[str, Any]) -> bytes:
    """Render the report. summary: the content of `report.json` except the findings."""
    parts = [
        *_overview(audit, summary),
        section(*_CONTENTS[0], _index(audit.findings)),
        *map(_finding, audit.findings),
        section(*_CONTENTS[1], _labels(audit, list(summary["splits"]))),
    ]
    return page("Data report", _CONTENTS, parts)


def _overview(audit: Audit, summary: Mapping[str, Any]) -> list[Html]:
    rows = [
        [name, f"{each['rows']:,}", Html(f"<code>{safe(each['sha256'])}</code>")]
        for name, each in summary["splits"].items()
    ]
    tokens, suggestions = audit.tokens, summary["suggestions"]
    return [
        table(["split", "rows", "SHA-256 of the content"], rows, kinds=["", "number", ""]),
        paragraph(
            f"{len(audit.label_counts)} labels; in train the most frequent has "
            f"{audit.imbalance:.1f} times as many rows as the rarest. Tokens per text: median "
            f"{tokens['median']:g}, 95th percentile {tokens['p95']:g}, maximum {tokens['max']:g}."
        ),
        *map(paragraph, summary["notes"]),
        paragraph(
            f"`fixes.jsonl` suggests dropping {suggestions['drop']} rows and relabelling "
            f"{suggestions['relabel']}: review it, save the reviewed file outside this directory, "
            "and set `data.fixes` to its path."
        ),
    ]


def _index(findings: list[Finding]) -> Html:
    return table(
        ["finding", "count"],
        [[link(each.kind, each.title), f"{each.count:,}"] for each in findings],
        kinds=["", "number"],
        classes=["" if each.count else "quiet" for each in findings],
    )


def _finding(finding: Finding) -> Html:
    parts = [paragraph(finding.meaning)]
    if finding.parts:
        counts = ", ".join(f"{count:,} in {name}" for name, count in finding.parts.items())
        parts.append(paragraph(f"{counts}."))
    if finding.rows:
        head = ["row", "text", "labels", "note"]
        parts.append(table(head, [*map(_row, finding.rows)], kinds=["", "text", "", "text"]))
        if finding.count > len(finding.rows):
            parts.append(paragraph("Only the first rows are shown (`audit.rows_shown`)."))
    return section(finding.kind, f"{finding.title}: {finding.count:,}", *parts)


def _row(row: Shown) -> list[str]:
    where = row.row if not row.split or row.row.endswith(row.split) else f"{row.row}, {row.split}"
    return [where, _text(row.text), ", ".join(row.labels), _shortened(row.note)]


def _text(text: Text) -> str:
    return "\n— ".join(map(_shortened, (text,) if isinstance(text, str) else text))


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS] + " ..."


def _labels(audit: Audit, splits: list[str]) -> Html:
    rows = [
        [label, *(f"{count:,}" for count in counts.values())]
        for label, counts in audit.label_counts.items()
    ]
    return table(["label", *splits], rows, kinds=["", *["number"] * len(splits)])
