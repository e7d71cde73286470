"""Argilla: records with responses, as JSON or as a data set with a column per question."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from serve.formats.options import Row
from train.init.exports.shape import Annotations, Tool, names_of

_UNSUBMITTED = ("discarded", "draft", "pending")


def _is_records(rows: Sequence[Row]) -> bool:
    return all(
        isinstance(row.get("fields"), dict) and isinstance(row.get("responses"), dict)
        for row in rows
    )


def _is_columns(rows: Sequence[Row]) -> bool:
    return all(any(name.endswith(".responses") for name in row) for row in rows)


def _is_answers(rows: Sequence[Row]) -> bool:
    return any(_answers(row) for row in rows)


def _answers(row: Row) -> dict[str, list[Row]]:
    """Return the lists of {user_id, value, status} of a row, by column."""
    return {
        name: value
        for name, value in row.items()
        if isinstance(value, list)
        and value
        and all(isinstance(each, dict) and {"value", "user_id"} <= each.keys() for each in value)
    }


def _read_records(rows: Iterable[Row]) -> Annotations:
    found = Annotations()
    for number, row in enumerate(rows):
        answers = [
            (question, each.get("value"), each.get("status"))
            for question, given in row["responses"].items()
            for each in given or []
        ]
        _add(found, row.get("id", number), dict(row["fields"]), answers)
    return found


def _read_columns(rows: Iterable[Row]) -> Annotations:
    found = Annotations()
    for number, row in enumerate(rows):
        texts = {n: v for n, v in row.items() if isinstance(v, str) and "." not in n}
        texts = {n: v for n, v in texts.items() if n not in ("id", "status", "_server_id")}
        _add(found, row.get("id", number), texts, [*_column_answers(row)])
    return found


def _column_answers(row: Row) -> Iterator[tuple[str, Any, Any]]:
    for name, values in row.items():
        question, _, what = name.rpartition(".")
        if what == "responses" and question:
            states = row.get(f"{name}.status") or [None] * len(values or [])
            for value, state in zip(values or [], states, strict=False):
                yield question, value, state


def _read_answers(rows: Iterable[Row]) -> Annotations:
    found = Annotations()
    for number, row in enumerate(rows):
        texts = {n: v for n, v in row.items() if isinstance(v, str) and not n.startswith("_")}
        answers = [
            (question, each.get("value"), each.get("status"))
            for question, given in _answers(row).items()
            for each in given
        ]
        _add(found, row.get("id", number), texts, answers)
    return found


def _add(
    found: Annotations, key: object, texts: Row, answers: Sequence[tuple[str, Any, Any]]
) -> None:
    if not answers:
        found.left_out["not annotated"] += 1
    for question, value, status in answers:
        if status in _UNSUBMITTED:
            found.left_out[f"{status} by the annotator"] += 1
        elif value is None or value == []:
            found.left_out["annotated without a class"] += 1
        elif isinstance(value, list) and any(isinstance(each, dict) for each in value):
            found.left_out["annotated with spans or ranks"] += 1
        else:
            names = value if isinstance(value, list) else [value]
            found.add(key, texts, {question: names_of([str(each) for each in names])})


TOOLS = (
    Tool(name="Argilla (records)", matches=_is_records, read=_read_records),
    Tool(name="Argilla (data set)", matches=_is_columns, read=_read_columns),
    Tool(name="Argilla (data set of version 1)", matches=_is_answers, read=_read_answers),
)
