"""Where a long text may be cut so that tokenizing the rest could not change the result.

Truncation keeps `max_length` tokens, yet a tokenizer reads the whole text, at some 300 bytes of
memory per character. If it treats the two sides of a position independently, the tokens of the
text are those of the part before it followed by those of the part after it; a part that yields
enough tokens then suffices. That holds at a single space between two letters or digits for the
normalizers, pre-tokenizers and patterns listed here, and for BERT also between two Chinese
characters. Other tokenizers read every text whole.

Why it holds: the normalizers work character by character, or within a run of characters that a
space ends; no letter or digit is removed; and every pre-tokenizer has a boundary before the space.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

_SPACE = r"(?<=\w) (?=\w)"
_CHINESE = "(?<=[\u4e00-\u9fff])(?=[\u4e00-\u9fff])"

_NORMALIZERS = frozenset(
    "BertNormalizer Lowercase NFC NFD NFKC NFKD Nmt Precompiled Prepend Strip StripAccents".split()
)
_SPLITTERS = frozenset("BertPreTokenizer Whitespace WhitespaceSplit".split())
"""Pre-tokenizers that split at white space, whatever their settings."""

_HARMLESS = frozenset("Digits Punctuation".split())
"""Pre-tokenizers that look at one character at a time, and need not split at white space."""

_PATTERNS = frozenset(
    {
        # Llama 3 and cl100k, Qwen 2 and 3, and GPT-2: none matches a space after a letter or digit.
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    }
)


@dataclass(frozen=True)
class Cutter:
    """Cuts texts for one tokenizer. left: whether texts may be cut on their left side too."""

    left: bool
    chinese: bool

    @classmethod
    def of(cls, raw: Any) -> Cutter | None:
        """The cutter of a `tokenizers.Tokenizer`; None if its texts must be read whole."""
        normalizer, splitter = _state(raw.normalizer), _state(raw.pre_tokenizer)
        added = raw.get_added_tokens_decoder().values()
        if (
            not _is_local(normalizer)
            or not _splits(splitter)
            or any(re.search(_SPACE, token.content) for token in added)
        ):
            return None
        schemes = [part.get("prepend_scheme") for part in _flat(splitter, "pretokenizers")]
        kinds = {part["type"] for part in _flat(normalizer, "normalizers")}
        return cls(
            # The rest begins with the space; what removes it, or adds another, changes tokens.
            left=not kinds & {"Strip", "Prepend"}
            and "never" not in schemes
            and not any(token.rstrip for token in added),
            chinese=normalizer.get("handle_chinese_chars", False)
            and splitter["type"] == "BertPreTokenizer",
        )

    def cut(self, text: str, size: int, *, side: str) -> str | None:
        """The longest cut of at most `size` characters, None if there is no place for one.

        side: the side that is cut off. A text that is not longer is returned whole.
        """
        if len(text) <= size:
            return text
        place = f"{_SPACE}|{_CHINESE}" if self.chinese else _SPACE
        if side == "right":
            found = re.compile(f"(?s:.*)(?:{place})").match(text, 0, size)
            return text[: _start(found.end(), text)] if found else None
        if not self.left:
            return None
        found = re.compile(place).search(text, len(text) - size)
        return text[found.start() :] if found else None


def _start(end: int, text: str) -> int:
    """The position of a cut whose match ended at `end`: before the space, if it has one."""
    return end - 1 if text[end - 1] == " " else end


def _state(part: Any) -> dict[str, Any]:
    """A part of a tokenizer as in tokenizer.json, without its vocabulary."""
    state: dict[str, Any] = json.loads(part.__getstate__()) if part is not None else {}
    return state


def growth(raw: Any) -> float:
    """The largest factor by which the replacements of a normalizer lengthen a text."""
    factor = 1.0
    for part in _flat(_state(raw.normalizer), "normalizers"):
        added = len(part.get("content", part.get("prepend", "")))
        pattern = part.get("pattern", {})
        replaced = len(pattern.get("String", "x"))
        # What matches nothing matches beside every character.
        beside = replaced == 0 or _matches_nothing(pattern.get("Regex", "x"))
        factor *= max(1.0, added / max(replaced, 1)) + (added if beside else 0)
    return factor


def _matches_nothing(expression: str) -> bool:
    try:
        return re.match(expression, "") is not None
    except (re.error, RecursionError, OverflowError):
        return "*" in expression or "?" in expression or "{" in expression


def _flat(state: dict[str, Any], members: str) -> list[dict[str, Any]]:
    """The members of a sequence, or the part itself."""
    if state.get("type") != "Sequence":
        return [state] if state else []
    return [each for member in state[members] for each in _flat(member, members)]


def _is_local(normalizer: dict[str, Any]) -> bool:
    return all(
        part["type"] in _NORMALIZERS
        or (part["type"] == "Replace" and _replaces_locally(part["pattern"]))
        for part in _flat(normalizer, "normalizers")
    )


def _replaces_locally(pattern: dict[str, str]) -> bool:
    if pattern == {"Regex": " {2,}"}:
        return True
    literal = pattern.get("String", "")
    return bool(literal) and not re.search(r"[\w\s]", literal)


def _splits(pre_tokenizer: dict[str, Any]) -> bool:
    """Whether all parts are local, and one of them has a boundary at every place for a cut."""
    parts = _flat(pre_tokenizer, "pretokenizers")
    splits = [_splits_at_spaces(part) for part in parts]
    if None in splits or True not in splits:
        return False
    # A byte-level part that does not split would hide the space from the parts after it.
    return all(part["type"] in _HARMLESS for part in parts[: splits.index(True)])


def _splits_at_spaces(part: dict[str, Any]) -> bool | None:
    """Whether a pre-tokenizer splits before a space that follows a letter; None if unknown."""
    kind = part["type"]
    if kind in _SPLITTERS:
        return True
    if kind in _HARMLESS:
        return False
    if kind == "Metaspace":
        return bool(part.get("split", True)) or None
    if kind == "ByteLevel":
        return bool(part.get("use_regex", True))
    if kind == "Split" and part["behavior"] == "Isolated" and not part["invert"]:
        return True if part["pattern"].get("Regex") in _PATTERNS else None
    return None
