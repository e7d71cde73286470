"""How a file of rows is read, and what its name says about its format."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Row = dict[str, Any]
Say = Callable[[str], None]
"""Receives a note for the user, such as a delimiter that was detected."""

Quoting = Literal["auto", "csv", "none"]
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
WRITABLE = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """Choices of the user; the defaults detect what can be detected without doubt."""

    delimiter: str | None = None
    """One character between the values of CSV and TSV files; None detects it."""

    encoding: str | None = None
    """A codec of Python; None reads UTF-8, or UTF-16 and UTF-32 by their byte order mark."""

    quoting: Quoting = "auto"
    """csv: RFC 4180; none: quote marks are text; auto: csv, but TSV files may be either."""

    max_row_bytes: int = 256_000_000
    """Longest row, and largest JSON document that is not a list of rows, in bytes."""

    column_names: tuple[str, ...] = ()
    """Names of the columns of CSV and TSV files without a header; empty: the first line is one."""

    used: frozenset[str] | None = None
    """Columns that must be unique; others may appear twice and are then left out. None: all."""

    key: str = ""
    """Prefix of these options in messages, `data.` or `--`; empty if the user cannot set them."""

    def named(self, option: str) -> str:
        """The option as the user writes it."""
        return f"--{option.replace('_', '-')}" if self.key == "--" else f"{self.key}{option}"

    def remedy(self, option: str, value: str, otherwise: str) -> str:
        """Return how the user can set an option, or `otherwise` if that is not possible."""
        return f"set {self.named(option)}={value}" if self.key else otherwise


@dataclass(frozen=True, kw_only=True)
class Opened:
    """An open file."""

    columns: list[str]
    """Names in the header or schema; empty for JSON, whose rows name their own columns."""

    rows: Iterator[Row]
    """Raises ValueError that names the line but not the file."""

    metadata: dict[bytes, bytes] = field(default_factory=dict)
    """Metadata of a Parquet file."""


_ADVICE = {
    **dict.fromkeys((".xlsx", ".xls", ".ods", ".numbers"), "export the sheet as CSV"),
    **dict.fromkeys((".zip", ".bz2", ".xz", ".zst", ".tar", ".tgz"), "decompress it first"),
    **dict.fromkeys((".arrow", ".feather", ".orc", ".avro"), "write it as Parquet"),
    **dict.fromkeys((".db", ".sqlite", ".sqlite3"), "name it as sql:sqlite:///FILE#TABLE"),
    **dict.fromkeys(
        ("", ".txt", ".tab", ".dat", ".data"),
        "rename it to the format that it has, such as .tsv if tabs separate its values",
    ),
}


def format_of(name: str | Path) -> tuple[str, bool]:
    """Return the suffix in lower case without `.gz`, and whether the file is compressed.

    Raises ValueError for an unknown format.
    """
    path = Path(str(name).lower())
    compressed = path.suffix == ".gz"
    suffix = path.with_suffix("").suffix if compressed else path.suffix
    if suffix in SUFFIXES and not (compressed and suffix == ".parquet"):
        return suffix, compressed
    advice = _ADVICE.get(suffix, "write the rows as .jsonl or .csv")
    if compressed:
        advice = "decompress it first"
    expected = ", ".join(SUFFIXES)
    raise ValueError(
        f"unknown format, expected {expected}, or one of the text formats + .gz; {advice}"
    )


def as_delimiter(value: str) -> str:
    """Return the character that is meant. Raises ValueError for what cannot separate values."""
    value = {"tab": "\t", "\\t": "\t"}.get(value, value)
    if len(value) != 1 or value in '"\r\n':
        raise ValueError("expected one character, such as `;`, or `tab`")
    return value


def as_encoding(value: str) -> str:
    """Return Python's name of an encoding. Raises ValueError for an unknown one."""
    try:
        "".encode(value)  # fails for the codecs that are no encodings, such as base64
        return codecs.lookup(value).name
    except LookupError:
        raise ValueError("no encoding of that name, such as utf-8, utf-16 or cp1252") from None


def list_columns(names: Iterable[str]) -> str:
    """Quote column names for a message: 20 at most, each shortened to 40 characters."""
    known = list(names)
    shown = [f"`{name if len(name) <= 40 else name[:39] + '…'}`" for name in known[:20]]
    more = f" and {len(known) - 20} more" if len(known) > 20 else ""
    return ", ".join(shown) + more or "none"
