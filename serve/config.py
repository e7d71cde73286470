"""Load a frozen, validated configuration from a YAML file and dotted overrides.

`load_config(schema, path, overrides)` reads it. The schemas define the keys: `ServeConfig` in
`serve.settings`, `RunConfig` in `train.config.run`.

YAML is read by the rules of version 1.2: `2e-5` is a number (PyYAML reads a string), `no`
and `on` are strings (PyYAML reads booleans), `12:30` is a string (PyYAML reads 750), and a
duplicate key is an error (PyYAML keeps the last).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

Schema = TypeVar("Schema", bound="Config")


class FrozenModel(BaseModel):
    """An immutable record that rejects unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Config(FrozenModel):
    """A section of a YAML configuration."""


class _Loader(yaml.SafeLoader):
    """SafeLoader with the YAML 1.2 core scalars that rejects duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                where = key_node.start_mark
                raise ValueError(f"{where.name}, line {where.line + 1}: key `{key}` appears twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":null", ":merge"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_SCALARS = {
    "bool": (r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    "int": (r"^[-+]?(?:0|[1-9][0-9_]*)$", "-+0123456789"),
    "float": (
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        "-+0123456789.",
    ),
}
for _name, (_pattern, _first) in _SCALARS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(_pattern), list(_first))


def parse_yaml(text: str) -> Any:
    """Parse one YAML document by the rules in the module docstring."""
    return yaml.load(text, Loader=_Loader)


def load_config(
    schema: type[Schema], path: str | Path | None, overrides: Sequence[str] = ()
) -> Schema:
    """Read `path`, apply `key.sub=value` overrides in order, validate against `schema`.

    Override values are parsed as YAML, so `trainer.learning_rate=2e-5` is a number and
    `data.text_columns=[a,b]` a list. path None starts from the schema's defaults.
    Raises ValueError that names every invalid key with its path.
    """
    values: Any = {}
    if path is not None:
        file = Path(path)
        if not file.is_file():
            raise ValueError(f"no configuration file at `{file}`; give its path with --config")
        try:
            values = parse_yaml(file.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"`{file}` is not valid YAML: {error}") from error
        values = {} if values is None else values
        if not isinstance(values, dict):
            raise ValueError(f"`{file}` is a {type(values).__name__}, expected `key: value` lines")
    for override in overrides:
        _apply(values, override)
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        source = f"configuration `{path}`" if path is not None else "configuration"
        raise ValueError(f"{source}: {explain(error, schema)}") from None


def _apply(values: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    if not equals or not all(dotted.split(".")):
        raise ValueError(f"override `{override}` is not of the form key.sub=value")
    *sections, last = dotted.split(".")
    for section in sections:
        inner = values.get(section)
        if inner is None:
            inner = values[section] = {}
        if not isinstance(inner, dict):
            raise ValueError(f"override `{override}`: `{section}` is a value, not a section")
        values = inner
    try:
        values[last] = parse_yaml(text)
    except yaml.YAMLError as error:
        raise ValueError(f"override `{override}`: the value is not valid YAML: {error}") from error


def explain(error: ValidationError, schema: type[Config]) -> str:
    """Say what is wrong with each offending key, in one line."""
    lines = []
    for item in error.errors():
        keys = [str(part) for part in item["loc"] if part not in ("function-after",)]
        known: Any = schema
        for key in keys[:-1]:
            field = getattr(known, "model_fields", {}).get(key)
            known = field.annotation if field else None
        key = ".".join(keys)
        if item["type"] == "extra_forbidden":
            names = ", ".join(getattr(known, "model_fields", {})) or "none here"
            lines.append(f"unknown key `{key}`; known: {names}")
        elif item["type"] == "missing":
            lines.append(f"key `{key}` is required")
        else:
            message = item["msg"].removeprefix("Value error, ")
            prefix = f"`{key}` = {item['input']!r}: " if key else ""
            lines.append(f"{prefix}{message}")
    return "; ".join(lines)
