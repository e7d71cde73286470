"""Rows that callers in Python have in memory, as a file that the stages read.

pandas and polars are told by their type's module, so that none is imported here.
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from serve.files import open_atomic


def is_source(data: Any) -> bool:
    """Whether it names a file or another source, and holds no rows."""
    return isinstance(data, str | Path)


def write_rows_of(data: Any, file: Path) -> Mapping[str, Any]:
    """Write the rows of a frame or of a list of mappings as JSON lines; return the first.

    Raises TypeError for what has no rows, ValueError if there is none, or for a value that JSON
    cannot hold.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    first: Mapping[str, Any] | None = None
    with open_atomic(file) as stream:
        for number, row in enumerate(_rows(data)):
            if not isinstance(row, Mapping):
                raise TypeError(
                    f"row {number}: expected a mapping of columns to values, got "
                    f"{type(row).__name__}; give a DataFrame or a list of dicts"
                )
            plain = {str(name): _plain(value, number, name) for name, value in row.items()}
            first = first or plain
            stream.write(json.dumps(plain, ensure_ascii=False).encode("utf-8", "surrogatepass"))
            stream.write(b"\n")
        if first is None:
            raise ValueError("the data have no rows")
    return first


def _rows(data: Any) -> Iterator[Any]:
    library, kind = type(data).__module__.partition(".")[0], type(data).__name__
    if library == "pandas" and kind == "DataFrame":
        names = [str(name) for name in data.columns]
        columns = [data.iloc[:, place].tolist() for place in range(len(names))]
        return (dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True))
    if library == "polars" and kind == "DataFrame":
        return iter(data.iter_rows(named=True))
    if library == "pyarrow" and kind == "Table":
        return (row for batch in data.to_batches() for row in batch.to_pylist())
    if isinstance(data, Mapping | bytes) or not isinstance(data, Iterable):
        raise TypeError(f"expected a DataFrame, a list of dicts, or the path of a file; got {kind}")
    return iter(data)


def _plain(value: Any, row: int, column: Any) -> Any:
    """A value as JSON has it. NaN and other missing values are null."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | bool | int):
        return value
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, list | tuple | set | frozenset | np.ndarray):
        items = sorted(value) if isinstance(value, set | frozenset) else value
        return [_plain(item, row, column) for item in items]
    if isinstance(value, Mapping):
        return {str(key): _plain(item, row, column) for key, item in value.items()}
    raise ValueError(
        f"row {row}, column {column!r}: a value of type {type(value).__name__} is neither text, "
        "number nor list; convert or drop the column"
    )
