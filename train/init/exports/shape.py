"""What an export of a labelling tool holds, as plain rows: one per annotation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from serve.formats.options import Row


@dataclass(kw_only=True)
class Annotations:
    """The annotations of an export, and what was left out of it."""

    rows: list[Row] = field(default_factory=list)
    """Text columns and label columns; a label is a name, or a list of names."""

    keys: list[str] = field(default_factory=list)
    """What each row is about: annotations of one text by several people have the same key."""

    labels: dict[str, None] = field(default_factory=dict)
    """Columns that annotators filled in, in order; empty if the export does not tell."""

    left_out: Counter[str] = field(default_factory=Counter)
    """Rows that hold no label, by reason."""

    meta: frozenset[str] = frozenset()
    """Columns of the tool, which are neither text nor label."""

    def add(self, key: object, texts: Row, labels: Row) -> None:
        """Add one annotation. labels: the names by label column."""
        self.rows.append(texts | labels)
        self.keys.append(str(key))
        self.labels.update(dict.fromkeys(labels))


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A labelling tool, and how its export is read."""

    name: str
    matches: Callable[[Sequence[Row]], bool]
    """Whether rows, the first of a file, are of this export."""

    read: Callable[[Iterable[Row]], Annotations]


def names_of(labels: list[str]) -> str | list[str]:
    """Return one name as such, several or none as a list."""
    return labels[0] if len(labels) == 1 else labels
