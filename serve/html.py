"""Building blocks of HTML reports: sections, tables, figures. All input is escaped.

`Html` is markup that is safe to insert into a page. The functions here take plain values, which
they escape, or `Html`, which they insert unchanged. Pages contain no script and load nothing.
"""

from __future__ import annotations

import base64
import re
import unicodedata
from collections.abc import Sequence
from html import escape

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

_STYLE = """
:root { color-scheme: light dark; --text: #1c2430; --page: #fff; --quiet: #5d6673; --link: #2563a8;
  --line: #d7dce3; --faint: #edf0f4; --mark: #a8201a; --worse: #fdeee6; --better: #eaf4ec; }
@media (prefers-color-scheme: dark) { :root { --text: #dfe4ea; --page: #14181e; --quiet: #97a1ae;
  --link: #7fb0e6; --line: #3a424d; --faint: #262d36; --mark: #ff9c94; --worse: #4a2c1c;
  --better: #1d3a26; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page);
  max-width: 66rem; margin: 2rem auto; padding: 0 1rem; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.2rem; margin-top: 2.4rem;
  border-bottom: 1px solid var(--line); padding-bottom: .2rem; }
a { color: var(--link); } nav { display: flex; flex-wrap: wrap; gap: .2rem 1rem; }
p, li { max-width: 50rem; } .quiet, tr.quiet td { color: var(--quiet); }
.table { overflow-x: auto; margin: .8rem 0; } .tall { max-height: 34rem; overflow-y: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th { text-align: left; font-weight: 600; border-bottom: 2px solid var(--line); }
th, td { padding: .22rem .8rem .22rem 0; vertical-align: top; }
tr + tr td { border-top: 1px solid var(--faint); }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums;
  white-space: nowrap; }
td.text { min-width: 10rem; max-width: 30rem; overflow-wrap: anywhere; white-space: pre-wrap;
  unicode-bidi: plaintext; }
tr.worse td { background: var(--worse); } tr.better td { background: var(--better); }
code { overflow-wrap: anywhere; } .mark { color: var(--mark); font: .85em monospace; }
img { max-width: 100%; height: auto; background: #fff; }
"""


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


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    kinds: Sequence[str] = (),
    classes: Sequence[str] = (),
    tall: bool = False,
) -> Html:
    """Make a table that scrolls sideways where the screen is narrow.

    kinds: "number", "text" or "" for each column. classes: one for each row. tall: limit the
    height and scroll.
    """
    kinds = list(kinds) or [""] * len(head)
    row_classes = list(classes) or [""] * len(rows)

    def cell(tag: str, value: object, kind: str) -> str:
        attribute = f' class="{kind}"' if kind else ""
        return f"<{tag}{attribute}>{safe(value)}</{tag}>"

    header = "".join(cell("th", name, kind) for name, kind in zip(head, kinds, strict=True))
    body = [
        (f'<tr class="{name}">' if name else "<tr>")
        + "".join(cell("td", value, kind) for value, kind in zip(row, kinds, strict=True))
        + "</tr>"
        for row, name in zip(rows, row_classes, strict=True)
    ]
    markup = f"<table><tr>{header}</tr>\n" + "\n".join(body) + "</table>"
    return Html(f'<div class="{"table tall" if tall else "table"}">{markup}</div>')


def paragraph(*parts: object, quiet: bool = False) -> Html:
    """Make a paragraph; plain text between backticks becomes code."""
    attribute = ' class="quiet"' if quiet else ""
    markup = (
        part if isinstance(part, Html) else _CODE.sub(r"<code>\1</code>", safe(part))
        for part in parts
    )
    return Html(f"<p{attribute}>{''.join(markup)}</p>")


def link(name: str, text: str) -> Html:
    """Link to the section `name` of the page."""
    return Html(f'<a href="#{escape(name)}">{safe(text)}</a>')


def image(png: bytes, description: str) -> Html:
    """Embed a figure."""
    data = base64.b64encode(png).decode()
    return Html(f'<img src="data:image/png;base64,{data}" alt="{escape(description)}">')


def section(name: str, title: str, *parts: Html) -> Html:
    """Make a section that `link(name, ...)` points to."""
    return Html(f'<section id="{name}"><h2>{safe(title)}</h2>\n' + "\n".join(parts) + "</section>")


def page(title: str, contents: Sequence[tuple[str, str]], parts: Sequence[Html]) -> bytes:
    """Make a complete document in UTF-8. contents: names and titles of the sections to link."""
    links = "".join(link(name, text) for name, text in contents)
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        f"<h1>{safe(title)}</h1>\n<nav>{links}</nav>\n" + "\n".join(parts) + "\n</body></html>\n"
    ).encode("utf-8", "backslashreplace")
