"""Choose the text: one column, two of a pair, or a title and a body as one text."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from train.init.reading.columns import Column, words_of

_NAMES = frozenset(
    """
    text texts txt sentence sentences message messages msg comment comments review reviews tweet
    tweets body content contents utterance query question document doc post posts description
    abstract transcript transcription email mail sms prompt request feedback complaint narrative
    article story lyrics statement claim phrase dialogue dialog conversation ticket snippet
    selftext premise passage paragraph issue note notes input answer response verbatim
    headline title summary subject
    texte texto testo tekst satz nachricht mensaje commentaire kommentar
    """.split()
)
_TITLES = frozenset({"title", "headline", "subject", "heading", "header", "summary"})
_NOT_TEXT = frozenset(
    """
    id ids url link user username author name handle date time timestamp location address parse
    city country region source path file filename image hashtags device client ip phone hash
    label labels class category target sentiment intent topic tags tag
    """.split()
)
_PAIRS = (
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("sentence1", "sentence2"),
    ("text", "text_pair"),
    ("query", "passage"),
    ("query", "document"),
    ("query", "product_title"),
    ("query", "title"),
    ("question", "answer"),
    ("question", "sentence"),
    ("question", "passage"),
    ("question", "context"),
    ("claim", "evidence"),
    ("prompt", "response"),
    ("context", "response"),
)
_NUMBERED = (("1", "2"), ("a", "b"), ("A", "B"), ("_left", "_right"), ("", "_pair"), ("0", "1"))
_TITLE_CHARS = 150


@dataclass(frozen=True, kw_only=True)
class TextChoice:
    """The columns of the text."""

    columns: tuple[Column, ...]
    template: str | None = None
    """Joins the columns to one text; None: one column, or the two of a pair."""

    others: tuple[Column, ...] = ()
    """Columns that could be a text as well."""

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return [column.name for column in self.columns]


def text_score(column: Column) -> float:
    """Return how much a column looks like a text; over 0 if it could be one."""
    if column.kind not in ("text", "word") or column.is_identifier:
        return 0.0
    words = _words(column)
    named = bool(_NAMES.intersection(words))
    unlike = bool(_NOT_TEXT.intersection(words_of(column.name)[-1:])) or "parse" in words
    repeated = named and column.mean_words > 3 and len(column.counts) > 20  # one text in many rows
    if column.distinct < (0.2 if named else 0.5) and not repeated:
        return 0.0
    if column.kind == "word" and not named:
        return 0.1 * column.distinct
    length = math.sqrt(min(column.mean_chars, 400.0))
    score = length * column.distinct * (len(column.present) / len(column.values))
    return score * (1 + 2 * named) * (0.1 if unlike else 1)


def _words(column: Column) -> set[str]:
    """Return the words of a column's name, with the singular of plurals."""
    words = words_of(column.name)
    return {
        *words,
        *(word.removesuffix("s") for word in words),
        *(word.removesuffix("ies") + "y" for word in words if word.endswith("ies")),
    }


def choose_texts(columns: Sequence[Column]) -> TextChoice | None:
    """Return the columns of the text; None if there is none."""
    scores = {column.name: text_score(column) for column in columns}
    able = sorted(
        (column for column in columns if scores[column.name] > 0),
        key=lambda column: -scores[column.name],
    )
    if not able:
        return None
    full = [column for column in able if scores[column.name] > 1]
    if pair := _pair(full):
        return TextChoice(columns=pair, others=_others(full, pair))
    best = able[0]
    titled = _titled(full)
    if titled and best in titled:
        title, body = titled
        template = f"{{{title.name}}}\n{{{body.name}}}"
        if not re.search(r"[{}!:\[]", title.name + body.name):
            return TextChoice(columns=titled, template=template, others=_others(full, titled))
    return TextChoice(columns=(best,), others=_others(full, (best,)))


def _others(able: Sequence[Column], chosen: tuple[Column, ...]) -> tuple[Column, ...]:
    return tuple(column for column in able if column not in chosen and column.kind == "text")


def _pair(able: Sequence[Column]) -> tuple[Column, Column] | None:
    """Return two columns whose names say that they are compared."""
    by_name = {column.name.lower().replace(" ", "_"): column for column in able}
    for first, second in _PAIRS:
        if first in by_name and second in by_name:
            return by_name[first], by_name[second]
    for column in able:
        for one, two in _NUMBERED:
            if column.name.endswith(one):
                stem = column.name.removesuffix(one)
                twin = next((each for each in able if each.name == stem + two), None)
                if stem and twin is not None and twin is not column and twin.kind == "text":
                    return column, twin
    return None


def _titled(able: Sequence[Column]) -> tuple[Column, Column] | None:
    """Return a title and the body that it belongs to."""
    titles = [c for c in able if _TITLES.intersection(_words(c)) and c.kind == "text"]
    titles = [title for title in titles if title.mean_chars <= _TITLE_CHARS]
    for title in titles:
        bodies = [
            column
            for column in able
            if column is not title
            and (not _TITLES.intersection(_words(column)) or "summary" in _words(column))
            and _NAMES.intersection(_words(column))
            and column.kind == "text"
            and column.mean_chars > title.mean_chars
        ]
        if bodies:
            return title, bodies[0]
    return None
