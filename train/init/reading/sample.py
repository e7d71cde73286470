"""Read a bounded sample of a source, spread evenly over it, in the dialect that its file has.

Delimiter, encoding and a missing header are detected here, and become keys of the configuration:
a run reads the file by these keys, and guesses no more than it always does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from serve.formats.options import ReadOptions, Row, format_of
from train.data.sources import open_source
from train.init.reading.encoding import guess_encoding
from train.init.reading.header import seems_data

MAX_ROWS = 20_000
"""Rows that are kept; of more, every second, fourth ... one."""

MAX_CHARS = 64_000_000
"""Characters that are kept."""

MAX_READ_ROWS = 1_000_000
"""Rows that are read; what follows is not looked at."""

MAX_READ_CHARS = 1_000_000_000
"""Characters that are read."""

_MAX_TWICE = 50
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "`|`"}


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Rows of a source."""

    source: str
    rows: Sequence[Row]
    num_read: int
    stride: int
    """Every `stride`-th row is in `rows`."""

    reached_end: bool
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By column, the names of integer labels, if the data set declares them."""

    keys: Mapping[str, Any] = field(default_factory=dict)
    """Keys of `data` by which the rows were read."""

    notes: Sequence[str] = ()
    """How the file was read."""

    @property
    def is_whole(self) -> bool:
        """Whether the rows are all rows of the source."""
        return self.reached_end and self.stride == 1


def read_sample(source: str, keys: Mapping[str, Any]) -> Sample:
    """Read a sample. keys: those of `data` that the user set.

    Raises ValueError if the source cannot be read, or has no rows.
    """
    path = _local_file(source)
    notes = []
    keys = dict(keys)
    if path is not None and "encoding" not in keys and (found := _encoding(path)):
        keys["encoding"] = found.codec
        notes.append(f"encoding: {found.codec} ({found.reason})")
    if path is None or format_of(path)[0] not in (".csv", ".tsv"):
        sample = _read(source, keys)
    else:
        sample = _read_delimited(source, keys)
        if delimiter := sample.keys.get("delimiter"):
            notes.append(f"values are separated by {_DELIMITERS.get(delimiter, repr(delimiter))}")
        if "column_names" in sample.keys and "column_names" not in keys:
            notes.append("the first line is data, not a header: the columns are numbered")
    if not sample.rows:
        raise ValueError(f"`{source}` has no rows")
    return replace(sample, notes=(*notes, *sample.notes))


def _local_file(source: str) -> Path | None:
    """Return the path of a source that is one local file."""
    if "://" in source or source.startswith(("hub:", "sql:")) or "${" in source:
        return None
    path = Path(source)
    return path if path.is_file() else None


def _encoding(path: Path) -> Any:
    if format_of(path)[0] == ".parquet":
        return None
    try:
        return guess_encoding(path)
    except (EOFError, OSError):
        return None  # the reader says what is wrong with the file
    except ValueError as error:
        raise ValueError(f"`{path}`: {error}") from None


def _read_delimited(source: str, keys: Mapping[str, Any]) -> Sample:
    """Read a CSV or TSV file by the delimiter that gives several columns."""
    error = None
    sample = None
    try:
        sample = _read(source, keys)
    except ValueError as problem:
        error = problem
    if "delimiter" not in keys and (sample is None or _width(sample) < 2):
        for delimiter in _DELIMITERS:
            try:
                other = _read(source, {**keys, "delimiter": delimiter})
            except ValueError:
                continue
            if _width(other) > 1 and (sample is None or _width(other) > _width(sample)):
                sample = other
    if sample is None:
        assert error is not None
        raise error
    if "column_names" in keys or not seems_data(sample.rows):
        return sample
    refused: ValueError | None = None
    for width in range(_width(sample), _width(sample) + _MAX_TWICE):
        names = [f"column_{number}" for number in range(1, width + 1)]
        try:
            return _read(source, {**sample.keys, "column_names": names})
        except ValueError as error:  # values that are alike in the first row are left out above
            refused = refused or error
    assert refused is not None
    raise refused


def _width(sample: Sample) -> int:
    return len(sample.rows[0]) if sample.rows else 0


def _read(source: str, keys: Mapping[str, Any]) -> Sample:
    options = ReadOptions(
        delimiter=keys.get("delimiter"),
        encoding=keys.get("encoding"),
        quoting=keys.get("quoting", "auto"),
        max_row_bytes=keys.get("max_row_mb", 256) * 1_000_000,
        column_names=tuple(keys.get("column_names", ())),
        used=frozenset(),  # a column that appears twice is left out
        key="data.",
    )
    rows: list[Row] = []
    chars: list[int] = []
    num_read = read_chars = kept_chars = 0
    stride = 1
    reached_end = True
    with (
        TemporaryDirectory() as cache,
        open_source(source, cache_dir=Path(cache), options=options) as table,
    ):
        for row in (row for block in table.rows for row in block):
            if num_read >= MAX_READ_ROWS or read_chars >= MAX_READ_CHARS:
                reached_end = False
                break
            size = sum(map(_size, row.values()))
            if num_read % stride == 0:
                rows.append(row)
                chars.append(size)
                kept_chars += size
                while len(rows) > 1 and (len(rows) > MAX_ROWS or kept_chars > MAX_CHARS):
                    rows, chars, stride = rows[::2], chars[::2], stride * 2
                    kept_chars = sum(chars)
            num_read += 1
            read_chars += size
        notes = [note.partition("`: ")[2] or note for note in table.notes]
        return Sample(
            source=source,
            rows=rows,
            num_read=num_read,
            stride=stride,
            reached_end=reached_end,
            class_names=table.class_names,
            keys=keys,
            notes=notes,
        )


def _size(value: Any) -> int:
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, list | tuple):
        return sum(map(_size, value))
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    return 8


def flattened(row: Row, prefix: str = "", depth: int = 4) -> Iterator[tuple[str, Any]]:
    """Yield the values of a row, those within objects by their dotted path."""
    for name, value in row.items():
        if isinstance(value, dict) and value and depth and all(isinstance(k, str) for k in value):
            yield from flattened(value, f"{prefix}{name}.", depth - 1)
        else:
            yield f"{prefix}{name}", value
