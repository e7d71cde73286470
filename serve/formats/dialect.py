"""Detect the delimiter and the quoting of a file, where there is no doubt.

A detected delimiter is said. Files whose quote marks can be read in two ways are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from serve.formats.delimited import (
    Syntax,
    gather,
    is_strict,
    looks_like_rows,
    records,
    strip_end,
    written_fields,
)
from serve.formats.options import ReadOptions, Say

_DELIMITERS = {",": "`,`", ";": "`;`", "\t": "tab", "|": "`|`"}
_SEPARATOR_LINE = re.compile(r'("?)sep=(.)\1\s*', re.IGNORECASE)
_BREAK = re.compile(r'"[^"]*"|(\r\n|\r|\n)')


def name_of(delimiter: str) -> str:
    """Return a delimiter for a message."""
    return _DELIMITERS.get(delimiter, f"`{delimiter}`")


def line_end(head: str) -> str:
    """Return the last character of the lines of a text, by its first line break outside quotes."""
    breaks = (match[1] for match in _BREAK.finditer(head) if match[1])
    first = next(breaks, None)
    if first is None:
        return "\r" if "\n" not in head and "\r" in head[:-1] else "\n"
    return "\r" if first == "\r" and next(breaks, "\r") == "\r" else "\n"


def separator_line(line: str) -> str | None:
    """Return the delimiter that Excel's first line `sep=;` states."""
    match = _SEPARATOR_LINE.fullmatch(line)
    return match[2] if match else None


def pick_delimiter(lines: list[str], syntax: Syntax, options: ReadOptions, say: Say) -> str:
    """Return the delimiter of a file that begins with these whole lines, the header first.

    syntax: with the delimiter that the file's name suggests; another one is used only if the
    header has one column by it, and exactly one other splits all lines alike.
    """
    if options.delimiter:
        return options.delimiter
    if not lines or _width(lines[:1], syntax) != 1:
        return syntax.delimiter
    fitting = [
        other
        for other in _DELIMITERS
        if other in lines[0] and (_width(lines, replace(syntax, delimiter=other)) or 0) > 1
    ]
    if len(fitting) != 1:
        return syntax.delimiter
    say(f"the values are separated by {name_of(fitting[0])}")
    return fitting[0]


def _width(lines: Iterable[str], syntax: Syntax) -> int | None:
    """Return the number of values that each record has, or None if they differ."""
    try:
        widths = {len(values) for _, values in records(lines, syntax)}
    except ValueError:
        return None
    return widths.pop() if len(widths) == 1 else None


def other_delimiters(names: list[str], options: ReadOptions) -> str:
    """Return which delimiter a header with a single name may have, for a message."""
    if len(names) != 1 or options.delimiter:
        return ""
    found = [shown for mark, shown in _DELIMITERS.items() if mark in names[0]]
    if not found:
        return ""
    advice = options.remedy("delimiter", "';'", "")
    return f"; the header has one column and contains {' and '.join(found)}" + (
        f", {advice} if that is the delimiter" if advice else ""
    )


def is_quoted(
    lines: Iterable[str], syntax: Syntax, options: ReadOptions, say: Say, *, first: int
) -> bool:
    """Whether a file of tab-separated values is quoted by RFC 4180; reads all of it.

    lines: from the header on; first: number of the first one. Many such files know no quoting,
    and their texts contain quote marks. So the file is read without quoting as soon as a record
    is not by RFC 4180. Raises ValueError if a record could be either: if it spans lines that look
    like rows of their own, or a field is in quotes that does not need them, as quotations are,
    unless all fields of its column are.
    """
    numbered = enumerate(lines, start=first)
    header = next(numbered, (first, ""))
    names = strip_end(gather(header[1], header[0], numbered, syntax), syntax.end)
    if not is_strict(names, syntax.delimiter):
        return _unquoted(first, say)
    fields = written_fields(names, syntax.delimiter)
    columns = len(fields)
    in_header = {n for n, field in enumerate(fields) if field.startswith('"')}
    always = set(range(columns))  # columns in quotes in every row
    num_rows = lost = spans = 0
    doubtful: dict[int, tuple[int, str]] = {}
    for number, line in numbered:
        if '"' not in line:
            if always and strip_end(line, syntax.end):
                always = set()
            continue
        record = strip_end(gather(line, number, numbered, syntax), syntax.end)
        if not is_strict(record, syntax.delimiter):
            return _unquoted(number, say)
        fields = written_fields(record, syntax.delimiter)
        num_rows += 1
        marked = {n for n, field in enumerate(fields) if field.startswith('"')}
        always &= marked
        if looks_like_rows(record, syntax, columns):
            spans = spans or number
        if syntax.end not in record and record.count(syntax.delimiter) + 1 == columns:
            lost = lost or number
            for n in marked:
                if not _needs_quotes(fields[n]):
                    doubtful.setdefault(n, (number, fields[n]))
    sure = always if num_rows > 1 else always & in_header
    _refuse_either(spans, [found for n, found in doubtful.items() if n not in sure], options)
    if lost:
        keep = options.remedy("quoting", "none", "")
        say(f"quoted as in CSV (line {lost})" + (f"; {keep} keeps the quote marks" if keep else ""))
    return True


def _unquoted(line: int, say: Say) -> bool:
    say(f"quote marks are read as text, because line {line} is not quoted as in CSV")
    return False


def _refuse_either(spans: int, doubtful: list[tuple[int, str]], options: ReadOptions) -> None:
    csv, none = (options.remedy("quoting", each, "") for each in ("csv", "none"))
    advice = f"{csv} or {none.removeprefix('set ')}" if csv else "write the rows as .jsonl"
    if spans:
        raise ValueError(
            f"line {spans}: a quoted field that spans lines, or a quote mark that belongs to a "
            f"text: each line looks like a row of its own; {advice}"
        )
    if doubtful:
        number, text = min(doubtful)
        raise ValueError(
            f"line {number}: `{text[:40]}` is a quoted field, or a text in quote marks; {advice}"
        )


def _needs_quotes(field: str) -> bool:
    """Whether a writer would quote a field; Excel does for a comma, Polars if it is empty."""
    return field == '""' or any(mark in field for mark in ('""', ",", ";"))
