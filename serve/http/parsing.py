"""JSON bodies to models, with a RequestError that names what is wrong.

JSON is read strictly: a name that appears twice in an object is refused, since parsers differ
in which one they take. A byte order mark at the start is skipped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, TypeVar, get_args

import pydantic_core
from pydantic import BaseModel, ValidationError

from serve.http.schemas import RequestError
from serve.language.spelling import did_you_mean, shown

MAX_ERRORS = 100
"""Errors of a body up to which the first is named: listing more takes as long as a prediction."""

_BOM = b"\xef\xbb\xbf"
_NAME = re.compile(rb'"\s*:')

Body = TypeVar("Body", bound=BaseModel)


def parse(model: type[Body], body: bytes) -> Body:
    """Parse a body; RequestError 400 if it is not JSON, 422 if it does not fit the schema."""
    body = body.removeprefix(_BOM)
    try:
        parsed = model.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(error, model) from None
    refuse_duplicates(body, "the body")
    return parsed


def parse_value(text: bytes, name: str) -> Any:
    """Parse any JSON value; RequestError 400 that names it, such as `lines.3`."""
    try:
        value = pydantic_core.from_json(text)
    except ValueError as error:
        message = f"`{name}` is not valid JSON: {_json_problem(str(error))}"
        raise RequestError(400, message, field=name) from None
    refuse_duplicates(text, f"`{name}`")
    return value


def refuse_duplicates(text: bytes, what: str) -> None:
    """Raise RequestError 422 if an object in valid JSON has the same name twice.

    This is a second pass over the text, as the first parser keeps the last value silently; a
    text with at most one name is spared.
    """
    first = _NAME.search(text)
    if first and _NAME.search(text, first.end()):
        try:
            _STRICT.decode(text.decode())
        except _TwiceError as error:
            name = shown(str(error))
            raise RequestError(422, f"{what} has the field `{name}` twice", field=name) from None


class _TwiceError(Exception):
    """The name that an object has twice."""


def _pairs(pairs: list[tuple[str, Any]]) -> None:
    if len(pairs) > 1 and len(dict(pairs)) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _TwiceError(name)
            seen.add(name)


# Numbers are of no interest, and long ones are slow or refused.
_STRICT = json.JSONDecoder(object_pairs_hook=_pairs, parse_int=len, parse_float=len)


def _refusal(error: ValidationError, model: type[BaseModel]) -> RequestError:
    if (count := error.error_count()) > MAX_ERRORS:
        return RequestError(422, f"{count} fields are unknown or invalid")
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "json_invalid":
        problem = _json_problem(message.removeprefix("Invalid JSON: "))
        return RequestError(400, f"the body is not valid JSON: {problem}")
    name = ".".join(map(str, first["loc"]))
    field = shown(name)
    if first["type"] == "model_type":
        message = f"{f'field `{field}`' if field else 'the body'} must be a JSON object"
    elif first["type"] == "missing":
        message = f"field `{field}` is required"
    elif first["type"] == "extra_forbidden":
        message = f"unknown field `{field}`{did_you_mean(name, _names(model))}"
    elif field:
        message = f"field `{field}`: {message}"
    return RequestError(422, message, field=field or None)


def _json_problem(message: str) -> str:
    """The parser's words, or plainer ones where they mislead."""
    if "hex escape" in message:
        return f"half of a surrogate pair, or an incomplete \\u escape ({message})"
    if "unicode code point" in message:
        return f"it is not UTF-8 ({message})"
    return message


def _names(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted names of the fields of a model and of the models in it."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from _names(kind, f"{prefix}{name}.")
