"""Describe the columns of a sample: missing values, lengths, different values, and their kind."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property
from statistics import mean
from typing import Any, Literal

from serve.formats.options import Row
from train.data.label_lists import RowError, listed

Kind = Literal[
    "empty",
    "constant",
    "text",
    "word",
    "integer",
    "float",
    "date",
    "link",
    "code",
    "list",
    "object",
]
"""text: several words; word: one or few words; code: identifiers such as UUIDs; link: URLs and
addresses of e-mail."""

_INTEGER = re.compile(r"[-+]?\d{1,18}(\.0+)?")
_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_DATE = re.compile(
    r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}([ T].*)?|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}([ T].*)?"
    r"|(mon|tue|wed|thu|fri|sat|sun)[a-z]*,? .*\d{4}.*"
    r"|(\d{1,2} )?(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]* .*\d{4}.*"
    r"|\d{1,2}:\d{2}(:\d{2}.*)?",
    re.IGNORECASE,
)
_LINK = re.compile(r"(https?://|www\.)\S+|[\w.+-]+@[\w-]+\.[\w.]+", re.IGNORECASE)
_CODE = re.compile(r"(?=.*\d)[A-Za-z0-9_\-:./#]{6,}|[0-9a-f]{16,}", re.IGNORECASE)
_BINARY = ({"0", "1"}, {"0.0", "1.0"}, {"true", "false"}, {"0"}, {"0.0"}, {"false"}, {"1"})
_MOST = 0.95
_CHECKED = 2_000
"""Values by which the kind of a column is told."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Column:
    """A column of a sample."""

    name: str
    position: int
    values: Sequence[Any]
    """One per row; None where it is missing."""

    @cached_property
    def present(self) -> list[Any]:
        """The values that are not missing."""
        return [value for value in self.values if not _is_missing(value)]

    @cached_property
    def counts(self) -> Counter[str]:
        """Rows by value, as text without blanks around it."""
        return Counter(as_text(value) for value in self.present)

    @property
    def num_missing(self) -> int:
        """Rows without a value."""
        return len(self.values) - len(self.present)

    @property
    def distinct(self) -> float:
        """Different values by value that is present; 0 if there is none."""
        return len(self.counts) / len(self.present) if self.present else 0.0

    @cached_property
    def mean_chars(self) -> float:
        """Mean length in characters of the values that are present."""
        return mean([len(as_text(value)) for value in self.present] or [0])

    @cached_property
    def mean_words(self) -> float:
        """Mean number of words; three characters without blanks of other scripts are one."""
        shown = [as_text(value) for value in self.present[:_CHECKED]]
        return mean([max(len(each.split()), _num_wide(each) / 3) for each in shown] or [0])

    @cached_property
    def lists(self) -> list[list[Any] | None]:
        """Each value that is present as a list, written as one or not; None for any other."""
        return [_list_of(value) for value in self.present]

    @cached_property
    def kind(self) -> Kind:
        """What most values are."""
        checked = self.present[:: max(1, len(self.present) // _CHECKED)]
        if not checked:
            return "empty"
        if all(isinstance(value, dict) for value in checked):
            return "object"
        if _share(map(_list_of, checked)) > 0.5:
            return "list"
        if len(self.counts) == 1 and len(self.values) > 1:
            return "constant"
        if all(isinstance(value, date | datetime) for value in checked):
            return "date"
        shown = [as_text(value) for value in checked]
        for kind, pattern in _PATTERNS.items():
            if _share(map(pattern.fullmatch, shown)) >= _MOST:
                return kind
        if self.distinct > 0.9 and _share(map(_CODE.fullmatch, shown)) >= _MOST:
            return "code"
        return "text" if self.mean_words >= 1.8 else "word"

    @property
    def is_binary(self) -> bool:
        """Whether the values are zeros and ones, or true and false; all alike too."""
        return bool(self.counts) and {value.lower() for value in self.counts} in _BINARY

    @property
    def is_identifier(self) -> bool:
        """Whether nearly every row has another value that says nothing."""
        few = len(self.present) < 3
        name = self.name.lower()
        named = name in ("", "id", "index", "row", "uid", "uuid", "guid", "_id") or name.startswith(
            "unnamed:"
        )
        named = named or re.search(r"(_|\b)(id|idx|index|uuid|hash|key)$", name) is not None
        named = named or re.search(r"[a-z]I[dD]$", self.name) is not None
        if self.kind == "integer":
            return self.distinct > (0.5 if named else 0.98) and (not few or named)
        return self.kind == "code" or (named and self.mean_words < 1.5)


_PATTERNS: Mapping[Kind, re.Pattern[str]] = {
    "integer": _INTEGER,
    "float": _FLOAT,
    "date": _DATE,
    "link": _LINK,
}


def describe(rows: Sequence[Row]) -> list[Column]:
    """Return the columns of rows in order of appearance."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [
        Column(name=name, position=position, values=[row.get(name) for row in rows])
        for position, name in enumerate(names)
    ]


def as_text(value: Any) -> str:
    """Return a value as a label is written."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value).strip()


def words_of(name: str) -> list[str]:
    """Return the words of a column's name in lower case: of `reviewText`, `review` and `text`.

    Accents are left out: `Catégorie` is `categorie`.
    """
    plain = unicodedata.normalize("NFKD", name)
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    spaced = re.sub(r"([a-z])([A-Z])", r"\1 \2", plain)
    return [word for word in re.split(r"[\W\d_]+", spaced.lower()) if word]


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip()) or value != value


def _list_of(value: Any) -> list[Any] | None:
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, str) and value.strip()[:1] in ("[", "{", "("):
        try:
            found = listed(value, strict=False)
        except RowError:
            return None
        return found if isinstance(found, list) else None
    return None


def _num_wide(text: str) -> int:
    """Count the characters of scripts that are written without blanks."""
    return sum(
        "\u0e00" <= c <= "\u0eff" or "\u3040" <= c <= "\u9fff" or c > "\U00020000" for c in text
    )


def _share(found: Iterator[Any]) -> float:
    every = [each is not None for each in found]
    return sum(every) / len(every)
