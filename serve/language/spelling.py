"""Names in messages: the known name that a wrong one may stand for, and input cut to a length."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST = 200
"""Characters of somebody's input that a message repeats."""

MAX_NAME = 64
"""Characters of a name up to which it is compared with the known ones."""


def closest(name: str, known: Iterable[str], *, cutoff: float = 0.75) -> str | None:
    """The known name, dotted or not, that a wrong one probably stands for.

    The last parts of the names are compared, so that a key is found in another section: first
    without case, `-` and `_`, then by similarity from `cutoff` (of 1). None if nothing is close.
    """
    if len(name) > MAX_NAME:
        return None
    by_leaf: dict[str, str] = {}
    # Of two sections with the same key, the section that was written is meant.
    section = name.rpartition(".")[0]
    for each in sorted(known, key=lambda each: each.rpartition(".")[0] != section):
        by_leaf.setdefault(_plain(each.rpartition(".")[2]), each)
    leaf = _plain(name.rpartition(".")[2])
    found = difflib.get_close_matches(leaf, by_leaf, n=1, cutoff=cutoff)
    return by_leaf[found[0]] if found else None


def did_you_mean(name: str, known: Iterable[str], *, cutoff: float = 0.75) -> str:
    """`; did you mean ...?` for a wrong name, or nothing."""
    found = closest(name, known, cutoff=cutoff)
    return f"; did you mean `{found}`?" if found else ""


def shown(text: str, limit: int = LONGEST) -> str:
    """The text, cut to a number of characters."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
