"""Rows of JSON Lines and JSON files; values keep the types that JSON gives them.

A JSON file may be a list of rows, an object with one such list, one object per row, or the
columns as pandas writes them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from serve.formats.options import Opened, ReadOptions, Row, Say
from serve.formats.streams import open_text, pick_encoding, read_head, too_long

_BLANK = " \t\r\n"
_BLOCK_CHARS = 1 << 18


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Duplicate(f"the key `{twice[:40]}` appears twice in one object")
    return made


class _Duplicate(ValueError):
    """A key that appears twice in one object."""


_decoder = json.JSONDecoder(object_pairs_hook=_unique)


def open_lines(path: Path, options: ReadOptions, say: Say, stack: ExitStack) -> Opened:
    """Open a JSON Lines file. Raises ValueError for a line that is not an object."""
    encoding = pick_encoding(read_head(path), options, say)
    file = stack.enter_context(open_text(path, encoding, options, newline=None))
    return Opened(columns=[], rows=_lines(file))


def _lines(file: IO[str]) -> Iterator[Row]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = _decoder.decode(line.rstrip())
        except _Duplicate as error:
            raise ValueError(f"line {number}: {error}") from None
        except RecursionError:
            raise ValueError(f"line {number}: the values are nested too deeply") from None
        except ValueError as error:
            column = f" (column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
            if line.strip() in ("{", "["):
                column += "; a file whose rows span lines is named .json"
            raise ValueError(f"line {number}: not valid JSON: {_reason(error)}{column}") from None
        if not isinstance(row, dict):
            advice = "; a file that is one list is named .json" if line.startswith("[") else ""
            raise ValueError(f"line {number}: expected a JSON object{advice}")
        yield row


def open_json(path: Path, options: ReadOptions, say: Say, stack: ExitStack) -> Opened:
    """Open a JSON file; a list of rows and one object per row are read in bounded memory."""
    encoding = pick_encoding(read_head(path), options, say)
    text = open_text(path, encoding, options, newline=None, bounded=False)
    buffer = _Buffer(stack.enter_context(text), options)
    return Opened(columns=[], rows=_values(buffer, options, say))


class _Buffer:
    """The part of a JSON text that is not yet decoded."""

    def __init__(self, file: IO[str], options: ReadOptions) -> None:
        self._file, self._options = file, options
        self._text, self._start = "", 0
        self._lines = 1  # line of the first character of the text
        self._ended = False

    def peek(self) -> str:
        """Return the next character that is not blank, or an empty string at the end."""
        while True:
            while self._start < len(self._text):
                if self._text[self._start] not in _BLANK:
                    return self._text[self._start]
                self._start += 1
            if self._ended:
                return ""
            self._more()

    def skip(self) -> None:
        """Leave out one character."""
        self._start += 1

    @property
    def line(self) -> int:
        """Number of the line of the next character, from 1."""
        return self._lines + self._text.count("\n", 0, self._start)

    def value(self) -> Any:
        """Decode the next value. Raises ValueError that names the line where it begins."""
        self.peek()
        line = self.line
        while True:
            try:
                found, end = _decoder.raw_decode(self._text, self._start)
            except _Duplicate as error:
                raise ValueError(f"line {line}: {error}") from None
            except RecursionError:
                raise ValueError(f"line {line}: the values are nested too deeply") from None
            except ValueError as error:
                if self._ended:
                    raise ValueError(f"line {line}: not valid JSON: {_reason(error)}") from None
                self._more()
                continue
            if end == len(self._text) and not self._ended:
                self._more()  # a number may go on
                continue
            self._start = end
            return found

    def _more(self) -> None:
        self._lines = self.line
        rest = self._text[self._start :]
        # The text doubles, so a long value is not decoded from its start too often.
        added = self._file.read(max(_BLOCK_CHARS, len(rest)))
        self._ended = not added
        self._text, self._start = rest + added, 0
        if len(self._text) > self._options.max_row_bytes + _BLOCK_CHARS:
            raise ValueError(f"line {self._lines}: {too_long('a value', self._options)}")


def _reason(error: ValueError) -> str:
    if not isinstance(error, json.JSONDecodeError):
        return str(error)
    if error.doc[error.pos : error.pos + 1] == "\ufeff":
        return "a byte order mark within the file; were files joined?"
    return error.msg


def _values(buffer: _Buffer, options: ReadOptions, say: Say) -> Iterator[Row]:
    first = buffer.peek()
    if not first:
        raise ValueError("the file is empty, expected JSON")
    if first == "[":
        yield from _list(buffer)
        return
    line, value = buffer.line, buffer.value()
    if buffer.peek():
        while True:
            yield _row(value, f"line {line}")
            if buffer.peek() == ",":
                raise ValueError(f"line {buffer.line}: rows in a JSON file need [ ] around them")
            if not buffer.peek():
                return
            line, value = buffer.line, buffer.value()
    # An object alone may be a whole data set.
    yield from _document(_row(value, f"line {line}"), options, say)


def _list(buffer: _Buffer) -> Iterator[Row]:
    buffer.skip()
    if buffer.peek() != "]":
        while True:
            line = buffer.line
            yield _row(buffer.value(), f"line {line}")
            following = buffer.peek()
            if following == "]":
                break
            if following != ",":
                where = f"line {buffer.line}: not valid JSON: expected `,` or `]`"
                raise ValueError(f"{where}, got {f'`{following}`' if following else 'the end'}")
            buffer.skip()
            buffer.peek()
    buffer.skip()
    if buffer.peek():
        raise ValueError(f"line {buffer.line}: more than one value; a list of rows stands alone")


def _row(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected a JSON object, got {type(value).__name__}")
    return value


def _document(document: Row, options: ReadOptions, say: Say) -> Iterator[Row]:
    """Yield the rows of one object: of its list of rows, of its columns, or the object itself."""
    is_row = bool(options.used) and (options.used or frozenset()) <= document.keys()
    name = None if is_row else _list_of_rows(document)
    if name is not None:
        if name == "rows" and all("row_idx" in item and "row" in item for item in document[name]):
            yield from _of_server(document, say)
            return
        if len(document) > 1 or name not in ("data", "rows"):
            say(f"the rows are in `{name[:40]}` of the JSON object")
        yield from document[name]
    elif isinstance(document.get("columns"), list) and isinstance(document.get("data"), list):
        yield from _split(document["columns"], document["data"])
    elif document and all(isinstance(value, list) for value in document.values()):
        yield from _columns({key: dict(enumerate(value)) for key, value in document.items()})
    elif document and all(isinstance(value, dict) for value in document.values()):
        yield from _of_objects(document, options)
    else:
        yield document


def _of_server(document: Row, say: Say) -> Iterator[Row]:
    """Yield the rows of an answer of the Hugging Face data set server, which has 100 at most."""
    items, total = document["rows"], document.get("num_rows_total")
    if isinstance(total, int) and total > len(items):
        say(f"the file has {len(items)} of the {total} rows of the data set")
    for item in items:
        if cells := item.get("truncated_cells"):
            raise ValueError(f"row {item['row_idx']}: the value of `{cells[0]}` is cut off")
        yield _row(item["row"], f"row {item['row_idx']}")


def _list_of_rows(document: Row) -> str | None:
    """Return the key of the only list of objects. Raises ValueError if there are several."""
    found = [
        name
        for name, value in document.items()
        if isinstance(value, list)
        and all(isinstance(item, dict) for item in value)
        and (value or name in ("data", "rows"))
    ]
    if usual := [name for name in ("data", "rows") if name in found]:
        return usual[0]
    if len(found) > 1:
        names = ", ".join(f"`{name[:40]}`" for name in found)
        raise ValueError(f"the file has several lists of rows, {names}; write a file for each")
    return found[0] if found else None


def _of_objects(document: Row, options: ReadOptions) -> Iterator[Row]:
    """Yield the rows of columns by row, or of rows by name, as pandas writes both."""
    inner = next(iter(document.values()))
    used = options.used or frozenset()
    if (used and used <= document.keys()) or all(key.isdigit() for key in inner):
        yield from _columns(document)
    elif (used and used <= inner.keys()) or all(key.isdigit() for key in document):
        yield from document.values()
    else:
        raise ValueError(
            "expected a list of rows; in an object of objects rows and columns look the same"
        )


def _columns(columns: dict[str, dict[Any, Any]]) -> Iterator[Row]:
    """Yield the rows of columns, each a mapping from row to value."""
    first, *others = columns
    for name in others:
        if columns[name].keys() != columns[first].keys():
            raise ValueError(
                f"the columns `{first[:40]}` and `{name[:40]}` do not have the same rows"
            )
    for key in columns[first]:
        yield {name: values[key] for name, values in columns.items()}


def _split(columns: list[Any], data: list[Any]) -> Iterator[Row]:
    """Yield the rows of lists of values and the names of the columns."""
    if len({str(name) for name in columns}) < len(columns):
        raise ValueError("`columns` has a name twice; rename one")
    for number, values in enumerate(data, start=1):
        if not isinstance(values, list) or len(values) != len(columns):
            raise ValueError(f"row {number}: expected {len(columns)} values, as in `columns`")
        yield {str(name): value for name, value in zip(columns, values, strict=True)}
