"""Parse and check templates in a configuration; `train.data.template` fills them in."""

from __future__ import annotations

import string
from typing import Literal

Feature = Literal["hour", "time_of_day", "weekday", "month"]


def fields_of(template: str) -> tuple[str, ...]:
    """Return the unique names between braces, in order of appearance; `{{` is a literal brace.

    Raises ValueError for a template without a column, or with anything but names in the braces.
    """
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"invalid template {template!r}: {error}") from None
    names: dict[str, None] = {}
    for _, name, spec, conversion in parts:
        if name is None:
            continue
        if not name or spec or conversion:
            raise ValueError(
                f"invalid template {template!r}: expected only a column name between the braces"
            )
        names[name] = None
    if not names:
        raise ValueError(
            f"invalid template {template!r}: expected at least one column, such as {{title}}"
        )
    return tuple(names)
