"""Tell a header from a first row of data. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from serve.formats.options import Row

_NUMBER = re.compile(r"\s*[-+]?\d+(\.\d+)?\s*")
_ROWS = 2_000
_USUAL = frozenset(
    """
    id text label labels class category sentiment message comment review title body tweet target
    question sentence topic intent
    """.split()
)
"""Names of columns that are hardly ever values."""


def seems_data(rows: Sequence[Row]) -> bool:
    """Whether the names of the columns are values of a first row.

    A name is a value if it is a number in a column of numbers, a sentence, or a value that its
    column has again and again.
    """
    if not rows:
        return False
    if any(name.strip().lower() in _USUAL for name in rows[0]):
        return False
    rows = rows[:_ROWS]
    for name in rows[0]:
        values = [str(row[name]) for row in rows if row.get(name)]
        if _is_unnamed(name) or not values:
            continue
        if _NUMBER.fullmatch(name) and sum(map(_is_number, values)) > 0.9 * len(values):
            return not _is_count(list(rows[0]))
        if len(name) > 60 or len(name.split()) > 7:
            return True
        if Counter(values)[name] >= max(2, 0.01 * len(values)):
            return True
    return False


def _is_number(value: Any) -> bool:
    return _NUMBER.fullmatch(str(value)) is not None


def _is_unnamed(name: str) -> bool:
    return re.fullmatch(r"column \d+|Unnamed: \d+", name) is not None


def _is_count(names: list[str]) -> bool:
    """Whether the names are 0, 1, 2 ..., as pandas writes columns without names."""
    return names in ([str(n) for n in range(len(names))], [str(n + 1) for n in range(len(names))])
