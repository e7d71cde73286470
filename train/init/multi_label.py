"""Tell texts with several labels: lists, separated names, one column per label. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby

from train.init.reading.columns import Column, as_text

_SURE = ("|", ";", ",", "#", "\n", "\t")
_RARE = ("/", "&", "+", " ")
"""Separators that names contain as well, such as `and/or`."""

_MAX_LABEL_CHARS = 60


def separator_of(counts: Counter[str]) -> str | None:
    """Return the separator of values that are lists of labels; None if they are single names.

    counts: rows by value. A separator counts if the parts recombine: `food, drink` is one name if
    `food` and `drink` never occur apart.
    """
    for separator in (*_SURE, *_RARE):
        lists = {value: _parts(value, separator) for value in counts if separator in value}
        lists = {value: parts for value, parts in lists.items() if len(parts) > 1}
        if not lists:
            continue
        sets = defaultdict[str, set[str]](set)
        for value in counts:
            for part in lists.get(value) or [value]:
                sets[part].add(value)
        rows = sum(counts[value] for value in lists)
        recombined = sum(
            counts[value]
            for value, parts in lists.items()
            if all(len(sets[part]) > 1 for part in parts)
        )
        short = all(len(part) <= _MAX_LABEL_CHARS for part in sets)
        needed = 0.6 if separator in _SURE else 0.9
        if short and recombined >= needed * rows and _is_frequent(separator, rows, counts, sets):
            return separator
    return None


def _is_frequent(
    separator: str, rows: int, counts: Counter[str], sets: dict[str, set[str]]
) -> bool:
    """Whether lists are frequent enough; rare separators must save most of the different values."""
    if separator in _SURE:
        return rows >= 0.01 * counts.total()
    return rows >= 0.1 * counts.total() and len(sets) < 0.7 * len(counts)


def _parts(value: str, separator: str) -> list[str]:
    return [part.strip() for part in value.split(separator) if part.strip()]


def split_counts(counts: Counter[str], separator: str) -> Counter[str]:
    """Return rows by label, of rows by list of labels."""
    found = Counter[str]()
    for value, rows in counts.items():
        for part in set(_parts(value, separator)):
            found[part] += rows
    return found


def list_counts(lists: Iterable[list[object] | None]) -> Counter[str]:
    """Return rows by label, of a list per row."""
    return Counter(as_text(item) for items in lists for item in {*map(str, items or [])})


def hot_columns(columns: Sequence[Column]) -> list[Column]:
    """Return the columns that may be one per label: the longest run of zeros and ones.

    Columns of the same form belong together: 0 and 1 in one place, true and false in another.
    """
    runs: list[list[Column]] = []
    for form, group in groupby(columns, key=_form):
        run = list(group)
        if form and sum(len(column.counts) > 1 for column in run) > 1:
            runs.append(run)
    return max(runs, key=len, default=[])


def _form(column: Column) -> str:
    if not column.is_binary or column.is_identifier:
        return ""
    return "words" if {value.lower() for value in column.counts} <= {"true", "false"} else "digits"


def hot_rows(columns: Sequence[Column]) -> tuple[Counter[str], bool]:
    """Return rows by label, and whether each row has exactly one."""
    ones = [[as_text(v).lower() in ("1", "1.0", "true") for v in c.values] for c in columns]
    counts = Counter({column.name: sum(each) for column, each in zip(columns, ones, strict=True)})
    return counts, all(sum(row) == 1 for row in zip(*ones, strict=True))
