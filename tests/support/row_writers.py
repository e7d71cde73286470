"""Files of rows as other programs write them."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve.formats.options import ReadOptions
from serve.tables import DEFAULTS

Rows = list[dict[str, str]]


@dataclass(frozen=True)
class Writer:
    """One way to write rows of strings."""

    suffix: str
    write: Callable[[Path, Rows], Any]
    options: ReadOptions = DEFAULTS
    unfit: str = ""
    """Characters that this way of writing loses."""

    doubt: str = ""
    """Pattern of the note where the bytes alone do not tell what was written."""


def _frame(rows: Rows) -> Any:
    import pandas

    return pandas.DataFrame(rows, dtype="object")


def _pandas(method: str, **options: Any) -> Callable[[Path, Rows], Any]:
    return lambda path, rows: getattr(_frame(rows), method)(path, **options)


def _pandas_parquet(path: Path, rows: Rows) -> None:
    _frame(rows).to_parquet(path)


def _polars(method: str, **options: Any) -> Callable[[Path, Rows], Any]:
    import polars

    return lambda path, rows: getattr(polars.DataFrame(rows), method)(path, **options)


def _csv(**options: Any) -> Callable[[Path, Rows], Any]:
    def write(path: Path, rows: Rows) -> None:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, **options)
            writer.writerow(rows[0])
            writer.writerows(row.values() for row in rows)

    return write


def _excel(delimiter: str, encoding: str) -> Callable[[Path, Rows], Any]:
    """What Excel saves: a byte order mark, CRLF between rows, LF within a cell."""

    def quoted(value: str) -> str:
        if any(mark in value for mark in f'"\r\n,;{delimiter}'):
            return '"' + value.replace('"', '""') + '"'
        return value

    def write(path: Path, rows: Rows) -> None:
        lines = [list(rows[0]), *(list(row.values()) for row in rows)]
        text = "".join(delimiter.join(map(quoted, line)) + "\r\n" for line in lines)
        path.write_bytes(text.encode(encoding))

    return write


def _compressed(path: Path, rows: Rows) -> None:
    made = io.StringIO()
    _frame(rows).to_csv(made, index=False)
    path.write_bytes(gzip.compress(made.getvalue().encode()))


def _lines(path: Path, rows: Rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


EMPTY = "empty lines are skipped"
ENDS = "lines end in LF and in CRLF"  # pandas does not quote a carriage return
TAB = {"sep": "\t", "index": False}
UNQUOTED = ReadOptions(quoting="none", key="data.")
WRITERS = {
    "pandas csv": Writer(".csv", _pandas("to_csv", index=False), doubt=ENDS),
    "pandas csv, all quoted": Writer(".csv", _pandas("to_csv", index=False, quoting=1)),
    "pandas tsv": Writer(".tsv", _pandas("to_csv", **TAB), doubt=ENDS),
    "pandas tsv, all quoted": Writer(".tsv", _pandas("to_csv", **TAB, quoting=1)),
    "pandas json records": Writer(".json", _pandas("to_json", orient="records")),
    "pandas json columns": Writer(".json", _pandas("to_json", orient="columns")),
    "pandas json index": Writer(".json", _pandas("to_json", orient="index")),
    "pandas json split": Writer(".json", _pandas("to_json", orient="split")),
    "pandas json table": Writer(".json", _pandas("to_json", orient="table", index=False)),
    "pandas jsonl": Writer(".jsonl", _pandas("to_json", orient="records", lines=True)),
    "pandas parquet": Writer(".parquet", _pandas_parquet),
    "polars csv": Writer(".csv", _polars("write_csv")),
    "polars csv, all quoted": Writer(".csv", _polars("write_csv", quote_style="always")),
    "polars tsv": Writer(".tsv", _polars("write_csv", separator="\t")),
    "polars tsv, never quoted": Writer(
        ".tsv",
        _polars("write_csv", separator="\t", quote_style="never"),
        UNQUOTED,
        unfit="\t\r\n",
        doubt=EMPTY,
    ),
    "polars json": Writer(".json", _polars("write_json")),
    "polars ndjson": Writer(".ndjson", _polars("write_ndjson")),
    "polars parquet": Writer(".parquet", _polars("write_parquet")),
    "csv excel": Writer(".csv", _csv(dialect="excel")),
    "csv excel-tab": Writer(".tsv", _csv(dialect="excel-tab")),
    "csv unix": Writer(".csv", _csv(dialect="unix")),
    "csv with pipes": Writer(".csv", _csv(delimiter="|"), ReadOptions(delimiter="|", key="data.")),
    "csv escaped": Writer(
        ".csv",
        _csv(quoting=csv.QUOTE_NONE, escapechar="\\", quotechar='"'),
        unfit="\\",
        doubt="a backslash at the end of a line is read as text|more values than columns",
    ),
    "tsv without quotes": Writer(
        ".tsv",
        _csv(delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None),
        doubt="quoted as in CSV",
    ),
    "tsv without quotes, told so": Writer(
        ".tsv", _csv(delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None), UNQUOTED
    ),
    "excel csv with semicolons": Writer(".csv", _excel(";", "utf-8-sig"), doubt=EMPTY),
    "excel unicode text": Writer(".txt.tsv", _excel("\t", "utf-16"), doubt=EMPTY),
    "gzip": Writer(".csv.gz", _compressed, doubt=ENDS),
    "json lines": Writer(".jsonl", _lines),
}
