"""Load a frozen, validated configuration from a YAML file and dotted overrides.

`load_config(schema, path, overrides)` reads it. The schemas define the keys: `ServeConfig` in
`serve.settings`, `RunConfig` in `train.config.run`; `serve.language.yaml12` has the rules of YAML.

A value is read by the type of its field: where the field takes a text, `2024`, `1.0` and `true` are
that text, and an override needs no quotes (`data.label_separator=,`, `host=::`); where it takes a
list, one value is a list of one. Values of fields without a type of their own, such as those of
`trainer`, are what YAML makes of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, Self, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from serve.language.problems import branches, explain
from serve.language.spelling import shown
from serve.language.yaml12 import parse_yaml, read_yaml

Schema = TypeVar("Schema", bound="Config")


class FrozenModel(BaseModel):
    """An immutable record that rejects unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Config(FrozenModel):
    """A section of a YAML configuration."""


def load_config(
    schema: type[Schema], path: str | Path | None, overrides: Sequence[str] = ()
) -> Schema:
    """Read `path`, apply `key.sub=value` overrides in order, validate against `schema`.

    path None starts from the schema's defaults. Raises ValueError that names every invalid key
    with its path.
    """
    values: Any = {}
    if path is not None:
        file = Path(path)
        if not file.is_file():
            what = "it is a directory" if file.is_dir() else "give its path with --config"
            raise ValueError(f"no configuration file at `{file}`; {what}")
        try:
            values = read_yaml(file, fit=lambda node: _fitted(node, schema))
        except OSError as error:
            raise ValueError(f"cannot read `{file}`: {error.strerror}") from None
        values = {} if values is None else values
        if not isinstance(values, dict):
            raise ValueError(f"`{file}` is a {type(values).__name__}, expected `key: value` lines")
    for override in overrides:
        _apply(values, override, schema)
    return _validated(schema, values, f"configuration `{path}`" if path else "configuration")


def config_of(schema: type[Schema], values: dict[str, Any]) -> Schema:
    """Validate nested keys from Python, read as those of a file. Raises ValueError likewise."""
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    read = parse_yaml(text, source="the configuration", fit=lambda node: _fitted(node, schema))
    return _validated(schema, read or {}, "configuration")


def _validated(schema: type[Schema], values: dict[str, Any], source: str) -> Schema:
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise ValueError(f"{source}: {explain(error, schema)}") from None


def _apply(values: dict[str, Any], override: str, schema: type[BaseModel]) -> None:
    dotted, equals, text = override.partition("=")
    if not equals or not all(dotted.split(".")):
        raise ValueError(f"override `{shown(override)}` is not of the form key.sub=value")
    *sections, last = dotted.split(".")
    kind: Any = schema
    for section in sections:
        kind = _Kinds.of(kind).inner(section)
        inner = values.get(section)
        if inner is None:
            inner = values[section] = {}
        if not isinstance(inner, dict):
            raise ValueError(f"override `{shown(override)}`: `{section}` is a value, not a section")
        values = inner
    kinds = _Kinds.of(_Kinds.of(kind).inner(last))
    try:
        values[last] = kinds.read(text)
    except ValueError as error:
        raise ValueError(f"override `{shown(override)}`: {error}") from None


