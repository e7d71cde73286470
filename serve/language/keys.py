"""The keys of a configuration: what values each takes, its default, its meaning, a JSON schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from pydantic import BaseModel

JSON_SCHEMA = "https://json-schema.org/draft/2020-12/schema"

_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_KINDS = {"boolean": "true, false", "object": "mapping", "array": "list", "string": "text"}


@dataclass(frozen=True, kw_only=True)
class Key:
    """One key, as people read about it."""

    name: str
    values: str
    default: str | None
    """As JSON; None if the key is required."""
    meaning: str


def sections(schema: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """A schema and those inside it, each with the dotted prefix of its keys."""
    yield prefix, schema
    for name, field in schema.model_fields.items():
        for inner in (field.annotation, *get_args(field.annotation)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                entry = "NAME." if get_origin(field.annotation) is dict else ""
                yield from sections(inner, f"{prefix}{name}.{entry}")


def keys_of(schema: type[BaseModel], prefix: str = "") -> Iterator[Key]:
    """The keys of one section, without those of sections inside it."""
    properties = schema.model_json_schema()["properties"]
    for name, field in schema.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            continue
        default = _plain(field.get_default(call_default_factory=True))
        yield Key(
            name=f"{prefix}{name}",
            values=kind_of(properties[name]),
            default=None if field.is_required() else json.dumps(default, ensure_ascii=False),
            meaning=" ".join((field.description or "").split()),
        )


def kind_of(schema: dict[str, Any]) -> str:
    """The values that a JSON schema takes, in a few words; null is left to the default."""
    if parts := schema.get("anyOf"):
        return " or ".join(kind_of(part) for part in parts if part.get("type") != "null")
    if "$ref" in schema:
        return "mapping"
    if choices := schema.get("enum", [schema["const"]] if "const" in schema else []):
        return ", ".join(f"`{choice}`" for choice in choices)
    bounds = " and ".join(f"{sign} {schema[key]}" for key, sign in _BOUNDS.items() if key in schema)
    return f"{_KINDS.get(schema.get('type', ''), schema.get('type', 'any'))} {bounds}".strip()


def json_schema(schema: type[BaseModel], title: str) -> dict[str, Any]:
    """Return the JSON schema of a configuration's YAML, for editors.

    It takes what `load_config` takes: where a text is expected, `2024` and `true` are that text,
    and one value is a list of one.
    """
    found = _as_read(schema.model_json_schema())
    return {"$schema": JSON_SCHEMA, **found, "title": title}


def _as_read(part: Any) -> Any:
    if isinstance(part, list):
        return [_as_read(each) for each in part]
    if not isinstance(part, dict):
        return part
    inner = {key: each if key == "default" else _as_read(each) for key, each in part.items()}
    if isinstance(inner.get("title"), str):
        del inner["title"]  # pydantic's, the name of the key over again
    if inner.get("type") == "string" and not {"enum", "const", "pattern"} & set(inner):
        return inner | {"type": ["string", "number", "boolean"]}
    if inner.get("type") == "array" and "items" in inner:
        about = {key: inner.pop(key) for key in ("description", "default") if key in inner}
        return about | {"anyOf": [inner, inner["items"]]}
    return inner


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return list(value) if isinstance(value, tuple) else value
