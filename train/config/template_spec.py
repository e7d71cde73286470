"""What a configuration may state about templates; `train.data.template` fills them in."""

from __future__ import annotations

import string
from typing import Literal

Feature = Literal["hour", "time_of_day", "weekday", "month"]


def fields_of(template: str) -> tuple[str, ...]:
    """Names between the braces, in order of appearance, each once; `{{` is a brace itself.

    Raises ValueError for a template that names no column, or does more than to name columns.
    """
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"the template {template!r} cannot be read: {error}") from None
    names: dict[str, None] = {}
    for _, name, spec, conversion in parts:
        if name is None:
            continue
        if not name or spec or conversion:
            raise ValueError(
                f"the template {template!r}: expected a column's name alone between the braces"
            )
        names[name] = None
    if not names:
        raise ValueError(f"the template {template!r} names no column, as {{title}} would")
    return tuple(names)
