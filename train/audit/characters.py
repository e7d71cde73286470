"""Signs in a text's characters that something went wrong on its way here. Pure.

Nothing is known about languages: a text is strange if most of its letters belong to other
scripts than those of the data set.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
# Zero-width spaces, marks that turn the direction of writing, tags, a byte order mark. Joiners
# (U+200C, U+200D) are left out: Persian, Hindi and emoji are written with them.
_INVISIBLE = re.compile(
    r"[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff"
    r"\U000e0001-\U000e007f]"
)
_HIGH = "\x80-\xff€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"  # noqa: RUF001
_HIGH_RUN = re.compile(f"[{_HIGH}]{{2,}}")
# UTF-8 read as Windows-1252: Latin letters and signs, punctuation, emoji, or at least two
# letters of Greek or Cyrillic. Single ones of those may be a capital before a quotation mark.
_UTF8 = re.compile(
    rb"[\xc2\xc3][\x80-\xbf]|\xe2[\x80-\x9f][\x80-\xbf]|\xef\xbb\xbf|\xf0\x9f[\x80-\xbf]{2}"
    rb"|(?:[\xc4\xc5\xce-\xd1][\x80-\xbf]){2,}"
)
DOMINANT_SHARE = 0.05
"""Share of a data set's letters from which a script belongs to it."""

MIN_LETTERS = 5
"""Letters that a text needs for its scripts to say anything."""


def character_problems(text: str) -> list[str]:
    """What is wrong with the characters, in words; empty if nothing is."""
    problems = []
    if match := _CONTROL.search(text):
        problems.append(f"control character U+{ord(match[0]):04X}")
    if text.isascii():
        return problems
    if "\ufffd" in text:
        problems.append("replacement character: bytes were read in a wrong encoding and lost")
    if match := _INVISIBLE.search(text):
        problems.append(f"invisible character U+{ord(match[0]):04X}")
    if found := _mojibake(text):
        problems.append(f"read in a wrong encoding: {found[0]!r} was {found[1]!r}")
    return problems


def _mojibake(text: str) -> tuple[str, str] | None:
    """The first stretch that is UTF-8 read as Windows-1252, and what it was."""
    for run in _HIGH_RUN.findall(text):
        raw = b"".join(_byte(character) for character in run)
        if match := _UTF8.search(raw):
            return run[match.start() : match.end()], match[0].decode("utf-8", "replace")
    return None


def _byte(character: str) -> bytes:
    """The byte that Windows-1252 (Latin-1 where it has none) reads as this character."""
    try:
        return character.encode("cp1252")
    except UnicodeEncodeError:
        return character.encode("latin-1", "replace")


@lru_cache(maxsize=65_536)
def script_of(character: str) -> str | None:
    """The script of a letter, such as LATIN or CYRILLIC; None for anything else."""
    if not character.isalpha():
        return None
    return unicodedata.name(character, "UNKNOWN").split()[0]


def scripts_of(text: str) -> Counter[str]:
    """Letters of a text by script."""
    if text.isascii():
        letters = sum(map(str.isalpha, text))
        return Counter(LATIN=letters) if letters else Counter()
    return Counter(script for script in map(script_of, text) if script)


def dominant_scripts(counts: Iterable[Counter[str]]) -> set[str]:
    """The scripts of a data set, from the letters of its texts."""
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return {name for name, n in total.items() if n >= DOMINANT_SHARE * total.total()}


def foreign_share(counts: Counter[str], dominant: set[str]) -> float:
    """Share of a text's letters outside the dominant scripts; 0 for a text of few letters."""
    letters = counts.total()
    if letters < MIN_LETTERS:
        return 0.0
    return 1 - sum(counts[name] for name in dominant) / letters
