"""Labelbox (NDJSON), SageMaker Ground Truth (output manifest), doccano with annotation objects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from serve.formats.options import Row
from train.init.exports.shape import Annotations, Tool, names_of


def _is_labelbox(rows: Sequence[Row]) -> bool:
    return all(
        isinstance(row.get("data_row"), dict) and isinstance(row.get("projects"), dict)
        for row in rows
    )


def _read_labelbox(rows: Iterable[Row]) -> Annotations:
    found = Annotations()
    for number, row in enumerate(rows):
        source = row["data_row"]
        labels = [
            label
            for project in row["projects"].values()
            for label in (project or {}).get("labels") or []
        ]
        if not labels:
            found.left_out["not annotated"] += 1
        for label in labels:
            chosen: Row = {}
            for each in (label.get("annotations") or {}).get("classifications") or []:
                if names := _answers_of(each):
                    chosen[str(each.get("name", "label"))] = names_of(names)
            if chosen:
                found.add(source.get("id", number), {"text": source.get("row_data")}, chosen)
            else:
                found.left_out["annotated without a class, or skipped"] += 1
    return found


def _answers_of(classification: Row) -> list[str]:
    answer = classification.get("radio_answer")
    answers = [answer] if answer else classification.get("checklist_answers") or []
    return [str(each.get("name", each.get("value"))) for each in answers]


def _is_manifest(rows: Sequence[Row]) -> bool:
    return all("source" in row and _jobs(row) for row in rows)


def _jobs(row: Row) -> list[str]:
    suffix = "-metadata"
    return [
        name.removesuffix(suffix)
        for name, value in row.items()
        if name.endswith(suffix) and isinstance(value, dict) and "type" in value
    ]


def _read_manifest(rows: Iterable[Row]) -> Annotations:
    found = Annotations()
    for row in rows:
        labels: Row = {}
        for job in _jobs(row):
            metadata: Any = row[f"{job}-metadata"]
            if isinstance(metadata.get("class-map"), dict):
                labels[job] = names_of([str(each) for each in metadata["class-map"].values()])
            elif metadata.get("class-name") is not None:
                labels[job] = str(metadata["class-name"])
        if labels:
            found.add(row["source"], {"text": row["source"]}, labels)
        else:
            found.left_out["annotated without a class"] += 1
    return found


def _is_doccano(rows: Sequence[Row]) -> bool:
    return all(
        isinstance(row.get("text"), str) and isinstance(row.get("annotations"), list)
        for row in rows
    ) and any(
        isinstance(each, dict) and "label" in each for row in rows for each in row["annotations"]
    )


def _read_doccano(rows: Iterable[Row]) -> Annotations:
    found = Annotations()
    for number, row in enumerate(rows):
        by_user: dict[Any, list[str]] = {}
        for each in row["annotations"]:
            if "start_offset" not in each:
                by_user.setdefault(each.get("user"), []).append(str(each.get("label")))
        if not by_user:
            found.left_out["not annotated"] += 1
        for labels in by_user.values():
            found.add(row.get("id", number), {"text": row["text"]}, {"label": names_of(labels)})
    return found


TOOLS = (
    Tool(name="Labelbox", matches=_is_labelbox, read=_read_labelbox),
    Tool(name="SageMaker Ground Truth", matches=_is_manifest, read=_read_manifest),
    Tool(name="doccano (annotations)", matches=_is_doccano, read=_read_doccano),
)
