"""What is wrong with a configuration, key by key, in the terms of its YAML."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from serve.language.spelling import closest, did_you_mean, shown

_WORDS = {
    "tuple_type": "Input should be a list",
    "list_type": "Input should be a list",
    "set_type": "Input should be a list",
    "dict_type": "Input should be a mapping of keys to values",
    "model_type": "Input should be a section of keys and values",
    "model_attributes_type": "Input should be a section of keys and values",
    "string_type": "Input should be a text",
    "path_type": "Input should be a path",
    "too_short": "Input should have {min_length} or more values",
    "too_long": "Input should have {max_length} or fewer values",
    "string_too_short": "Input should have {min_length} or more characters",
    "string_too_long": "Input should have {max_length} or fewer characters",
    "string_pattern_mismatch": "Input should match the pattern {pattern}",
}
"""Messages in place of pydantic's, which speak of Python's types; by type of error."""


def branches(annotation: Any) -> list[Any]:
    """The types that a field takes, without those of metadata; NoneType stands for null."""
    if get_origin(annotation) is Annotated:
        return branches(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [each for part in get_args(annotation) for each in branches(part)]
    return [annotation]


def key_names(schema: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted names of all keys and sections."""
    for name, field in schema.model_fields.items():
        yield f"{prefix}{name}"
        for kind in branches(field.annotation):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from key_names(kind, f"{prefix}{name}.")


def explain(error: ValidationError, schema: type[BaseModel]) -> str:
    """Say what is wrong with each offending key, in one line."""
    found: dict[tuple[str, ...], list[tuple[tuple[str, ...], Any]]] = {}
    items = [(*_path(schema, item["loc"]), item) for item in error.errors(include_url=False)]
    for path, choice, item in items:
        # A list whose values are wrong is also one without values.
        is_shorter = item["type"] == "too_short"
        if not is_shorter or not any(each[: len(path)] == path != each for each, _, _ in items):
            found.setdefault(choice or path, []).append((path, item))
    lines = []
    for group in found.values():
        # Of the types that a key takes, the one that was meant is that whose error lies deepest.
        deepest = max(len(path) for path, _ in group)
        by_path: dict[tuple[str, ...], list[Any]] = {}
        for path, item in group:
            if len(path) == deepest:
                by_path.setdefault(path, []).append(item)
        lines += [_line(schema, path, items) for path, items in by_path.items()]
    return "; ".join(lines)


def _path(schema: Any, location: tuple[int | str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The keys of a location, and those up to the first of several types, if there are any.

    Pydantic puts the names of types and validators between the keys.
    """
    path: list[str] = []
    choice: tuple[str, ...] = ()
    kinds = [schema]
    for part in location:
        name = str(part)
        inner: list[Any] | None = None
        for kind in kinds:
            origin, arguments = get_origin(kind), get_args(kind)
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                if name in kind.model_fields:
                    inner = branches(kind.model_fields[name].annotation)
                elif len(kinds) == 1 and not name.startswith("function-"):
                    inner = []
            elif origin is dict and len(kinds) == 1 and name != "[key]":
                inner = branches(arguments[1])
            elif origin in (tuple, list, set) and isinstance(part, int):
                inner = branches(arguments[0])
        if inner is not None:
            path.append(name)
            kinds = [kind for kind in inner if kind is not NoneType]
        elif len(kinds) > 1:
            choice = choice or tuple(path)
            kinds = [kind for kind in kinds if _is_label(name, kind)][:1]
        elif not kinds:
            path.append(name)
    return tuple(path), choice


def _is_label(label: str, kind: Any) -> bool:
    """Whether pydantic's label, such as `dict[str,float]`, is that of a type."""
    name = getattr(get_origin(kind) or kind, "__name__", str(kind))
    return label.lower().startswith(name.lower())


def _line(schema: type[BaseModel], path: tuple[str, ...], items: list[Any]) -> str:
    key, first = ".".join(path), items[0]
    if first["type"] == "extra_forbidden":
        known: Any = schema
        for part in path[:-1]:
            field = getattr(known, "model_fields", {}).get(part)
            sections = branches(field.annotation) if field else []
            known = next((kind for kind in sections if hasattr(kind, "model_fields")), None)
        names = ", ".join(getattr(known, "model_fields", {})) or "none here"
        hint = did_you_mean(key, key_names(schema))
        return f"unknown key `{shown(key)}`; known: {names}{hint}"
    if first["type"] == "missing":
        return f"key `{key}` is required"
    messages = list(dict.fromkeys(_message(item) for item in items))
    start = "Input should be "
    if len(messages) > 1 and all(message.startswith(start) for message in messages):
        messages = [messages[0], *(message.removeprefix(start) for message in messages[1:])]
    # A check of a whole section names its key itself.
    is_section = first["type"] == "value_error" and isinstance(first["input"], dict)
    value = f"`{shown(key)}` = {shown(repr(first['input']))}: "
    prefix = value if key and not is_section else ""
    return f"{prefix}{' or '.join(messages)}{_close_choice(items)}"


def _message(item: Any) -> str:
    words = _WORDS.get(item["type"])
    if words is None:
        return str(item["msg"]).removeprefix("Value error, ")
    return words.format(**item.get("ctx", {}))


def _close_choice(items: list[Any]) -> str:
    """The one of the listed values that a text may stand for."""
    value = items[0]["input"]
    choices = [
        choice
        for item in items
        if item["type"] == "literal_error"
        for choice in re.findall(r"'([^']*)'", item["ctx"]["expected"])
    ]
    found = closest(value, choices) if isinstance(value, str) else None
    return f"; did you mean {found!r}?" if found else ""
