"""Find the values of a row, build one text from several, and words from times.

Implements `data.template` and `data.derive`. The model is trained on the filled-in template, so
clients must send texts in the same format: the server does not fill in templates.
"""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from typing import Any

from train.config.template_spec import Feature

_WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
_MONTHS = (
    "January February March April May June July August September October November December"
).split()
_TIMES_OF_DAY = ("night", "morning", "afternoon", "evening")
"""Six hours each, starting at midnight."""

_FEATURES: dict[Feature, Callable[[datetime], str]] = {
    "hour": lambda time: f"{time.hour:02d}",
    "time_of_day": lambda time: _TIMES_OF_DAY[time.hour // 6],
    "weekday": lambda time: _WEEKDAYS[time.weekday()],
    "month": lambda time: _MONTHS[time.month - 1],
}


def fill(template: str, values: Mapping[str, str]) -> str:
    """Replace each name in the template by its value, and strip the result.

    Empty if all values are: the literal text alone is not worth classifying.
    """
    if not any(value.strip() for value in values.values()):
        return ""
    made = []
    for literal, name, _, _ in string.Formatter().parse(template):
        made.append(literal)
        if name is not None:
            made.append(values[name])
    return "".join(made).strip()


def value_of(row: Mapping[str, Any], column: str) -> Any:
    """Return a value of a row: of a column, or by a dotted path into objects, such as `data.text`.

    None if there is none.
    """
    if column in row or "." not in column:
        return row.get(column)
    value: Any = row
    for name in column.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def has_column(row: Mapping[str, Any], column: str) -> bool:
    """Whether a row has a column, or the objects of a dotted path."""
    if column in row or "." not in column:
        return column in row
    outer, _, name = column.rpartition(".")
    inner = value_of(row, outer)
    return isinstance(inner, Mapping) and name in inner


def cell(value: object) -> str:
    """Return a column's value as text, empty if it is missing.

    Raises ValueError for a compound value, such as a list, and for NaN.
    """
    if value is None:
        return ""
    if isinstance(value, list | dict | bytes):
        raise ValueError(f"expected text or a number, got {type(value).__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"expected text or a number, got {value}; if it is missing, leave it out")
    return str(value)


def derive(value: Any, feature: Feature) -> str:
    """Return a word for a time: a datetime, a date, ISO 8601 text, or seconds since 1970 in UTC.

    hour: 00 to 23. time_of_day: night from midnight, morning from 6, afternoon from 12,
    evening from 18. weekday and month: English names. Time zones are not converted. Empty for
    a missing value. Raises ValueError for a value that is not a time, and for the hour of a date.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return ""
    time: object = value
    if isinstance(value, str):
        try:
            # A date has no hour; datetime.fromisoformat would set midnight.
            time = date.fromisoformat(value.strip())
        except ValueError:
            try:
                time = datetime.fromisoformat(value.strip())
            except ValueError:
                raise ValueError(f"{value!r} is not a time in ISO 8601") from None
    elif isinstance(value, int | float) and not isinstance(value, bool):
        try:
            time = datetime.fromtimestamp(value, UTC)
        except (OverflowError, ValueError, OSError):
            raise ValueError(f"{value!r} is not a time in seconds since 1970") from None
    if isinstance(time, date) and not isinstance(time, datetime):
        if feature in ("hour", "time_of_day"):
            raise ValueError(f"{value!r} is a date without a time")
        time = datetime(time.year, time.month, time.day)
    if not isinstance(time, datetime):
        raise ValueError(f"{value!r} is not a time")
    return _FEATURES[feature](time)
