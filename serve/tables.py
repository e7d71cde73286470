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
from typing import Any

Row = dict[str, Any]
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


def blocks(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    """Consecutive lists of `size` rows, the last one shorter."""
    iterator = iter(rows)
    while block := list(islice(iterator, size)):
        yield block


def count_rows(path: Path) -> int:
    """Number of rows in the file; reads it once, keeps nothing."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as parquet

        return int(parquet.read_metadata(path).num_rows)
    return sum(1 for _ in read_rows(path))


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
        yield from _read_csv(path)


def write_rows(path: Path, rows: Callable[[], Iterable[Row]], columns: list[str]) -> None:
    """Write all rows of `rows()`; `columns` is the header of a CSV file.

    Parquet asks for the rows twice: first for the types of the columns, then for the values.
    """
    if path.suffix == ".jsonl":
        with path.open("w", encoding="utf-8") as file:
            for row in rows():
                file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
    elif path.suffix == ".parquet":
        _write_parquet(path, rows)
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
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


def _read_csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)  # the default refuses texts over 131,072 characters
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=_delimiter(path))
        header = next(reader, None)
        if not header:
            raise ValueError(f"`{path}` is empty, expected a header line")
        for values in reader:
            if not values:
                continue
            if len(values) != len(header):
                raise ValueError(
                    f"`{path}`, line {reader.line_num}: {len(values)} values for "
                    f"{len(header)} columns; quote values that hold the delimiter"
                )
            yield dict(zip(header, values, strict=True))


def _write_parquet(path: Path, rows: Callable[[], Iterable[Row]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    schema = pa.schema([])
    for block in blocks(rows(), 8192):
        schema = pa.unify_schemas(
            [schema, pa.Table.from_pylist(block).schema], promote_options="permissive"
        )
    with parquet.ParquetWriter(path, schema) as writer:
        for block in blocks(rows(), 8192):
            writer.write_table(pa.Table.from_pylist(block, schema=schema))


def _delimiter(path: Path) -> str:
    return "\t" if path.suffix == ".tsv" else ","


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
