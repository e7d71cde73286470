"""Guess the encoding of a text file that is not UTF-8. For `init` alone: a run guesses nothing.

A guess is by plausibility: a wrong codec puts symbols and capitals into words. It is said with an
example from the file; if no codec is clearly the one, there is no guess.
"""

from __future__ import annotations

import codecs
import gzip
import re
from dataclasses import dataclass
from pathlib import Path

from serve.formats.streams import HEAD_BYTES, looks_like

MAX_BYTES = 64_000_000
"""Bytes that are read, decompressed."""

WESTERN = ("cp1252", "cp1250", "mac_roman", "cp850", "latin_1")
"""Encodings that extend ASCII by accented letters, the most frequent first."""

OTHERS = ("cp1251", "koi8_r", "cp932", "gb18030", "euc_kr", "big5", "cp1253", "cp1255", "cp1256")

_NAMES = {
    "cp1252": "Western Windows",
    "cp1250": "Central European Windows",
    "mac_roman": "classic Mac",
    "cp850": "Western DOS",
    "latin_1": "ISO 8859-1",
}
_MARKS = frozenset(
    "\u2018\u2019\u201a\u201c\u201d\u201e\u2013\u2014\u2026\u20ac\u00a3\u00a5\u00a7\u00a9\u00ae\u00b0\u00ab\u00bb\u00bf\u00a1\u2022\u2122\u00b7\u00a0\u00b4\u00bd\u00bc\u00be\u00d7\u2039\u203a"
)
"""Characters outside ASCII that stand beside words, and not within them."""

_SEEN = re.compile(rb"[^\n\r\t,;|\"]{0,20}[\x80-\xff][^\n\r\t,;|\"]{0,20}")
_GOOD = 0.9


@dataclass(frozen=True)
class Encoding:
    """A guessed encoding."""

    codec: str
    reason: str


def guess_encoding(path: Path) -> Encoding | None:
    """Return the encoding to set; None if the reader needs none, or knows better what is wrong.

    Raises ValueError if the file is not UTF-8 and no encoding is clearly the one.
    """
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
        data = file.read(MAX_BYTES)
    if data.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return None
    if looks_like(data[:HEAD_BYTES]):
        return None
    line = data[:4096].partition(b"\n")[0]
    zeros = [line[start::2].count(0) for start in (0, 1)]
    if max(zeros) > len(line) / 6 and min(zeros) < max(zeros) / 8:
        codec = "utf-16-le" if zeros[1] > zeros[0] else "utf-16-be"
        return Encoding(codec, "UTF-16 without a byte order mark")
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return _of_bytes(data)
    return None


def _of_bytes(data: bytes) -> Encoding:
    found = [match[0] for match in _SEEN.finditer(data[: 4 * HEAD_BYTES])][:500] or [
        match[0] for match in _SEEN.finditer(data)
    ][:500]
    seen = b"\n".join(found)
    letters = len(re.findall(rb"[A-Za-z]", seen))
    high = len(re.findall(rb"[\x80-\xff]", seen))
    if high < 0.6 * (letters + high):
        scores = {codec: _western_score(data, seen, codec) for codec in WESTERN}
        best = max(scores, key=lambda codec: scores[codec])  # the first of equals
        if scores[best] >= _GOOD:
            example = found[0].decode(best).strip()
            return Encoding(best, f"{_NAMES[best]}, where it says `{example}`")
    fitting = [codec for codec in (*OTHERS, *WESTERN) if _decodes(data, codec)]
    shown = ", ".join(
        f"{codec} (`{found[0].decode(codec, 'replace').strip()[:30]}`)" for codec in fitting[:6]
    )
    raise ValueError(
        f"the file is not UTF-8; it could be {shown or 'in no encoding that is known here'}: add "
        "data.encoding=NAME to the command"
    )


def _decodes(data: bytes, codec: str) -> bool:
    try:
        codecs.getincrementaldecoder(codec)().decode(data)
    except UnicodeDecodeError:
        return False
    return True


def _western_score(data: bytes, seen: bytes, codec: str) -> float:
    """Return the fraction of characters outside ASCII that make sense; 0 if it does not decode."""
    if not _decodes(data, codec):
        return 0.0
    text = seen.decode(codec)
    good = total = 0
    for before, character, after in zip("\n" + text, text, text[1:] + "\n", strict=False):
        if character.isascii():
            continue
        total += 1
        if character in _MARKS:
            good += not (before.isalpha() and after.isalpha()) or character == "\u2019"
        elif character.isalpha():
            # A capital within a word of small letters is the sign of a wrong codec.
            good += not (character.isupper() and before.islower())
    return good / total if total else 0.0
