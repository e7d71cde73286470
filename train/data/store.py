"""Validated rows on disk, in memory-mapped Arrow files.

Rows are written in a stream and read through a memory map, so the data are never held in memory.
A file's name contains the hash of its content: a second process that writes the same rows reuses
the file, and a file never changes while it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

import pyarrow as pa

from serve.files import sync_directory
from serve.inference.text import Text

T = TypeVar("T")
Values = tuple[str, ...]
WRITE_ROWS = 4096
READ_ROWS = 1024
_SCHEMA = pa.schema(
    {
        "text": pa.large_string(),
        "text_pair": pa.large_string(),
        "labels": pa.list_(pa.string()),
        "row": pa.int64(),
        "slices": pa.list_(pa.string()),
        "ids": pa.list_(pa.string()),
    }
)


def content_line(text: Text, labels: Sequence[str]) -> bytes:
    """Serialize a row for hashing."""
    return json.dumps([text, labels], ensure_ascii=False).encode() + b"\n"


class RowWriter:
    """Writes rows to a temporary file that gets its name when it is complete."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._path = directory / f".{uuid.uuid4().hex}.arrow"
        self._file = pa.OSFile(str(self._path), "wb")
        self._writer = pa.ipc.new_file(self._file, _SCHEMA)
        self._pending: list[tuple[Text, tuple[str, ...], int, Values, Values]] = []
        self._digest = hashlib.sha256()
        self._open = True

    def add(
        self, text: Text, labels: tuple[str, ...], row: int, slices: Values = (), ids: Values = ()
    ) -> None:
        """Append a row. row: its number in the source, from 1.

        slices: values of slice columns. ids: values of id columns, each as JSON.
        """
        self._pending.append((text, labels, row, slices, ids))
        self._digest.update(content_line(text, labels) + b"%d\n" % row)
        self._digest.update(json.dumps([slices, ids] if ids else slices).encode())
        if len(self._pending) >= WRITE_ROWS:
            self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        texts, labels, rows, *more = zip(*self._pending, strict=True)
        pairs = [text if isinstance(text, tuple) else (text, None) for text in texts]
        first, second = zip(*pairs, strict=True)
        lists = [[list(row) for row in column] for column in (labels, *more)]
        values: list[Any] = [list(first), list(second), lists[0], list(rows), *lists[1:]]
        arrays = [pa.array(v, field.type) for v, field in zip(values, _SCHEMA, strict=True)]
        self._writer.write_batch(pa.record_batch(arrays, schema=_SCHEMA))
        self._pending.clear()

    def close(self, name: str) -> pa.Table:
        """Finish the file as NAME-HASH.arrow, delete older versions, and map it."""
        self._finish()
        path = self.directory / f"{name}-{self._digest.hexdigest()[:16]}.arrow"
        if path.exists():
            self._path.unlink()
        else:
            with self._path.open("rb") as file:
                os.fsync(file.fileno())
            self._path.replace(path)
            sync_directory(self.directory)
        for other in self.directory.glob(f"{name}-*.arrow"):
            if other != path:
                other.unlink(missing_ok=True)  # processes that have it mapped keep it
        return _mapped(path)

    def close_unnamed(self) -> pa.Table:
        """Finish, map and unlink the file: it is deleted when its last reader closes it."""
        self._finish()
        table = _mapped(self._path)
        self._path.unlink()
        return table

    def discard(self) -> None:
        """Delete the file unless it is finished."""
        if self._open:
            self._pending.clear()
            self._finish()
            self._path.unlink()

    def _finish(self) -> None:
        self._flush()
        self._writer.close()
        self._file.close()
        self._open = False


def _mapped(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


class Column(Sequence[T]):
    """A read-only sequence over columns of a mapped table; equal to a list of its values."""

    def __init__(self, table: pa.Table, names: Sequence[str], make: Callable[..., T]) -> None:
        self._chunks = [table[name] for name in names]
        self._make = make

    def _read(self, start: int, stop: int) -> list[T]:
        parts = [chunks.slice(start, stop - start).to_pylist() for chunks in self._chunks]
        return [self._make(*values) for values in zip(*parts, strict=True)]

    def __len__(self) -> int:
        return len(self._chunks[0])

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> list[T]: ...

    def __getitem__(self, index: int | slice) -> T | list[T]:
        rows = range(len(self))[index]
        if isinstance(rows, int):
            return self._read(rows, rows + 1)[0]
        if rows.step == 1:
            return self._read(rows.start, max(rows.start, rows.stop))
        return [self[row] for row in rows]

    def __iter__(self) -> Iterator[T]:
        for start in range(0, len(self), READ_ROWS):
            yield from self._read(start, min(start + READ_ROWS, len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{len(self)} values on disk, first {self[:3]!r}>"


def texts_of(table: pa.Table, *, is_pair: bool) -> Column[Text]:
    """Return the texts, or pairs of texts."""
    if is_pair:
        return Column(table, ("text", "text_pair"), _pair)
    return Column(table, ("text",), _same)


def labels_of(table: pa.Table) -> Column[tuple[str, ...]]:
    """Return the labels of each row."""
    return Column(table, ("labels",), tuple)


def row_numbers_of(table: pa.Table) -> Column[int]:
    """Return the number of each row in its source, from 1."""
    return Column(table, ("row",), _same)


def slices_of(table: pa.Table) -> Column[tuple[str, ...]]:
    """Return the values of `evaluation.slice_columns` of each row."""
    return Column(table, ("slices",), tuple)


def ids_of(table: pa.Table) -> Column[tuple[str, ...]]:
    """Return the values of `evaluation.id_columns` of each row, each as JSON."""
    return Column(table, ("ids",), tuple)


def _same(value: Any) -> Any:
    return value


def _pair(first: str, second: str) -> Text:
    return first, second
