"""Lists of labels that are written as one string: as JSON, or as Python and NumPy print them. Pure.

What is surely a list but cannot be read is refused, because each combination would become a class.
"""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
import warnings
from typing import Any

_MAX_CHARS = 100_000
_BRACKETS = ("[]", "{}", "()")
_CALL = re.compile(r"\w+\(\s*[\[{(].*\)", re.DOTALL)  # array(['a', 'b'], dtype=object)
_FROZEN = re.compile(r"(?:frozen)?set\((.*)\)", re.DOTALL)
_SURE = re.compile(r"[\[{]\s*['\"\d.+-]|[\[{].*,", re.DOTALL)
_HOT = re.compile(r"[01](?:[ ,;]+[01]){2,}")


class RowError(ValueError):
    """Why a row cannot be used."""


def listed(text: str, *, strict: bool) -> Any:
    """Return the list in a string, or the string.

    strict: whether to refuse all in brackets that is no list; otherwise only what can hardly be a
    name. Raises RowError for what is refused; an object is returned in a list.
    """
    stripped = text.strip()
    if match := _FROZEN.fullmatch(stripped):
        stripped = match[1] or "[]"
    if _HOT.fullmatch(stripped):
        return [int(digit) for digit in stripped if digit.isdigit()]
    is_call = _CALL.fullmatch(stripped) is not None
    if not is_call and (len(stripped) < 2 or stripped[0] + stripped[-1] not in _BRACKETS):
        return text
    made = _parsed(stripped) if len(stripped) <= _MAX_CHARS else None
    if isinstance(made, dict):
        return [made]  # refused by its kind
    if isinstance(made, list | tuple):
        return list(made)
    if isinstance(made, set):
        return sorted(made, key=str)
    is_list = is_call or made is _JOINED or _SURE.match(stripped)
    if is_list or (strict and stripped[0] in "[{"):
        raise RowError(f"the label {text[:60]!r} looks like a list, but is not written as JSON")
    return text


_JOINED = object()
"""A list without commas, as NumPy prints it: Python would join its strings."""


def _parsed(text: str) -> Any:
    """Return the value of JSON or of a Python literal, None if it is neither."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in strings
        try:
            tree = ast.parse(text, mode="eval")
            made = ast.literal_eval(tree)
            tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            return None
    strings = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and _is_text(n.value)]
    written = sum(token.type == tokenize.STRING for token in tokens)
    return made if written == len(strings) else _JOINED


def _is_text(value: object) -> bool:
    return isinstance(value, str | bytes)
