"""Errors of libraries in one line: no line breaks, no terminal colours, not too long."""

from __future__ import annotations

import re

from serve.language.spelling import shown

_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def first_line(error: BaseException) -> str:
    """Return the first line of an error that says something, without terminal colours."""
    text = _COLOUR.sub("", str(error))
    lines = (" ".join(line.split()) for line in text.splitlines())
    line = next((line for line in lines if any(map(str.isalpha, line))), type(error).__name__)
    return line if len(line) <= 200 else f"{line[:197]}..."


def one_line(text: str, limit: int = 1000) -> str:
    """Return a message as one printable line of at most `limit` characters."""
    words = _COLOUR.sub("", text).split()
    return shown("".join(c if c.isprintable() else "?" for c in " ".join(words)), limit)
