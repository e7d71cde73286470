"""Label Studio: the JSON export with its annotations, JSON_MIN, and CSV or TSV."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from serve.formats.options import Row
from train.init.exports.shape import Annotations, Tool, names_of

_META = frozenset(
    """
    id annotation_id annotator created_at updated_at lead_time agreement completed_by task_id
    unresolved_comment_count sentiment_agreement
    """.split()
)


def _is_json(rows: Sequence[Row]) -> bool:
    return all(
        isinstance(row.get("data"), dict)
        and isinstance(row.get("annotations", row.get("completions")), list)
        for row in rows
    )


def _read_json(rows: Iterable[Row]) -> Annotations:
    found = Annotations()
    for number, row in enumerate(rows):
        texts = {k: v for k, v in row["data"].items() if isinstance(v, str | int | float)}
        annotations = row.get("annotations", row.get("completions")) or []
        truth = [each for each in annotations if each.get("ground_truth")]
        if not annotations:
            found.left_out["not annotated"] += 1
        for annotation in truth or annotations:
            if annotation.get("was_cancelled") or annotation.get("skipped"):
                found.left_out["skipped by the annotator"] += 1
                continue
            labels = _labels(annotation.get("result") or [])
            if labels:
                found.add(row.get("id", number), texts, labels)
            else:
                found.left_out["annotated without a class"] += 1
    return found


def _labels(result: list[Any]) -> Row:
    """Return the classes of one annotation, by the name of the control they were chosen with."""
    found: dict[str, list[str]] = {}
    for region in result:
        value, name = region.get("value") or {}, str(region.get("from_name", "label"))
        if "start" in value or "end" in value:
            continue  # a span of the text
        if isinstance(value.get("choices"), list):
            found.setdefault(name, []).extend(map(str, value["choices"]))
        elif isinstance(value.get("taxonomy"), list):
            found.setdefault(name, []).extend("/".join(map(str, p)) for p in value["taxonomy"])
        elif isinstance(value.get("rating"), int):
            found.setdefault(name, []).append(str(value["rating"]))
    return {name: names_of(labels) for name, labels in found.items()}


def _is_table(rows: Sequence[Row]) -> bool:
    marks = {"annotation_id", "lead_time"}
    return all(marks <= row.keys() for row in rows) or any(
        _choices(value) is not None for row in rows for value in row.values()
    )


def _choices(value: Any) -> list[str] | None:
    """Return the choices of a cell that holds several: an object, or one written as JSON."""
    if isinstance(value, str) and value.lstrip().startswith('{"choices"'):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    if isinstance(value, dict) and isinstance(value.get("choices"), list):
        return [str(each) for each in value["choices"]]
    return None


def _read_table(rows: Iterable[Row]) -> Annotations:
    found = Annotations(meta=_META)
    for number, row in enumerate(rows):
        texts = {name: value for name, value in row.items() if _choices(value) is None}
        chosen = {name: c for name, value in row.items() if (c := _choices(value)) is not None}
        labels = {name: names_of(each) for name, each in chosen.items()}
        found.add(row.get("id", number), texts, labels)
    return found


TOOLS = (
    Tool(name="Label Studio (JSON)", matches=_is_json, read=_read_json),
    Tool(name="Label Studio (JSON_MIN or CSV)", matches=_is_table, read=_read_table),
)
