"""Building blocks of HTML pages: verdict, sections, tables, figures. All input is escaped.

`Html` is markup that is safe to insert into a page. The functions here take plain values, which
they escape, or `Html`, which they insert unchanged. Pages contain no script and load nothing;
they follow light and dark, and on a narrow screen only tables and figures scroll, within
themselves.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from html import escape
from typing import Literal

CONTROL = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
"""Control characters except tab and line breaks, as ranges for a regular expression."""

INVISIBLE = (
    "\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff"
    "\U000e0001-\U000e007f"
)
"""Zero-width spaces, direction marks, tags and the byte order mark, as ranges likewise. The joiners
U+200C and U+200D are not included: Persian, Hindi and emoji are written with them."""

_HIDDEN = re.compile(f"[{CONTROL}{INVISIBLE}\u2028\u2029]")
_CODE = re.compile("`([^`]+)`")

Tone = Literal["good", "bad", "plain"]

STYLE = """
:root { color-scheme: light dark; --page: #fff; --panel: #f4f6f9; --text: #1b2430;
  --quiet: #566170; --line: #cfd6df; --faint: #e6eaf0; --series: #2563a8; --accent: #b4500f;
  --good: #1d7a3e; --bad: #b3261e; --series-rgb: 37 99 168; --accent-rgb: 201 90 20;
  --worse: #fdeee6; --better: #e8f4eb; }
@media screen and (prefers-color-scheme: dark) { :root { --page: #14181e; --panel: #1c222a;
  --text: #e3e8ee; --quiet: #9ba7b5; --line: #414b58; --faint: #29313b; --series: #7fb3ea;
  --accent: #f0a35e; --good: #73cf91; --bad: #ff9c94; --series-rgb: 127 179 234;
  --accent-rgb: 240 150 70; --worse: #46291b; --better: #1c3826; } }
* { box-sizing: border-box; }
body { font: 1rem/1.5 system-ui, sans-serif; color: var(--text); background: var(--page);
  max-width: 72rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; border-top: 1px solid var(--line);
  padding-top: 1.1rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
p, li { max-width: 46rem; margin: .5rem 0; } ul { padding-left: 1.3rem; }
a, summary { color: var(--series); } summary { cursor: pointer; width: fit-content; }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; margin: 1rem 0; }
:focus-visible { outline: 2px solid var(--series); outline-offset: 2px; }
.quiet, caption, figcaption, dt, tr.quiet td, tr.quiet th { color: var(--quiet); }
.kind, .about { color: var(--quiet); margin: 0; max-width: none; } .kind { font-size: .9rem; }
.verdict { font-size: 1.2rem; line-height: 1.4; max-width: none; margin: 1.1rem 0;
  padding: .8rem 1rem; background: var(--panel); border-left: .35rem solid var(--series); }
.verdict.good { border-color: var(--good); } .verdict.bad { border-color: var(--bad); }
.good b, b.good { color: var(--good); } .bad b, b.bad { color: var(--bad); }
dl.key { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr));
  gap: .8rem 1.5rem; margin: 1.2rem 0; }
dt { font-size: .85rem; } dd { margin: 0; font-size: 1.4rem; line-height: 1.3; }
dd span { display: block; font-size: .85rem; }
.columns { display: grid; gap: 0 2.5rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)); }
.columns > * { min-width: 0; }
.table { overflow-x: auto; margin: .8rem 0; background:
  linear-gradient(90deg, var(--page) 40%, transparent) 0 0 / 2.5rem 100% no-repeat local,
  linear-gradient(270deg, var(--page) 40%, transparent) 100% 0 / 2.5rem 100% no-repeat local,
  linear-gradient(90deg, var(--line), transparent) 0 0 / .7rem 100% no-repeat,
  linear-gradient(270deg, var(--line), transparent) 100% 0 / .7rem 100% no-repeat; }