@dataclass(frozen=True, kw_only=True)
class _Kinds:
    """What a field takes."""

    text: bool
    """A scalar can be nothing but a text."""
    null: bool
    item: Any
    """Type of a list's values; None if it takes no list."""
    value: Any
    """Type of a mapping's values; None if it takes no mapping."""
    section: Any
    """A section with keys of its own, or None."""

    @classmethod
    def of(cls, annotation: Any) -> Self:
        """Read a field's annotation; Any and None are types of their own."""
        text = other = null = False
        item = value = section = None
        for kind in branches(annotation):
            origin, arguments = get_origin(kind), get_args(kind)
            if kind is NoneType:
                null = True
            elif origin in (tuple, list, set, frozenset):
                item = arguments[0]
            elif origin is dict:
                value = arguments[1]
            elif isinstance(kind, type) and issubclass(kind, BaseModel):
                section = kind
            elif kind in (str, Path) or (
                origin is Literal and all(isinstance(each, str) for each in arguments)
            ):
                text = True
            else:
                other = True
        return cls(text=text and not other, null=null, item=item, value=value, section=section)

    def inner(self, key: str) -> Any:
        """The type of the value of a key; Any if it is not known."""
        if self.section is not None and key in self.section.model_fields:
            return self.section.model_fields[key].annotation
        return Any if self.value is None else self.value

    def read(self, text: str) -> Any:
        """The value of an override; ValueError if it is not valid YAML."""
        if not self.text:
            if self.item is not None and _wants_text(self.item) and not text.startswith("["):
                value = _Kinds.of(self.item).read(text)
                return None if self.null and _is_null(text) else [value]
            try:
                return parse_yaml(text, source="the value", fit=self._fit)
            except ValueError:
                if self.item is None or not _wants_text(self.item) or not text.endswith("]"):
                    raise
                return [part.strip() for part in text[1:-1].split(",") if part.strip()]
        if self.null and _is_null(text):
            return None
        # A list or mapping is one where the field takes it. Else `[` begins the list that somebody
        # believes it takes; `{` may begin a template.
        begins = {"[": True, "{": self.value is not None or self.section is not None}
        if begins.get(text[:1]):
            try:
                return parse_yaml(text, source="the value", fit=self._fit)
            except ValueError:
                if text[-1] not in "]}":
                    raise
                return text  # such as an address in brackets
        if text[:1] in ("'", '"') and text[-1:] == text[:1] and len(text) > 1:
            value = parse_yaml(text, source="the value")
            return value if isinstance(value, str) else text
        return text

    def _fit(self, node: yaml.Node) -> yaml.Node:
        return _fitted_kinds(node, self)


def _wants_text(annotation: Any) -> bool:
    return _Kinds.of(annotation).text


def _is_null(text: str) -> bool:
    return text in ("", "~", "null", "Null", "NULL")


_TEXT = "tag:yaml.org,2002:str"
_NULL = "tag:yaml.org,2002:null"
_MERGE = "tag:yaml.org,2002:merge"


def _fitted(node: yaml.Node, annotation: Any) -> yaml.Node:
    """A copy of a node in which scalars have the types of the fields that they are for."""
    return _fitted_kinds(node, _Kinds.of(annotation))


def _fitted_kinds(node: yaml.Node, kinds: _Kinds) -> yaml.Node:
    marks = node.start_mark, node.end_mark
    if isinstance(node, yaml.ScalarNode):
        plain = node.style is None and node.tag != _NULL
        if kinds.text and plain:
            return yaml.ScalarNode(_TEXT, node.value, *marks)
        if kinds.item is not None and not kinds.text and node.tag != _NULL:
            return yaml.SequenceNode(
                "tag:yaml.org,2002:seq", [_fitted(node, kinds.item)], *marks, flow_style=True
            )
        return node
    if isinstance(node, yaml.SequenceNode):
        values = [_fitted(value, kinds.item or Any) for value in node.value]
        return yaml.SequenceNode(node.tag, values, *marks)
    assert isinstance(node, yaml.MappingNode)
    pairs: list[tuple[yaml.Node, yaml.Node]] = []
    for key, value in node.value:
        if key.tag == _MERGE:
            merged = value.value if isinstance(value, yaml.SequenceNode) else [value]
            fitted = [_fitted_kinds(each, kinds) for each in merged]
            is_list = isinstance(value, yaml.SequenceNode)
            pairs.append(
                (key, yaml.SequenceNode(value.tag, fitted, *marks) if is_list else fitted[0])
            )
            continue
        if isinstance(key, yaml.ScalarNode) and (kinds.value is not None or kinds.section):
            key = yaml.ScalarNode(_TEXT, key.value, key.start_mark, key.end_mark)
        inner = kinds.inner(key.value) if isinstance(key, yaml.ScalarNode) else Any
        pairs.append((key, _fitted(value, inner)))
    return yaml.MappingNode(node.tag, pairs, *marks)
