"""Rows of CSV and TSV files; every value is the string in the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from serve.formats.delimited import Notes, Record, Syntax, records
from serve.formats.dialect import (
    is_quoted,
    line_end,
    other_delimiters,
    pick_delimiter,
    separator_line,
)
from serve.formats.options import Opened, ReadOptions, Row, Say
from serve.formats.streams import HEAD_BYTES, open_text, pick_encoding, read_head


def open_csv(
    path: Path, delimiter: str, options: ReadOptions, say: Say, stack: ExitStack
) -> Opened:
    """Open a CSV file until the stack unwinds. delimiter: the expected one, unless options name it.

    Raises ValueError for an empty file, a header in which a used column appears twice, wrong
    quoting, and a row with more or fewer values than the header.
    """
    head = read_head(path)
    encoding = pick_encoding(head, options, say)
    text = head.decode(encoding, "replace").removeprefix("\ufeff")
    end = line_end(text)
    skipped, lines = _first_lines(text, end, whole=len(head) < HEAD_BYTES)
    if lines and (stated := separator_line(lines[0])):
        skipped, lines = skipped + 1, lines[1:]
        options = options if options.delimiter else replace(options, delimiter=stated)
    remedy = options.remedy("quoting", "none", "write the rows as .jsonl")
    syntax = Syntax(
        delimiter=delimiter,
        quoted=options.quoting != "none",
        end=end,
        max_chars=options.max_row_bytes,
        remedy=f"{Syntax.remedy}; {remedy} if the file is not quoted",
    )
    syntax = replace(syntax, delimiter=pick_delimiter(lines, syntax, options, say))
    if syntax.delimiter == "\t" and options.quoting == "auto":
        with open_text(path, encoding, options, newline=end) as file:
            rest = islice(file, skipped, None)
            quoted = is_quoted(rest, syntax, options, say, first=skipped + 1)
        syntax = replace(syntax, quoted=quoted)
    file = stack.enter_context(open_text(path, encoding, options, newline=end))
    found = records(islice(file, skipped, None), syntax, say, first=skipped + 1)
    header: list[str] | None = list(options.column_names)
    if not header:
        _, header = next(found, (0, None))
    if header is None:
        what = "has only empty lines" if text else "is empty"
        raise ValueError(f"the file {what}, expected a header line")
    columns = _columns(header, options)
    return Opened(
        columns=[name for name in columns if name is not None],
        rows=_rows(header, columns, found, options, say),
    )


def _first_lines(text: str, end: str, *, whole: bool) -> tuple[int, list[str]]:
    """Return the number of empty lines before the header, and the lines from there on.

    whole: whether the text is the whole file; otherwise a record that is cut off is left out.
    """
    lines = [f"{line}{end}" for line in text.split(end)]
    if not whole:
        lines.pop()
    skipped = next((n for n, line in enumerate(lines) if line.strip()), len(lines))
    lines = lines[skipped:]
    is_open = not whole and sum(line.count('"') for line in lines) % 2 == 1
    while is_open:
        is_open = lines.pop().count('"') % 2 == 0
    return skipped, lines if any(map(str.strip, lines)) else []


def _columns(header: list[str], options: ReadOptions) -> list[str | None]:
    """Return the name of each column: without blanks around it, None for one to leave out."""
    names = [name.strip().strip("\ufeff").strip() for name in header]
    if names.count("") > 1:
        names = [name or f"column {number}" for number, name in enumerate(names, start=1)]
    columns: list[str | None] = []
    for name in names:
        twice = names.count(name) > 1
        if twice and (options.used is None or name in options.used):
            raise ValueError(f"the header has two columns `{name[:40]}`; rename one")
        columns.append(None if twice else name)
    return columns


def _rows(
    header: list[str],
    columns: list[str | None],
    found: Iterator[Record],
    options: ReadOptions,
    say: Say,
) -> Iterator[Row]:
    width = len(columns)
    is_part = None in columns
    notes = Notes(say)
    for number, values in found:
        if len(values) != width:
            if len(values) < width or any(values[width:]):
                names = [name for name in columns if name is not None]
                mark = "the delimiter" if len(values) > width else "a line break"
                row_names = "; R writes row names without a column, set row.names = FALSE"
                raise ValueError(
                    f"line {number}: {len(values)} values for {width} columns"
                    f"{other_delimiters(names, options)}; quote values that contain {mark}"
                    f"{row_names if len(values) == width + 1 and values[0] == '1' else ''}"
                )
            notes.once("more values than columns, the last ones empty", number)
            del values[width:]
        if values[-1] == header[-1] and _is_header(values, header):
            if width > 1:
                raise ValueError(
                    f"line {number} repeats the header; if files were joined, delete the line"
                )
            notes.once("a row is the same as the header", number)
        row: dict[Any, Any] = dict(zip(columns, values, strict=True))
        if is_part:
            row.pop(None, None)  # all columns that are left out
        yield row


def _is_header(values: list[str], header: list[str]) -> bool:
    return [values[0].lstrip("\ufeff"), *values[1:]] == [header[0].lstrip("\ufeff"), *header[1:]]
