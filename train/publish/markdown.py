"""Texts of the data in Markdown: whatever they hold, they are shown and do nothing.

Lines are ended and directions of writing changed by escapes that are visible, such as `\\n`.
"""

from __future__ import annotations

import html
import json
import re
import unicodedata

_SPECIAL = re.compile(r"([\\`*\[\]<>&|~$#])")
_DIRECTIONS = frozenset("LRE RLE PDF LRO RLO LRI RLI FSI PDI".split())

_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def code(value: object) -> str:
    """Write a value as inline code, also in a table's cell."""
    text = _visible(str(value))
    if "|" in text:  # ends a cell even in a code span, and renderers differ in how to escape it
        escaped = re.sub(r"[^\w\s&;]", lambda match: f"&#{ord(match[0])};", html.escape(text))
        return f"<code>{escaped}</code>"
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    mark = "`" * (longest + 1)
    padding = " " if not text.strip() or text[0] in " `" or text[-1] in " `" else ""
    return f"{mark}{padding}{text}{padding}{mark}"


def plain(value: object) -> str:
    """Write a value as text without any markup, on one line."""
    return _SPECIAL.sub(r"\\\1", _visible(str(value)))


def json_block(value: object) -> str:
    """Write a value as a block of JSON; no line of it can end the block."""
    lines = json.dumps(value, indent=2, ensure_ascii=False).split("\n")
    return "\n".join(("```json", *map(_visible, lines), "```"))


def _visible(text: str) -> str:
    return "".join(
        _ESCAPES.get(char, f"\\u{ord(char):04x}")
        if unicodedata.category(char) in ("Cc", "Zl", "Zp", "Cs")
        or unicodedata.bidirectional(char) in _DIRECTIONS
        else char
        for char in text
    )
