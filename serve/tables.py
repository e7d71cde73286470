"""Rows of a JSONL, CSV, TSV or Parquet file, read and written one block at a time.

Decides the file formats of `python -m serve predict`. A row is a dict of column to value;
CSV values are strings and stay what they are ("NA" and "007" included).
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TextIO, TypeVar

Row = dict[str, Any]
T = TypeVar("T")
SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")


def check_format(path: Path) -> None:
    """Raise ValueError unless the file's suffix names a format that is known here."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"`{path}`: unknown format, expected a name in {', '.join(SUFFIXES)}")
    if path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise ValueError(
                f"`{path}`: Parquet needs pyarrow; pip install 'textloop[parquet]'"
            ) from None


def blocks(rows: Iterable[T], size: int) -> Iterator[list[T]]:
    """Consecutive lists of `size` rows, the last one shorter."""
    iterator = iter(rows)
    while block := list(islice(iterator, size)):
        yield block


def survey(path: Path, *, output: Path) -> tuple[int, list[str]]:
    """Number of rows and names of all columns, in the order in which they appear.

    Reads the file once, keeps nothing. Raises ValueError for rows that cannot be read, and
    for ones that `output` cannot hold: Parquet wants one type per column.
    """
    num_rows = 0
    columns: dict[str, None] = {}
    for block in blocks(read_rows(path), 8192):
        num_rows += len(block)
        for row in block:
            columns.update(dict.fromkeys(row))
    if output.suffix == ".parquet":
        _parquet_schema(output, lambda: read_rows(path))
    return num_rows, list(columns)


def read_rows(path: Path) -> Iterator[Row]:
    """Rows of the file in order. Raises ValueError that names the line it cannot read."""
    if path.suffix == ".jsonl":
        yield from _read_jsonl(path)
    elif path.suffix == ".parquet":
        import pyarrow.parquet as parquet

        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                yield from batch.to_pylist()
    else:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from read_csv(file, str(path), delimiter=_delimiter(path))


def write_rows(path: Path, rows: Callable[[], Iterable[Row]], columns: list[str]) -> None:
    """Write all rows of `rows()`; `columns` is the header of a CSV file.

    Parquet asks for the rows twice: first for the types of the columns, then for the values.
    """
    if path.suffix == ".jsonl":
        # Half of a character pair cannot be UTF-8; JSON can hold it as an escape.
        with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
            for row in rows():
                file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
    elif path.suffix == ".parquet":
        _write_parquet(path, rows)
    else:
        with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            writer = csv.writer(file, delimiter=_delimiter(path))
            writer.writerow(columns)
            writer.writerows([_cell(row.get(column)) for column in columns] for row in rows())


def _read_jsonl(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"`{path}`, line {number}: not valid JSON: {error}") from None
            if not isinstance(row, dict):
                raise ValueError(f"`{path}`, line {number}: expected a JSON object")
            yield row


def read_csv(file: TextIO, name: str, *, delimiter: str) -> Iterator[Row]:
    """Rows of an open CSV file, every value the string that stands there.

    file: opened with newline="". name: for messages. Raises ValueError for a line that has
    not as many values as the header, and for a header that names a column twice.
    """
    csv.field_size_limit(sys.maxsize)  # the default refuses texts over 131,072 characters
    reader = csv.reader(file, delimiter=delimiter)
    header = next(reader, None)
    if not header:
        raise ValueError(f"`{name}` is empty, expected a header line")
    if len(set(header)) < len(header):
        twice = next(column for column in header if header.count(column) > 1)
        raise ValueError(f"`{name}` has two columns `{twice}`; rename one")
    for values in reader:
        if not values:
            continue
        if len(values) != len(header):
            raise ValueError(
                f"`{name}`, line {reader.line_num}: {len(values)} values for "
                f"{len(header)} columns; quote values that hold the delimiter"
            )
        yield dict(zip(header, values, strict=True))


def _write_parquet(path: Path, rows: Callable[[], Iterable[Row]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    schema = _parquet_schema(path, rows)
    with parquet.ParquetWriter(path, schema) as writer:
        for block in blocks(rows(), 8192):
            writer.write_table(pa.Table.from_pylist([_encodable(r) for r in block], schema=schema))


def _parquet_schema(path: Path, rows: Callable[[], Iterable[Row]]) -> Any:
    """One type per column that holds all rows; ValueError if there is none."""
    import pyarrow as pa

    schema = pa.schema([])
    try:
        for block in blocks(rows(), 8192):
            # Not Table.from_pylist: it takes the columns of the first row for those of all.
            names = dict.fromkeys(name for row in block for name in row)
            clean = [_encodable(row) for row in block]
            table = pa.table({name: [row.get(name) for row in clean] for name in names})
            schema = pa.unify_schemas([schema, table.schema], promote_options="permissive")
    except pa.ArrowException as error:
        raise ValueError(
            f"`{path}` cannot hold these rows ({error}); write .jsonl instead"
        ) from None
    return schema


def _encodable(row: Row) -> Row:
    """The row with halves of character pairs, which cannot be UTF-8, written as escapes."""
    return {
        name: value.encode("utf-8", "backslashreplace").decode()
        if isinstance(value, str) and not value.isascii()
        else value
        for name, value in row.items()
    }


def _delimiter(path: Path) -> str:
    return "\t" if path.suffix == ".tsv" else ","


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
