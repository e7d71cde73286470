"""The report of `prepare` as one HTML file: no script, nothing loaded from elsewhere.

Texts of the data set may hold anything. They are escaped, characters that nobody sees are
spelled out, and each text keeps its direction of writing to itself.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from serve.inference.text import Text
from train.audit.audit import Audit
from train.audit.findings import Finding, Shown

MAX_CHARACTERS = 400
"""Of a text or a note in the report; longer ones are cut."""

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75em; margin: 2em auto; padding: 0 1em;
  color: #222; background: #fff }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin: 2em 0 .2em }
table { border-collapse: collapse; width: 100%; margin: .5em 0 }
th, td { text-align: left; vertical-align: top; padding: .3em .8em .3em 0;
  border-bottom: 1px solid #ddd }
td.n { text-align: right; font-variant-numeric: tabular-nums; width: 6em }
td, code { overflow-wrap: anywhere } td.text { width: 45%; min-width: 18em }
td.where { white-space: nowrap }
p { margin: .3em 0; color: #555 } .none { color: #888 } .some { font-weight: 600 }
.mark { color: #a00; font-family: monospace; font-size: .85em }
"""
_HIDDEN = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    r"\ufeff\U000e0001-\U000e007f]"
)


def report_html(audit: Audit, summary: Mapping[str, Any]) -> str:
    """The whole page. summary: what `report.json` holds beside the findings."""
    splits = summary["splits"]
    parts = [
        "<h1>Data report</h1>",
        _table(
            ("split", "rows", "SHA-256 of the content"),
            (
                f"<td>{name}</td><td class=n>{each['rows']:,}</td>"
                f"<td><code>{each['sha256']}</code></td>"
                for name, each in splits.items()
            ),
        ),
        f"<p>{len(audit.label_counts)} labels; the most frequent has {audit.imbalance:.1f} times "
        f"the rows of the rarest in train. Tokens per text: median {audit.tokens['median']:g}, "
        f"95th percentile {audit.tokens['p95']:g}, maximum {audit.tokens['max']:g}.</p>",
        *(f"<p>{_prose(note)}</p>" for note in summary["notes"]),
        f"<p>{summary['suggestions']['drop']} rows to drop and "
        f"{summary['suggestions']['relabel']} to relabel are suggested in <code>fixes.jsonl</code>"
        ": review it, keep it elsewhere, and name it in <code>data.fixes</code>.</p>",
        "<h2>Findings</h2>",
        _table(
            ("finding", "count"),
            (
                f'<td><a href="#{each.kind}">{_safe(each.title)}</a></td>'
                f'<td class="n {"some" if each.count else "none"}">{each.count:,}</td>'
                for each in audit.findings
            ),
        ),
        *map(_finding, audit.findings),
        "<h2>Labels</h2>",
        _table(
            ("label", *splits),
            (
                f"<td>{_safe(label)}</td>"
                + "".join(f"<td class=n>{count:,}</td>" for count in counts.values())
                for label, counts in audit.label_counts.items()
            ),
        ),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'\"><title>Data report</title>"
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _finding(finding: Finding) -> str:
    head = (
        f'<h2 id="{finding.kind}">{_safe(finding.title)}: {finding.count:,}</h2>'
        f"<p>{_prose(finding.meaning)}</p>"
    )
    if finding.parts:
        parts = ", ".join(f"{count:,} in {name}" for name, count in finding.parts.items())
        head += f"<p>{_safe(parts)}.</p>"
    if not finding.rows:
        return head
    table = _table(("where", "text", "labels", "note"), map(_row, finding.rows))
    more = "<p>The others are not shown (audit.rows_shown).</p>"
    return head + table + (more if finding.count > len(finding.rows) else "")


def _row(row: Shown) -> str:
    where = row.row if not row.split or row.row.endswith(row.split) else f"{row.row}, {row.split}"
    return (
        f"<td class=where>{_safe(where)}</td><td class=text>{_safe_text(row.text)}</td>"
        f"<td>{_safe(', '.join(row.labels))}</td><td>{_safe(row.note)}</td>"
    )


def _table(heads: Iterable[str], rows: Iterable[str]) -> str:
    head = "".join(f"<th>{_safe(name)}</th>" for name in heads)
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>"


def _safe_text(text: Text) -> str:
    if isinstance(text, str):
        return f"<bdi>{_safe(text)}</bdi>"
    return " <b>/</b> ".join(f"<bdi>{_safe(part)}</bdi>" for part in text)


def _safe(text: str) -> str:
    """Escaped, cut, and with hidden characters spelled out."""
    shown = text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS] + " ..."
    return _HIDDEN.sub(_spelled, html.escape(shown))


def _prose(text: str) -> str:
    """Safe, with what stands in backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", _safe(text))


def _spelled(match: re.Match[str]) -> str:
    if match[0] in "\t\n\r":
        return " "
    name = unicodedata.name(match[0], "")
    return f'<span class=mark title="{html.escape(name)}">U+{ord(match[0]):04X}</span>'
