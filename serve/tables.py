"""Read and write the rows of JSONL, CSV, TSV and Parquet files, one block at a time.

Defines the file formats of `python -m serve predict`. A row is a dict of column to value.
CSV values are strings and are not converted ("NA" and "007" included).
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, TextIO, TypeVar

Item = TypeVar("Item")
Row = dict[str, Any]
SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")


def check_format(path: Path) -> None:
    """Raise ValueError unless the file's suffix names a supported format."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"`{path}`: unknown format, expected one of {', '.join(SUFFIXES)}")
    if path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise ValueError(
                f"`{path}`: Parquet needs pyarrow; pip install 'textloop[parquet]'"
            ) from None


def blocks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield consecutive lists of `size` items; the last one may be shorter."""
    iterator = iter(items)
    while block := list(islice(iterator, size)):
        yield block


def survey(path: Path, *, output: Path) -> tuple[int, list[str]]:
    """Return the number of rows, and the names of all columns in order of appearance.

    Streams the file. Raises ValueError for rows that cannot be read, and for rows that
    `output` cannot store: Parquet requires one type per column.
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
    """Rows of the file in order. Raises ValueError that names the file and the line."""
    try:
        yield from parse_rows(path)
    except ValueError as error:
        raise ValueError(f"`{path}`: {error}") from None


def parse_rows(path: Path) -> Iterator[Row]:
    """Rows of the file in order. Raises ValueError that names the line but not the file."""
    try:
        yield from _parse_rows(path)
    except UnicodeDecodeError as error:
        raise ValueError(f"the file is not UTF-8 (byte {error.start})") from None
    except csv.Error as error:
        raise ValueError(str(error)) from None


def _parse_rows(path: Path) -> Iterator[Row]:
    if path.suffix == ".jsonl":
        yield from _read_jsonl(path)
    elif path.suffix == ".parquet":
        import pyarrow.parquet as parquet

        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                yield from batch.to_pylist()
    else:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from _read_csv(file, delimiter=_delimiter(path))


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
    if path.suffix == ".jsonl":
        # A lone surrogate cannot be encoded as UTF-8; JSON can store it as an escape.
        with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
            for row in rows():
                file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
    elif path.suffix == ".parquet":
        _write_parquet(path, rows, types)
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
                raise ValueError(f"line {number}: not valid JSON: {error}") from None
            if not isinstance(row, dict):
                raise ValueError(f"line {number}: expected a JSON object")
            yield row


def _read_csv(file: TextIO, *, delimiter: str) -> Iterator[Row]:
    """Rows of an open CSV file, every value the string in the file.

    file: opened with newline="". Raises ValueError for a line with more or fewer values than
    the header, and for a header with a duplicate column.
    """
    csv.field_size_limit(sys.maxsize)  # the default rejects texts over 131,072 characters
    reader = csv.reader(file, delimiter=delimiter)
    header = next(reader, None)
    if not header:
        raise ValueError("the file is empty, expected a header line")
    if len(set(header)) < len(header):
        twice = next(column for column in header if header.count(column) > 1)
        raise ValueError(f"the header has two columns `{twice}`; rename one")
    for values in reader:
        if not values:
            continue
        if len(values) != len(header):
            raise ValueError(
                f"line {reader.line_num}: {len(values)} values for "
                f"{len(header)} columns; quote values that contain the delimiter"
            )
        yield dict(zip(header, values, strict=True))


def _write_parquet(path: Path, rows: Callable[[], Iterable[Row]], types: Mapping[str, Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    schema = _parquet_schema(path, rows)
    for name, value in types.items():
        field, index = pa.field(name, pa.array([value]).type), schema.get_field_index(name)
        schema = schema.append(field) if index < 0 else schema.set(index, field)
    with parquet.ParquetWriter(path, schema) as writer:
        for block in blocks(rows(), 8192):
            writer.write_table(pa.Table.from_pylist([_encodable(r) for r in block], schema=schema))


def _parquet_schema(path: Path, rows: Callable[[], Iterable[Row]]) -> Any:
    """Infer one type per column that fits all rows. Raises ValueError if there is none."""
    import pyarrow as pa

    schema = pa.schema([])
    try:
        for block in blocks(rows(), 8192):
            # Not Table.from_pylist: it uses the columns of the first row only.
            names = dict.fromkeys(name for row in block for name in row)
            clean = [_encodable(row) for row in block]
            table = pa.table({name: [row.get(name) for row in clean] for name in names})
            schema = pa.unify_schemas([schema, table.schema], promote_options="permissive")
    except pa.ArrowException as error:
        raise ValueError(
            f"`{path}` cannot store these rows ({error}); write .jsonl instead"
        ) from None
    return schema


def _encodable(row: Row) -> Row:
    """Replace lone surrogates, which cannot be encoded as UTF-8, by escapes."""
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
