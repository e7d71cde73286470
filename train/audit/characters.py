"""Detect broken characters, and texts in other scripts than those of the data set. Pure.

Nothing is known about languages: a text is foreign if most of its letters belong to other scripts
than those of the data set.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

import ftfy

from serve.html import CONTROL, INVISIBLE

_CONTROL = re.compile(f"[{CONTROL}]")
_INVISIBLE = re.compile(f"[{INVISIBLE}]")

EXCERPT = 120
"""Characters of a repaired text in a message."""

DOMINANT_FRACTION = 0.05
"""Minimum fraction of a data set's letters for a script to belong to it."""

MIN_LETTERS = 5
"""Letters in a text below which its scripts are not compared."""


def character_problems(text: str) -> list[str]:
    """Describe each kind of broken character in the text; empty if there is none."""
    problems = []
    if match := _CONTROL.search(text):
        problems.append(f"control character U+{ord(match[0]):04X}")
    if text.isascii():
        return problems
    if "\ufffd" in text:
        problems.append("replacement character: bytes were lost in a wrong decoding")
    if match := _INVISIBLE.search(text):
        problems.append(f"invisible character U+{ord(match[0]):04X}")
    if (repaired := ftfy.fix_encoding(text)) != text:
        problems.append(f"decoded with the wrong encoding, should be {_excerpt(text, repaired)!r}")
    return problems


def _excerpt(text: str, repaired: str) -> str:
    """Return the repaired text from its first changed word on."""
    pairs = enumerate(zip(text, repaired, strict=False))
    changed = next((n for n, (old, new) in pairs if old != new), len(repaired))
    start = repaired.rfind(" ", 0, changed) + 1
    cut = "..." if len(repaired) - start > EXCERPT else ""
    return repaired[start : start + EXCERPT] + cut


@lru_cache(maxsize=65_536)
def script_of(character: str) -> str | None:
    """Return the script of a letter, such as LATIN or CYRILLIC; None for anything else."""
    if not character.isalpha():
        return None
    return unicodedata.name(character, "UNKNOWN").split()[0]


def scripts_of(text: str) -> Counter[str]:
    """Count the letters of a text by script."""
    if text.isascii():
        letters = sum(map(str.isalpha, text))
        return Counter(LATIN=letters) if letters else Counter()
    return Counter(script for script in map(script_of, text) if script)


def dominant_scripts(counts: Iterable[Counter[str]]) -> set[str]:
    """Return the scripts of a data set, given the letters of its texts."""
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return {name for name, n in total.items() if n >= DOMINANT_FRACTION * total.total()}


def foreign_fraction(counts: Counter[str], dominant: set[str]) -> float:
    """Return the fraction of letters outside the dominant scripts; 0 for a text of few letters."""
    letters = counts.total()
    if letters < MIN_LETTERS:
        return 0.0
    return 1 - sum(counts[name] for name in dominant) / letters
