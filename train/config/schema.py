"""The fields of TrainingArguments as keys of a run, and the JSON schema of a run's YAML."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from serve.language.keys import Key, json_schema
from train.config.run import RunConfig
from train.config.trainer_keys import OWNED, fields, help_texts

_TYPES = {
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "Literal[False]": "boolean",
    "None": "null",
    "dict": "object",
    "list": "array",
}


def run_schema() -> dict[str, Any]:
    """Return the schema; without transformers, `trainer` is any mapping."""
    schema = json_schema(RunConfig, "Textloop run")
    properties = {
        name: {"type": _types(kind), "description": help_texts().get(name, "")}
        for name, kind in _settable().items()
    }
    if properties:
        extra = {"additionalProperties": False, "properties": properties}
        schema["properties"]["trainer"] |= extra
    return schema


def trainer_keys() -> Iterator[Key]:
    """The keys of `trainer`; none without transformers."""
    for name, kind in _settable().items():
        meaning = help_texts().get(name, "")
        yield Key(
            name=f"trainer.{name}",
            values=" or ".join(each for each in _types(kind) if each != "null"),
            default="see docs/training.md",
            meaning=meaning,
        )


def _settable() -> dict[str, str]:
    return {name: kind for name, kind in fields().items() if name not in OWNED}


def _types(annotation: str) -> list[str]:
    parts = (part.strip() for part in annotation.split("|"))
    names = [part if part.startswith("Literal") else part.partition("[")[0] for part in parts]
    return list(dict.fromkeys(_TYPES.get(name, "string") for name in names))
