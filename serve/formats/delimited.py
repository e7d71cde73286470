"""Split delimited text into records by RFC 4180, or without quoting. Pure.

A line without a quote mark is split at the delimiter. Any other record must match RFC 4180 as a
whole, apart from blanks around a quoted field; one that does not is refused at the line where the
wrong field begins, because a lenient reader would move text from one field or row to another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from serve.formats.options import Say

Record = tuple[int, list[str]]
"""Number of the line where a record begins, from 1, and its values."""

_REMEDY = "put the field in quotes and double each quote mark inside it"


@dataclass(frozen=True, kw_only=True)
class Syntax:
    """How records are written."""

    delimiter: str = ","
    quoted: bool = True
    """False: quote marks are ordinary characters, and every line is a record."""

    end: str = "\n"
    """Last character of a line; after a line feed, a carriage return before it counts too."""

    max_chars: int = 256_000_000
    remedy: str = _REMEDY
    """What a user can do about wrong quoting."""


@dataclass(frozen=True)
class _Patterns:
    strict: re.Pattern[str]
    """A whole record by RFC 4180, followed by a delimiter."""

    loose: re.Pattern[str]
    """The same with blanks around quoted fields."""

    field: re.Pattern[str]
    """One field and the delimiter after it: its text within quotes, or its text without."""

    written: re.Pattern[str]
    """One field by RFC 4180 and the delimiter after it: the field with its quotes."""

    closed: re.Pattern[str]
    """A quoted field whose second quote mark is there."""


@lru_cache
def _patterns(delimiter: str) -> _Patterns:
    mark = re.escape(delimiter)
    blanks = "" if delimiter in "\t " else "[ \t]*+"
    quoted = '"([^"]*+(?:""[^"]*+)*+)"'
    plain = rf'[^"{mark}\r\n]*+'
    return _Patterns(
        strict=re.compile(rf"(?:(?:{quoted}|{plain}){mark})++"),
        loose=re.compile(rf"(?:(?:{blanks}{quoted}{blanks}|{plain}){mark})++"),
        field=re.compile(rf"(?:{blanks}{quoted}{blanks}|({plain})){mark}"),
        written=re.compile(rf'("[^"]*+(?:""[^"]*+)*+"|{plain}){mark}'),
        closed=re.compile(blanks + quoted),
    )


def strip_end(line: str, end: str) -> str:
    """Remove the line break at the end of a line."""
    return line.removesuffix("\n").removesuffix("\r") if end == "\n" else line.removesuffix("\r")


def records(
    lines: Iterable[str], syntax: Syntax, say: Say | None = None, *, first: int = 1
) -> Iterator[Record]:
    """Yield each record; empty lines are skipped, which is said unless all rows come before.

    lines: with their line breaks, none within a line; first: number of the first one. Raises
    ValueError that names the line.
    """
    delimiter, end, quoted = syntax.delimiter, syntax.end, syntax.quoted
    split_written = _patterns(delimiter).written.findall
    other = "\r" if end == "\n" else "\n"
    numbered = enumerate(lines, start=first)
    notes = Notes(say)
    columns = empty = 0
    crlf = None
    for number, line in numbered:
        if line[:1] == "\ufeff":
            notes.once("a byte order mark within the file is read as text", number)
        has_quotes = quoted and '"' in line
        if has_quotes and line.count('"') % 2:
            line = gather(line, number, numbered, syntax)
        is_crlf = line.endswith("\r\n")
        if is_crlf is not crlf and line.endswith("\n"):
            if crlf is not None:
                notes.once("lines end in LF and in CRLF", number)
            crlf = is_crlf
        text = line[:-2] if is_crlf and end == "\n" else strip_end(line, end)
        if has_quotes:
            closed = text + delimiter
            written = split_written(closed)
            if sum(map(len, written)) + len(written) == len(closed):  # nothing is left out
                values = [_unquote(each) if each[:1] == '"' else each for each in written]
            else:
                values = _loose_fields(closed, number, syntax, notes)
            columns = columns or len(values)
            if "\\N" in values:
                notes.once(_NULL, number)
            if end in text and looks_like_rows(text, syntax, columns):
                notes.once("a quoted field spans lines that look like rows of their own", number)
            yield number, values
            continue
        if other in text:
            name = "carriage return" if other == "\r" else "line feed"
            raise ValueError(f"line {number}: a {name} outside quotes; {syntax.remedy}")
        if not text:
            empty = empty or number
            if columns == 1:  # it may be a row
                notes.once("empty lines are skipped", empty)
            continue
        if empty and columns:
            notes.once("empty lines are skipped", empty)
        columns = columns or text.count(delimiter) + 1
        empty = 0
        values = text.split(delimiter)
        if "\\" in text:
            _say_escapes(values, number, delimiter, notes)
        yield number, values


_NULL = r"`\N`, by which MySQL and Postgres mean a missing value, is read as text"
_ESCAPE = re.compile(r"\\[nrt\\]")


def _say_escapes(values: list[str], number: int, delimiter: str, notes: Notes) -> None:
    if values[-1].endswith("\\"):
        notes.once("a backslash at the end of a line is read as text", number)
    if "\\N" in values:
        notes.once(_NULL, number)
    if delimiter == "\t" and any(map(_ESCAPE.search, values)):
        notes.once(r"backslash escapes such as `\n` and `\t` are read as text", number)


class Notes:
    """Says once each what is read in a way that could surprise."""

    def __init__(self, say: Say | None) -> None:
        self._say = say
        self._said = set[str]()

    def once(self, what: str, line: int) -> None:
        if self._say is not None and what not in self._said:
            self._said.add(what)
            self._say(f"{what} (line {line})")


def looks_like_rows(record: str, syntax: Syntax, columns: int) -> bool:
    """Whether a record spans lines that, read without quoting, all have the right number of values.

    It may be a text with line breaks, or rows that two stray quote marks joined.
    """
    if syntax.end not in record:
        return False
    lines = record.split(syntax.end)
    return all(line.count(syntax.delimiter) + 1 == columns for line in lines)


def gather(line: str, number: int, numbered: Iterator[tuple[int, str]], syntax: Syntax) -> str:
    """Return the record that begins with a line: with all lines up to an even number of quotes."""
    if line.count('"') % 2 == 0:
        return line
    parts, length = [line], len(line)
    for _, more in numbered:
        parts.append(more)
        length += len(more)
        if length > syntax.max_chars:
            raise ValueError(
                f"line {number}: a row is longer than {syntax.max_chars:,} characters; "
                f"is a quote mark not closed? {syntax.remedy}"
            )
        if more.count('"') % 2:
            break
    return "".join(parts)


def is_strict(record: str, delimiter: str) -> bool:
    """Whether a record is written by RFC 4180."""
    return _patterns(delimiter).strict.fullmatch(record + delimiter) is not None


def written_fields(record: str, delimiter: str) -> list[str]:
    """Return the fields of a record by RFC 4180 as they are written, with their quotes."""
    return _patterns(delimiter).written.findall(record + delimiter)


def _unquote(field: str) -> str:
    return field[1:-1].replace('""', '"')


def _loose_fields(closed: str, number: int, syntax: Syntax, notes: Notes) -> list[str]:
    """Return the values of a record, with a delimiter after it, that has blanks around quotes."""
    patterns = _patterns(syntax.delimiter)
    if not patterns.loose.fullmatch(closed):
        raise ValueError(_wrong_quoting(closed, number, syntax))
    notes.once("blanks around quoted fields are ignored", number)
    return [
        inside.replace('""', '"') or outside for inside, outside in patterns.field.findall(closed)
    ]


def _wrong_quoting(closed: str, number: int, syntax: Syntax) -> str:
    """Return what is wrong with the first field that is not by RFC 4180, and on which line."""
    patterns = _patterns(syntax.delimiter)
    position = 0
    while match := patterns.field.match(closed, position):
        position = match.end()
    line = number + closed.count(syntax.end, 0, position)
    start = closed[position:-1][:40].split(syntax.end)[0]
    remedy = syntax.remedy
    if quoted := patterns.closed.match(closed, position):
        problem = "text after the closing quote mark of a field"
        if quoted[1].endswith("\\"):
            problem = "a quote mark that is escaped by a backslash"
            remedy = "CSV doubles it instead"
    elif start.lstrip(" \t").startswith('"'):
        problem = "a quote mark that is not closed"
    else:
        problem = "a quote mark in a field that is not in quotes"
        start = closed[position:].split(syntax.delimiter)[0].split(syntax.end)[0][:40]
    start = start.replace("\r", "\\r")
    return f"line {line}: {problem} (the field begins with `{start}`); {remedy}"
