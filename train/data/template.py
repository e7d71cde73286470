"""One text out of several columns, and words out of times.

Decides what `data.template` and `data.derive` mean. What a template makes is the text that the
model learns from, so it is also the text that a client has to send: the server fills in no
template.
"""

from __future__ import annotations

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
"""Six hours each, from midnight on."""

_FEATURES: dict[Feature, Callable[[datetime], str]] = {
    "hour": lambda time: f"{time.hour:02d}",
    "time_of_day": lambda time: _TIMES_OF_DAY[time.hour // 6],
    "weekday": lambda time: _WEEKDAYS[time.weekday()],
    "month": lambda time: _MONTHS[time.month - 1],
}


def fill(template: str, values: Mapping[str, str]) -> str:
    """The template with each name replaced by its value, white space at the ends left out.

    Empty where all values are: literal text alone is not worth classifying.
    """
    if not any(value.strip() for value in values.values()):
        return ""
    made = []
    for literal, name, _, _ in string.Formatter().parse(template):
        made.append(literal)
        if name is not None:
            made.append(values[name])
    return "".join(made).strip()


def cell(value: object) -> str:
    """A column's value as text: nothing for a missing one.

    Raises ValueError for a value that has parts of its own, such as a list.
    """
    if value is None:
        return ""
    if isinstance(value, list | dict | bytes):
        raise ValueError(f"expected text or a number, got {type(value).__name__}")
    return str(value)


def derive(value: Any, feature: Feature) -> str:
    """A word of a time: a datetime, a date, ISO 8601 text, or seconds since 1970 in UTC.

    hour: 00 to 23. time_of_day: night from midnight, morning from 6, afternoon from 12,
    evening from 18. weekday and month: English names. The clock is that of the value; nothing
    is converted between time zones. Nothing for a missing value.
    Raises ValueError for what is not a time, and for an hour of a mere date.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return ""
    time: object = value
    if isinstance(value, str):
        try:
            # A date alone has no hour; datetime.fromisoformat would make it midnight.
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
