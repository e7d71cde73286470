"""The reference of all configuration keys, generated from the configuration classes.

`python -m tests.config_reference` writes docs/configuration.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from serve.settings import ServeConfig
from train.config.run import RunConfig

PAGE = Path(__file__).parent.parent / "docs" / "configuration.md"
WRITE = "python -m tests.config_reference"


def sections(schema: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """A schema and those inside it, each with the dotted prefix of its keys."""
    yield prefix, schema
    for name, field in schema.model_fields.items():
        for inner in (field.annotation, *get_args(field.annotation)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                entry = "NAME." if get_origin(field.annotation) is dict else ""
                yield from sections(inner, f"{prefix}{name}.{entry}")


def key_table(schema: type[BaseModel], prefix: str) -> str:
    """The keys of one section, without those of sections inside it."""
    lines = ["| key | values | default | meaning |", "| --- | --- | --- | --- |"]
    properties = schema.model_json_schema()["properties"]
    for name, field in schema.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            continue
        default: Any = field.get_default(call_default_factory=True)
        shown = "required" if field.is_required() else f"`{json.dumps(_plain(default))}`"
        text = " ".join((field.description or "").split())
        cells = [f"`{prefix}{name}`", kind_of(properties[name]), shown, text]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def kind_of(schema: dict[str, Any]) -> str:
    """The values that a JSON schema takes, in a few words; null is left to the default."""
    if parts := schema.get("anyOf"):
        return " or ".join(kind_of(part) for part in parts if part.get("type") != "null")
    if "$ref" in schema:
        return "mapping"
    if choices := schema.get("enum", [schema["const"]] if "const" in schema else []):
        return ", ".join(f"`{choice}`" for choice in choices)
    limits = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = " and ".join(f"{sign} {schema[key]}" for key, sign in limits.items() if key in schema)
    kind = {"boolean": "true, false", "object": "mapping", "array": "list", "string": "text"}
    return f"{kind.get(schema.get('type', ''), schema.get('type', 'any'))} {bounds}".strip()


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return list(value) if isinstance(value, tuple) else value


def reference() -> str:
    """The page of all configuration keys."""
    parts = [
        "# Configuration",
        f"Generated from the configuration classes by `{WRITE}`; do not edit by hand.",
        "A run is one YAML file, given to every stage with `--config`; `key.sub=value` arguments "
        "override it. The server takes a YAML file with `--config`, `key=value` arguments, and "
        "`--host`, `--port`, `--device`. `null` means not set. Unknown keys are refused.",
    ]
    for title, schema in (("Run", RunConfig), ("Server", ServeConfig)):
        parts.append(f"## {title}")
        for prefix, section in sections(schema):
            if prefix:
                parts.append(f"### {prefix.removesuffix('.')}")
                parts.append(" ".join((section.__doc__ or "").split()))
            parts.append(key_table(section, prefix))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(reference())
    print(f"wrote {PAGE}")
