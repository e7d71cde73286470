"""Texts and pairs of texts in JSON, in every form that clients send them.

A text is a string, or alone in a list; a pair is a list of two. Both may be an object as
pipelines take it, `{"text": ..., "text_pair": ...}`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from serve.http.schemas import RequestError
from serve.inference.text import Text, text_problem
from serve.language.spelling import did_you_mean, shown

PARTS = ("text", "text_pair")
"""Names of the parts of a pair in an object; a text of its own has the first alone."""


def inputs_field(*path: int | str) -> str:
    """The name of `inputs` of /predict, of the text at an index, or of a part of that text."""
    return ".".join(["inputs", *map(str, path)])


def to_texts(inputs: Any, *, is_pair: bool, limit: int) -> tuple[list[Text], bool]:
    """Check `inputs` of /predict: its texts, and whether it was one text rather than a list.

    limit: maximum number of texts. Raises RequestError 422 that names the field, such as
    `inputs.3` or `inputs.3.1`.
    """
    flat_pair = (
        is_pair
        and isinstance(inputs, list)
        and len(inputs) == 2
        and all(isinstance(part, str) for part in inputs)
    )
    if isinstance(inputs, str | dict) or flat_pair:
        return [_to_text(inputs, (), inputs_field, is_pair=is_pair)], True
    if not isinstance(inputs, list):
        expected = "a list of pairs of texts" if is_pair else "a string or a list of strings"
        raise _invalid(inputs_field(), f"expected {expected}, got {_kind(inputs)}")
    return list_of_texts(inputs, is_pair=is_pair, limit=limit, field=inputs_field), False


def list_of_texts(
    values: list[Any], *, is_pair: bool, limit: int, field: Callable[..., str]
) -> list[Text]:
    """Check a list of texts or pairs, one per value.

    limit: maximum number of texts. field: the name of the list, of the value at an index, or
    of a part of that value, each given as numbers. Raises RequestError 422 that names it.
    """
    if not values:
        raise _invalid(field(), "the list is empty")
    if len(values) > limit:
        raise _invalid(
            field(),
            f"{len(values)} texts, over the limit of {limit} texts; send several requests",
        )
    return [_to_text(value, (n,), field, is_pair=is_pair) for n, value in enumerate(values)]


def _to_text(
    value: Any, path: tuple[int | str, ...], field: Callable[..., str], *, is_pair: bool
) -> Text:
    names: Sequence[int | str] = (0, 1)
    if isinstance(value, dict) and not value.keys().isdisjoint(PARTS):
        value, names = _parts(value, path, field, is_pair=is_pair), PARTS
    if not is_pair:
        if isinstance(value, list) and len(value) == 1:
            value, path = value[0], (*path, names[0])
        _check(value, path, field)
        return str(value)
    if not isinstance(value, list) or len(value) != 2:
        raise _invalid(
            field(*path),
            f"this model classifies pairs, expected [text, text_pair], got {_kind(value)}",
        )
    for name, text in zip(names, value, strict=True):
        _check(text, (*path, name), field)
    return (value[0], value[1])


def _parts(
    value: dict[str, Any],
    path: tuple[int | str, ...],
    field: Callable[..., str],
    *,
    is_pair: bool,
) -> list[Any]:
    """The parts of a text or pair in an object, in order; RequestError 422 unless they fit."""
    for name in value:
        if name not in PARTS:
            wrong = field(*path, shown(name))
            hint = did_you_mean(name, PARTS)
            raise RequestError(422, f"unknown field `{wrong}`{hint}", field=wrong)
    if "text" not in value:
        raise _invalid(field(*path, "text"), "required beside `text_pair`")
    if is_pair and len(value) == 1:
        raise _invalid(
            field(*path, "text"), "this model classifies pairs, send `text_pair` as well"
        )
    if not is_pair and len(value) == 2:
        raise _invalid(field(*path, "text_pair"), "this model classifies single texts")
    return [value[name] for name in PARTS[: len(value)]]


def _check(value: Any, path: tuple[int | str, ...], field: Callable[..., str]) -> None:
    if isinstance(value, str):
        problem = text_problem(value)
    else:
        problem = f"expected a string, got {_kind(value)}"
    if problem:
        raise _invalid(field(*path), problem)


def _invalid(name: str, problem: str) -> RequestError:
    return RequestError(422, f"field `{name}`: {problem}", field=name)


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return f"a list of {len(value)}"
    names = {str: "a string", bool: "a boolean", dict: "an object", type(None): "null"}
    return names.get(type(value), "a number")
