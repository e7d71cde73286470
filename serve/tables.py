"""Read and write files of rows, one block at a time: for training and `textloop predict`.

A row is a dict of column to value. Values are kept as they are written: in CSV and TSV files each
is a string ("NA" and "007" included). What was detected or left out is said, never silent.

For the formats see `serve.formats`; a source of training may also be a directory or a pattern.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from serve.formats.csv_rows import open_csv
from serve.formats.json_rows import open_json, open_lines
from serve.formats.options import WRITABLE, Opened, Say, format_of, list_columns
from serve.formats.options import ReadOptions as ReadOptions
from serve.formats.options import Row as Row
from serve.formats.parquet_rows import infer_schema, open_parquet, require_pyarrow, write_parquet
from serve.formats.shards import shards
from serve.formats.streams import explained

Item = TypeVar("Item")
DEFAULTS = ReadOptions()


def check_format(path: Path, *, reading: bool = False) -> None:
    """Raise ValueError unless the file's suffix names a format that can be written (or read)."""
    try:
        suffix, compressed = format_of(path)
        if not reading and (compressed or suffix not in WRITABLE):
            raise ValueError(f"cannot be written, expected {', '.join(WRITABLE)}")
        if suffix == ".parquet":
            require_pyarrow()
    except ValueError as error:
        raise ValueError(f"`{path}`: {error}") from None


def blocks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield consecutive lists of `size` items; the last one may be shorter."""
    iterator = iter(items)
    while block := list(islice(iterator, size)):
        yield block


def _nobody(_: str) -> None:
    """Receive notes that someone else gets."""


def survey(
    path: Path, *, output: Path, options: ReadOptions = DEFAULTS, say: Say = _nobody
) -> tuple[int, list[str]]:
    """Return the number of rows, and the names of all columns in order of appearance.

    Streams the file; a header without rows gives its columns. Raises ValueError for rows that
    cannot be read, and for rows that `output` cannot store: Parquet needs one type per column.
    """
    num_rows = 0
    with open_rows(path, options, say) as table:
        columns = dict.fromkeys(table.columns)
        for row in table.rows:
            num_rows += 1
            if not row.keys() <= columns.keys():
                columns.update(dict.fromkeys(row))
    if format_of(output)[0] == ".parquet":
        infer_schema(output, lambda: read_rows(path, options))
    return num_rows, list(columns)


def read_rows(path: Path, options: ReadOptions = DEFAULTS, say: Say = _nobody) -> Iterator[Row]:
    """Rows of a file, directory or pattern in order.

    Raises ValueError that names the file and the line.
    """
    with open_rows(path, options, say) as table:
        yield from table.rows


@contextmanager
def open_rows(
    path: Path, options: ReadOptions = DEFAULTS, say: Say = _nobody, *, named: bool = True
) -> Iterator[Opened]:
    """Open a file, directory or pattern.

    Raises ValueError, also while rows are read, that names the line, and the file if `named` or
    if there are several.
    """
    with explained(path, options, named=named):
        files = shards(path, say)
    if len(files) > 1:
        say(f"{len(files)} files, from `{files[0].name}` to `{files[-1].name}`")
    named = named or len(files) > 1
    with ExitStack() as stack:
        with explained(files[0], options, named=named):
            first = _open(files[0], options, say, stack)
        rows = _explained_rows(first.rows, files[0], options, named)
        yield replace(first, rows=chain(rows, _others(first, files, options, say)))


def _others(first: Opened, files: list[Path], options: ReadOptions, say: Say) -> Iterator[Row]:
    """Yield the rows of all files but the first; they must have the columns of the first."""
    for file in files[1:]:

        def say_file(note: str, name: str = file.name) -> None:
            say(f"`{name}`: {note}")

        with ExitStack() as stack:
            with explained(file, options, named=True):
                table = _open(file, options, say_file, stack)
                if table.columns and first.columns and {*table.columns} != {*first.columns}:
                    raise ValueError(
                        f"the columns are {list_columns(table.columns)}, but those of "
                        f"`{files[0].name}` are {list_columns(first.columns)}"
                    )
            yield from _explained_rows(table.rows, file, options, True)


def _explained_rows(
    rows: Iterator[Row], path: Path, options: ReadOptions, named: bool
) -> Iterator[Row]:
    # Only around next: an error of the caller is not one of the file.
    with explained(path, options, named=named):
        yield from rows


def _open(path: Path, options: ReadOptions, say: Say, stack: ExitStack) -> Opened:
    suffix, _ = format_of(path)
    if options.column_names and suffix not in (".csv", ".tsv"):
        raise ValueError(f"{options.named('column_names')} is for CSV and TSV files, not {suffix}")
    if suffix == ".parquet":
        return open_parquet(path, options, stack)
    if suffix == ".json":
        return open_json(path, options, say, stack)
    if suffix in (".jsonl", ".ndjson"):
        return open_lines(path, options, say, stack)
    return open_csv(path, "\t" if suffix == ".tsv" else ",", options, say, stack)


def write_rows(
    path: Path,
    rows: Callable[[], Iterable[Row]],
    columns: list[str],
    *,
    types: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Write all rows of `rows()`; `columns` is the header of a CSV file.

    For Parquet `rows` is called twice: to infer the column types, then to write the values. A
    column in `types` has the type of the value there, whatever the rows hold.
    """
    suffix, _ = format_of(path)
    if suffix == ".parquet":
        write_parquet(path, rows, columns, types)
    elif suffix in (".jsonl", ".ndjson"):
        # A lone surrogate cannot be encoded as UTF-8; JSON can store it as an escape.
        with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
            for row in rows():
                file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
    else:
        delimiter = "\t" if suffix == ".tsv" else ","
        with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            writer = csv.writer(file, delimiter=delimiter)
            writer.writerow(columns)
            writer.writerows([_cell(row.get(column)) for column in columns] for row in rows())


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
