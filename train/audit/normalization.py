"""Normalize texts to compare them, and group equal ones. Pure; the data are never changed."""

from __future__ import annotations

import hashlib
import html
import re
import unicodedata
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

from serve.inference.text import Text
from train.config.sections import Normalization

Key = TypeVar("Key", bound=Hashable)

_TAG = re.compile(r"</?[A-Za-z][^<>]{0,200}>")


class _Punctuation(dict[int, str]):
    """Table for str.translate that maps punctuation, currency and other signs to a space.

    Emoji and other symbols are kept: two texts may differ only in them.
    """

    def __missing__(self, code: int) -> str:
        category = unicodedata.category(chr(code))
        sign = category[0] == "P" or category in ("Sc", "Sm", "Sk")
        self[code] = " " if sign else chr(code)
        return self[code]


_PUNCTUATION = _Punctuation()

_STEPS: dict[Normalization, Callable[[str], str]] = {
    "html": lambda text: _TAG.sub(" ", html.unescape(text)),
    "unicode": lambda text: unicodedata.normalize("NFKC", text),
    "case": str.casefold,
    "punctuation": lambda text: text.translate(_PUNCTUATION),
    "whitespace": lambda text: " ".join(text.split()),
}
"""In the order in which they are applied, regardless of the configuration's order."""


def normalizer(steps: Sequence[Normalization]) -> Callable[[str], str]:
    """Return a function that removes the differences to ignore.

    unicode: different code points for the same characters (NFKC). html: tags and entities.
    A text that consists of punctuation keeps it.
    """
    chosen = {name: step for name, step in _STEPS.items() if name in steps}

    def normalize(text: str) -> str:
        for name, step in chosen.items():
            changed = step(text)
            if name == "whitespace" or changed.strip():
                text = changed
        return text

    return normalize


def joined(text: Text, normalize: Callable[[str], str] = str) -> str:
    """Normalize a text, or join the normalized parts of a pair."""
    return normalize(text) if isinstance(text, str) else "\x1f".join(map(normalize, text))


def text_key(text: str) -> bytes:
    """Hash a text to 16 bytes, to compare many texts in little memory."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def groups(keys: Iterable[Key]) -> list[list[int]]:
    """Return the positions of each key that occurs more than once, in order."""
    first: dict[Key, int] = {}
    found: dict[int, list[int]] = {}
    for position, key in enumerate(keys):
        start = first.setdefault(key, position)
        if start != position:
            found.setdefault(start, [start]).append(position)
    return [found[start] for start in sorted(found)]
