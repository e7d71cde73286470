"""Parquet: wrong files are named, odd types are written or refused before the work."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from serve.formats.options import ReadOptions
from serve.tables import read_rows, survey, write_rows


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"text,label\na,b\n", "no Parquet file: it does not begin with PAR1"),
        (b"PAR1 cut off", "rows.parquet"),
    ],
)
def test_file_that_is_no_parquet_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "rows.parquet").write_bytes(content)

    with pytest.raises(ValueError, match=message):
        list(read_rows(tmp_path / "rows.parquet"))


def test_column_that_appears_twice_is_refused_if_it_is_used(tmp_path: Path) -> None:
    table = pa.table([["a"], ["x"], ["y"]], names=["text", "label", "label"])
    parquet.write_table(table, tmp_path / "rows.parquet")

    with pytest.raises(ValueError, match="two columns `label`"):
        list(read_rows(tmp_path / "rows.parquet"))
    used = ReadOptions(used=frozenset({"text"}))
    assert list(read_rows(tmp_path / "rows.parquet", used)) == [{"text": "a"}]


@pytest.mark.parametrize("value", [2**63, 2**64 - 1, Decimal("1.50"), b"\xff", None, [1, None], ""])
def test_value_is_written_as_it_was_read(tmp_path: Path, value: Any) -> None:
    rows = [{"text": "a", "n": value}]

    write_rows(tmp_path / "rows.parquet", lambda: rows, ["text", "n"])

    assert list(read_rows(tmp_path / "rows.parquet")) == rows


@pytest.mark.parametrize("values", [(2**64, 1), (-1, 2**63), ("a", 1), ({"a": 1}, [1])])
def test_values_that_parquet_cannot_hold_are_refused_by_column(
    tmp_path: Path, values: tuple[Any, Any]
) -> None:
    lines = tmp_path / "rows.jsonl"
    write_rows(lines, lambda: [{"n": value} for value in values], ["n"])

    with pytest.raises(ValueError, match=r"cannot store these rows .*write .jsonl instead"):
        survey(lines, output=tmp_path / "out.parquet")


def test_file_without_rows_keeps_its_columns(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.parquet", lambda: [], ["text", "id"])

    assert survey(tmp_path / "rows.parquet", output=tmp_path / "a.csv") == (0, ["text", "id"])
