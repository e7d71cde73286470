"""JSON: every common layout gives the rows as written; what is no table is named by line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from serve.formats.options import ReadOptions
from serve.tables import DEFAULTS, read_rows

ROWS = [
    {"text": "2020-01-01 10:00:00", "label": "2024-01-01"},
    {"text": "bye", "label": "007"},
]
COLUMNS = {name: [row[name] for row in ROWS] for name in ROWS[0]}


def read(path: Path, content: str, options: ReadOptions = DEFAULTS) -> list[dict[str, Any]]:
    path.write_text(content)
    return list(read_rows(path, options))


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2),
        json.dumps({"data": ROWS}),
        json.dumps({"version": "1", "rows": ROWS, "empty": []}),
        json.dumps({"examples": ROWS}),
        "\n".join(map(json.dumps, ROWS)),
        "\n".join(json.dumps(row, indent=1) for row in ROWS),
        json.dumps(COLUMNS),
        json.dumps({name: dict(enumerate(values)) for name, values in COLUMNS.items()}),
        json.dumps(dict(enumerate(ROWS))),
        json.dumps({"columns": list(COLUMNS), "data": [list(row.values()) for row in ROWS]}),
        "\ufeff" + json.dumps(ROWS),
    ],
)
def test_layouts_of_json_give_the_same_rows(tmp_path: Path, content: str) -> None:
    assert read(tmp_path / "rows.json", content) == ROWS


def test_row_alone_and_a_long_list_are_read(tmp_path: Path) -> None:
    """The list is longer than the part of a file that is read at once."""
    long = [
        {"text": f"{n} " + "word " * 100, "label": [1, 2.5, None, {"a": True}]} for n in range(3000)
    ]

    assert read(tmp_path / "a.json", '{"text": "x", "label": []}') == [{"text": "x", "label": []}]
    assert read(tmp_path / "b.json", json.dumps(long)) == long


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ('[{"a": 1},\n{"a": }]', "line 2: not valid JSON"),
        ('[{"a": 1}\n{"a": 2}]', "line 2: not valid JSON: expected `,` or `]`, got `{`"),
        ('[{"a": 1},\n', "line 2: not valid JSON"),
        ('[{"a": 1}]\n[]', "line 2: more than one value"),
        ('[{"a": 1},\n[2]]', "line 2: expected a JSON object, got list"),
        ('[{"a": 1},\n{"a": 1, "a": 2}]', "line 2: the key `a` appears twice"),
        ('{"train": [{"a": 1}], "test": [{"a": 1}]}', "several lists of rows, `train`, `test`"),
        ('{"a": {"x": 1}, "b": {"y": 1}}', "rows and columns look the same"),
        ('{"a": [1, 2], "b": [1]}', "`a` and `b` do not have the same rows"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_json_that_is_no_table_is_named(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        read(tmp_path / "rows.json", content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1}\n{"a": 1, "a": 2}\n', "line 2: the key `a` appears twice in one object"),
        ('{"a": 1}\n{"a":\n', r"line 2: not valid JSON: Expecting value \(column 6\)"),
        ('{\n"a": 1\n}\n', "line 1: .*a file whose rows span lines is named .json"),
        ('{"a": 1}\n\ufeff{"a": 2}\n', "line 2: .*a byte order mark within the file"),
        ('{"a": 1}\n[1]\n', "line 2: expected a JSON object"),
        ('{"a": 1}\n{"b": ' + "[" * 100_000 + "\n", "line 2: the values are nested too deeply"),
    ],
)
def test_wrong_json_line_is_named(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "rows.ndjson", content)


def test_answer_of_the_hugging_face_server_is_read_and_a_part_is_said(tmp_path: Path) -> None:
    row = {"row_idx": 0, "row": {"text": "a", "label": 1}, "truncated_cells": []}
    answer = {"features": [], "rows": [row], "num_rows_total": 200}
    path, notes = tmp_path / "a.json", list[str]()

    path.write_text(json.dumps(answer))
    assert list(read_rows(path, say=notes.append)) == [{"text": "a", "label": 1}]
    assert notes == ["the file has 1 of the 200 rows of the data set"]

    path.write_text(json.dumps({"rows": [row | {"truncated_cells": ["text"]}]}))
    with pytest.raises(ValueError, match="row 0: the value of `text` is cut off"):
        list(read_rows(path))


def test_large_value_is_refused_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "rows.json.gz"
    path.write_bytes(gzip.compress(b'[{"text": "' + b"a" * 5_000_000))

    with pytest.raises(ValueError, match="line 1: a value is longer than 1 MB"):
        list(read_rows(path, ReadOptions(max_row_bytes=1_000_000)))