.tall { max-height: 36rem; overflow-y: auto; }
table { border-collapse: collapse; font-size: .9rem; } table.wide { width: 100%; }
caption { text-align: left; padding-bottom: .3rem; font-size: .85rem; }
th { text-align: left; font-weight: 600; vertical-align: bottom; }
thead th { border-bottom: 2px solid var(--line); } tbody th { font-weight: 400; }
th, td { padding: .25rem 1.1rem .25rem 0; overflow-wrap: normal; }
.name, .text { overflow-wrap: anywhere; } tbody th, td { vertical-align: top; }
th:last-child, td:last-child { padding-right: .4rem; }
tbody tr + tr > * { border-top: 1px solid var(--faint); }
.tall thead th { position: sticky; top: 0; background: var(--page); z-index: 1; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.name { min-width: 10.5rem; max-width: 20rem; unicode-bidi: plaintext; }
.text { min-width: 15rem; white-space: pre-wrap; unicode-bidi: plaintext; }
thead .text, thead .name { white-space: normal; } .chart { min-width: 9rem; width: 24%; }
.few .chart { width: 42%; }
@media (max-width: 40rem) { tbody th.name { position: sticky; left: 0; background: var(--page);
  min-width: 8.5rem; max-width: 9rem; } }
tbody tr.worse > * { background: var(--worse); }
tbody tr.better > * { background: var(--better); }
code { font-size: .9em; } pre { overflow-x: auto; background: var(--panel); padding: .6rem .8rem; }
.mark { color: var(--bad); font: .85em monospace; }
figure { margin: .8rem 0; } figcaption { font-size: .85rem; max-width: 34rem; }
svg.plot { display: block; width: 100%; max-width: 34rem; height: auto; }
svg.dots, svg.bar { display: block; width: 100%; height: 1.3em; overflow: visible; }
.scale { display: flex; justify-content: space-between; font-weight: 400; color: var(--quiet); }
table.heat { font-size: .8rem; }
.heat th, .heat td { padding: .15rem .3rem; border: 1px solid var(--faint); text-align: center; }
.heat td { min-width: 1.8rem; font-variant-numeric: tabular-nums; }
.heat th.name { max-width: none; min-width: 0; position: sticky; left: 0; text-align: right;
  background: var(--page); } .heat thead th { vertical-align: bottom; font-weight: 400; }
.heat thead span { writing-mode: vertical-rl; transform: rotate(180deg); max-height: 13rem;
  overflow: hidden; text-overflow: ellipsis; white-space: nowrap; display: inline-block; }
.heat th.name span { display: block; overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; max-width: min(18rem, 26vw); margin-left: auto; }
@media print { body { max-width: none; font-size: 10pt; } nav { display: none; }
  .table, .tall { overflow: visible; max-height: none; } tr, figure { break-inside: avoid; }
  h2, h3 { break-after: avoid; } details::details-content { content-visibility: visible;
  block-size: auto; } }
""" + "".join(
    f".{name}{step} {{ background: rgb(var(--{colour}-rgb) / {step * 5}%); }}\n"
    for name, colour in (("hit", "series"), ("miss", "accent"))
    for step in range(1, 10)
)
"""The stylesheet of all pages. Text on every background has a contrast of 4.5 : 1 at least."""


class Html(str):
    """Markup that is inserted unchanged."""

    __slots__ = ()


def safe(value: object) -> Html:
    """Escape a value and spell out its hidden characters; floats get four decimals."""
    if isinstance(value, Html):
        return value
    if isinstance(value, float):
        return Html(f"{value:.4f}")
    return Html(_HIDDEN.sub(_spelled_out, escape(str(value))))


def _spelled_out(match: re.Match[str]) -> str:
    name = unicodedata.name(match[0], "")
    return f'<span class="mark" title="{name}">U+{ord(match[0]):04X}</span>'


def shortened(text: str, characters: int) -> str:
    """Truncate a text that is longer than so many characters."""
    return text if len(text) <= characters else text[: characters - 1].rstrip() + "…"


def name(label: str, characters: int = 60) -> Html:
    """Show a label within a sentence, whatever its direction of writing."""
    return Html(f"<bdi>{safe(shortened(label, characters))}</bdi>")


def table(
    head: Sequence[object],
    rows: Sequence[Sequence[object]],
    *,
    caption: str,
    kinds: Sequence[str] = (),
    classes: Sequence[str] = (),
    tall: bool = False,
) -> Html:
    """Make a table that scrolls sideways, within itself, where the screen is narrow.

    caption: shown, and the name by which a screen reader finds it. kinds: for each column
    "number", "name" (a label), "text" (long), "chart" or ""; a first column that holds names is
    the rows' header. With a text or a chart the table is as wide as the page. classes: one for
    each row. tall: limit the height and scroll.
    """
    kinds = list(kinds) or [""] * len(head)
    row_classes = list(classes) or [""] * len(rows)

    def cell(tag: str, value: object, kind: str) -> str:
        attribute = f' class="{kind}"' if kind else ""
        return f"<{tag}{attribute}>{safe(value)}</{tag.partition(' ')[0]}>"

    first = 'th scope="row"' if kinds[0] == "name" else "td"
    tags = [first, *["td"] * (len(kinds) - 1)]
    header = "".join(
        cell('th scope="col"', title, kind) for title, kind in zip(head, kinds, strict=True)
    )
    body = [
        (f'<tr class="{row_class}">' if row_class else "<tr>")
        + "".join(cell(*each) for each in zip(tags, row, kinds, strict=True))
        + "</tr>"
        for row, row_class in zip(rows, row_classes, strict=True)
    ]
    few = " few" if len(kinds) <= 5 and "text" not in kinds else ""
    wide = f' class="wide{few}"' if {"text", "chart"} & set(kinds) else ""
    return scrolling(
        f"<table{wide}><caption>{safe(caption)}</caption><thead><tr>{header}</tr></thead>\n<tbody>"
        + "\n".join(body)
        + "</tbody></table>",
        caption,
        tall=tall,
    )


def scrolling(markup: str, label: str, *, tall: bool = False) -> Html:
    """Wrap markup in a region that scrolls within itself and can be reached by keyboard."""
    kind = "table tall" if tall else "table"
    attributes = f'class="{kind}" role="region" tabindex="0" aria-label="{escape(label)}"'
    return Html(f"<div {attributes}>{markup}</div>")


def paragraph(*parts: object, quiet: bool = False) -> Html:
    """Make a paragraph; plain text between backticks becomes code."""
    attribute = ' class="quiet"' if quiet else ""
    return Html(f"<p{attribute}>{_joined(parts)}</p>")


def _joined(parts: Sequence[object]) -> str:
    return "".join(
        part if isinstance(part, Html) else _CODE.sub(r"<code>\1</code>", safe(part))
        for part in parts
    )


def bullets(items: Sequence[object]) -> Html:
    """Make a list; plain text between backticks becomes code."""
    return Html("<ul>" + "".join(f"<li>{_joined([item])}</li>" for item in items) + "</ul>")


def listing(text: str) -> Html:
    """Show a command to copy, or a configuration, line by line."""
    return Html(f'<pre tabindex="0"><code>{safe(text)}</code></pre>')


def key_figures(figures: Sequence[tuple[str, object, object]]) -> Html:
    """Show a few large figures: name, value, and what qualifies it."""
    shown = (
        f'<div><dt>{safe(title)}</dt><dd>{safe(value)}<span class="quiet">{safe(note)}</span></dd>'
        "</div>"
        for title, value, note in figures
    )
    return Html(f'<dl class="key">{"".join(shown)}</dl>')


def columns(*parts: Html) -> Html:
    """Put parts side by side where the screen is wide enough."""
    return Html(f'<div class="columns">{"".join(f"<div>{part}</div>" for part in parts)}</div>')


def folded(summary: str, *parts: Html) -> Html:
    """Hide parts until the reader unfolds them; they are printed."""
    return Html(f"<details><summary>{safe(summary)}</summary>\n{''.join(parts)}</details>")


def link(anchor: str, text: str) -> Html:
    """Link to the section `anchor` of the page."""
    return Html(f'<a href="#{escape(anchor)}">{safe(text)}</a>')


def section(anchor: str, title: str, *parts: Html) -> Html:
    """Make a section that `link(anchor, ...)` points to."""
    return Html(
        f'<section id="{anchor}"><h2>{safe(title)}</h2>\n' + "\n".join(parts) + "</section>"
    )


def page(
    title: str,
    contents: Sequence[tuple[str, str]],
    parts: Sequence[Html],
    *,
    verdict: Sequence[object] = (),
    tone: Tone = "plain",
    kind: str = "",
    about: Sequence[object] = (),
) -> bytes:
    """Make a complete document in UTF-8.

    contents: anchors and titles of the sections to link. verdict: the result in one sentence,
    shown on top. kind: of the page, above the title. about: what the title leaves out, below it.
    """
    links = "".join(f"{link(anchor, text)}\n" for anchor, text in contents)
    top = [
        f'<p class="kind">{safe(kind)}</p>' if kind else "",
        f"<h1>{safe(title)}</h1>",
        f'<p class="about">{_joined(about)}</p>' if about else "",
        f'<p class="verdict {tone}">{_joined(verdict)}</p>' if verdict else "",
        f'<nav aria-label="Contents">{links}</nav>' if contents else "",
    ]
    name_of_page = f"{title} · {kind}" if kind else title
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(name_of_page)}</title><style>{STYLE}</style></head><body>\n"
        f"<header>{''.join(top)}</header>\n<main>\n"
        + "\n".join(parts)
        + "\n</main></body></html>\n"
    ).encode("utf-8", "backslashreplace")


def embedded(document: bytes, *, height: int = 640) -> Html:
    """Show a page within another one, such as a notebook: for `_repr_html_`. height: pixels."""
    source = escape(document.decode())
    return Html(
        f'<iframe srcdoc="{source}" sandbox="" title="Report" '
        f'style="width: 100%; height: {height}px; border: 1px solid #8884"></iframe>'
    )
