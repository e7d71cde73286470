"""Building blocks of the report: tables, figures, sections. Whatever comes in is escaped.

`Html` is text that is safe to stand in a page; every function here takes plain values, which
it escapes, or `Html`, which it leaves as it is.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2430; background: #fff;
  max-width: 66rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.2rem; margin-top: 2.4rem;
  border-bottom: 1px solid #d7dce3; padding-bottom: .2rem; }
p, li { max-width: 50rem; } .quiet { color: #5d6673; }
table { border-collapse: collapse; margin: .8rem 0; font-size: .9rem; }
th { text-align: left; font-weight: 600; border-bottom: 2px solid #d7dce3; }
th, td { padding: .22rem .8rem .22rem 0; vertical-align: top; }
tr + tr td { border-top: 1px solid #edf0f4; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums;
  white-space: nowrap; }
td.text { max-width: 30rem; overflow-wrap: anywhere; white-space: pre-wrap; }
tr.worse td { background: #fdeee6; } tr.better td { background: #eaf4ec; }
img { max-width: 100%; height: auto; } .tall { max-height: 34rem; overflow-y: auto; }
nav a { margin-right: 1rem; } a { color: #2563a8; }
@media (prefers-color-scheme: dark) { body { color: #dfe4ea; background: #14181e; }
  img { background: #fff; } tr.worse td { background: #4a2c1c; }
  tr.better td { background: #1d3a26; } a { color: #7fb0e6; } .quiet { color: #97a1ae; } }
"""


class Html(str):
    """Markup that is safe as it stands."""

    __slots__ = ()


def safe(value: object) -> Html:
    """A value as markup; numbers that are not whole get four digits."""
    if isinstance(value, Html):
        return value
    if isinstance(value, float):
        return Html(f"{value:.4f}")
    return Html(escape(str(value)))


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    kinds: Sequence[str] = (),
    classes: Sequence[str] = (),
    tall: bool = False,
) -> Html:
    """A table. kinds: for each column number, text or nothing. classes: one for each row."""
    kinds = list(kinds) or [""] * len(head)
    row_classes = list(classes) or [""] * len(rows)

    def cell(tag: str, value: object, kind: str) -> str:
        attribute = f' class="{kind}"' if kind else ""
        return f"<{tag}{attribute}>{safe(value)}</{tag}>"

    lines = ["".join(cell("th", name, kind) for name, kind in zip(head, kinds, strict=True))]
    body = [
        (f'<tr class="{name}">' if name else "<tr>")
        + "".join(cell("td", value, kind) for value, kind in zip(row, kinds, strict=True))
        + "</tr>"
        for row, name in zip(rows, row_classes, strict=True)
    ]
    markup = f"<table><tr>{lines[0]}</tr>\n" + "\n".join(body) + "</table>"
    return Html(f'<div class="tall">{markup}</div>' if tall else markup)


def paragraph(*parts: object, quiet: bool = False) -> Html:
    """A paragraph."""
    attribute = ' class="quiet"' if quiet else ""
    return Html(f"<p{attribute}>{''.join(map(safe, parts))}</p>")


def image(png: bytes, description: str) -> Html:
    """A figure that is part of the page."""
    data = base64.b64encode(png).decode()
    return Html(f'<img src="data:image/png;base64,{data}" alt="{safe(description)}">')


def section(name: str, title: str, *parts: Html) -> Html:
    """A part of the page that can be linked to as `#name`."""
    return Html(f'<section id="{name}"><h2>{safe(title)}</h2>\n' + "\n".join(parts) + "</section>")


def page(title: str, contents: Sequence[tuple[str, str]], parts: Sequence[Html]) -> bytes:
    """A whole document without a reference to anything outside. contents: names and titles."""
    links = "".join(f'<a href="#{name}">{safe(text)}</a>' for name, text in contents)
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{safe(title)}</title><style>{STYLE}</style></head><body>\n"
        f"<h1>{safe(title)}</h1>\n<nav>{links}</nav>\n" + "\n".join(parts) + "\n</body></html>\n"
    ).encode("utf-8", "backslashreplace")
