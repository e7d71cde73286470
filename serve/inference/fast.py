"""Tokenization in Rust: token ids of texts, without reading more of a long text than counts.

A text is cut (`serve.inference.cutting`) to a first size, and to sizes that grow until the part
yields as many tokens as are kept. The ids are those of the whole text. What cannot be cut is read
whole, up to a limit that the caller may set.

Truncation is done here: the library's own keeps what it cuts off, in pieces, and for a pair every
combination of their pieces, so that two texts of 100 KB take gigabytes.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from typing import Any

from serve.inference.cutting import Cutter, growth

FIRST_CHARACTERS = 8
"""Characters read per token that is kept, at first; English has four to five per token."""

COUNTED_CHARACTERS = 16_384
"""Characters read at first where nothing is truncated, so that most messages can say how many
tokens too many a text has."""

GROWTH = 4
"""Factor from one size to the next."""

MAX_GROWTH = 16
"""Factor by which a normalizer may lengthen a text; those of published tokenizers hardly do."""

MAX_WORD_CHARACTERS = 1000
"""Characters of a word that WordPiece may look up, in a time that grows with their square."""

NO_TOKENS = "no token is left of the text after normalization"
FAILED = "the tokenizer fails for this text"

Row = tuple[list[int], list[int]]
"""Token ids and token type ids of a text."""


def is_failure(error: BaseException) -> bool:
    """Whether an error is one of a tokenizer: also a panic in Rust, which is no Exception."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def check_last_id(last: int, num_embeddings: int | None) -> None:
    """Raise ValueError for a vocabulary with ids that a model does not embed."""
    if num_embeddings is not None and last >= num_embeddings:
        raise ValueError(
            f"its vocabulary has the id {last}, but the model embeds {num_embeddings} tokens"
        )


class FastTokenizer:
    """A `tokenizers.Tokenizer` that truncates to `max_length` tokens. Thread-safe.

    A transformers tokenizer switches truncation on and off in one shared Rust object at each
    call, which is not thread-safe and costs more than the tokenization itself. A copy of the
    Rust object that is never modified gives the same ids.
    """

    def __init__(self, raw: Any, *, max_length: int, is_pair: bool) -> None:
        self.raw = copy.deepcopy(raw)
        self.raw.no_padding()
        self.raw.no_truncation()
        self.max_length = max_length
        self.is_pair = is_pair
        self.first_size = FIRST_CHARACTERS * max_length
        self._cutter = Cutter.of(raw)
        self._num_special = raw.num_special_tokens_to_add(is_pair)
        self._kept = max_length - self._num_special

    def encode(
        self, texts: Sequence[Any], *, side: str | None, max_characters: int | None = None
    ) -> list[Row | str | None]:
        """Return the ids and type ids of each text, with at most `max_length` tokens.

        Both are empty where a text, or a part of a pair, has no token of its own. A text for which
        the tokenizer fails gives `FAILED`.

        side: the side that is cut off, None to truncate nothing; then a text that is too long
        has more than `max_length` tokens, but perhaps not all of its tokens.
        max_characters: a text of which more must be read gives None.
        """
        rows: list[Row | str | None] = [None] * len(texts)
        pending = list(range(len(texts)))
        limit = max_characters or sys.maxsize
        first = self.first_size if side else max(self.first_size, COUNTED_CHARACTERS)
        size = min(first if self._cutter else sys.maxsize, limit)
        while True:
            read = [self._read(texts[row], size, side) for row in pending]
            usable = [row for row, part in zip(pending, read, strict=True) if part is not None]
            encoded = self._encode([part for part in read if part is not None])
            for row, encoding in zip(usable, encoded, strict=True):
                if encoding is None:
                    rows[row] = FAILED
                elif len(encoding) <= self.max_length:
                    if self._is_whole(texts[row], size):
                        rows[row] = self._complete(encoding)
                elif self._is_decided(texts[row], size, encoding, side):
                    rows[row] = self._truncated(encoding, side)
            pending = [row for row in pending if rows[row] is None]
            if not pending or size == limit:
                return rows
            size = min(GROWTH * size, limit)

    def check(self, num_embeddings: int | None) -> None:
        """Raise ValueError for a tokenizer that cannot be used; see `TextEncoder.check`."""
        if self._kept < (2 if self.is_pair else 1):
            raise ValueError(
                f"it adds {self._num_special} tokens to each text, which leaves no room in "
                f"{self.max_length}"
            )
        if growth(self.raw) > MAX_GROWTH:
            raise ValueError(f"its normalizer makes a text more than {MAX_GROWTH} times longer")
        if getattr(self.raw.model, "dropout", None):
            raise ValueError("its `dropout` gives a text other tokens each time")
        last = max(self.raw.get_vocab(with_added_tokens=False).values(), default=0)
        check_last_id(last, num_embeddings)
        if getattr(self.raw.model, "max_input_chars_per_word", 0) > MAX_WORD_CHARACTERS:
            raise ValueError(f"it reads words of more than {MAX_WORD_CHARACTERS} characters")

    def plain_ids(self) -> list[int]:
        """Return the ids of the vocabulary, in order, except tokens added to it, such as [CLS]."""
        words = self.raw.get_vocab(with_added_tokens=False)
        return sorted(set(words.values()) - set(self.raw.get_added_tokens_decoder()))

    def _encode(self, parts: list[Any]) -> list[Any]:
        """Encode texts; None for each one at which the tokenizer fails."""
        try:
            encodings: list[Any] = self.raw.encode_batch_fast(parts)
            return encodings
        except BaseException as error:
            if not is_failure(error):
                raise
        if len(parts) == 1:
            return [None]
        return [each for part in parts for each in self._encode([part])]

    def may_cut(self, text: Any) -> bool:
        """Whether a text that is not truncated may have been read in part only."""
        return not self._is_whole(text, max(self.first_size, COUNTED_CHARACTERS))

    def _read(self, text: Any, size: int, side: str | None) -> Any:
        """The text, or what is left if each part is cut to `size`; None if one cannot be."""
        if not self.is_pair:
            return self._cut(text, size, side)
        parts = [self._cut(part, size, side) for part in text]
        return None if None in parts else tuple(parts)

    def _cut(self, part: str, size: int, side: str | None) -> str | None:
        if len(part) <= size:
            return part
        return self._cutter.cut(part, size, side=side or "right") if self._cutter else None

    def _is_whole(self, text: Any, size: int) -> bool:
        return max(map(len, text if self.is_pair else (text,))) <= size

    def _is_decided(self, text: Any, size: int, encoding: Any, side: str | None) -> bool:
        """Whether an encoding of too many tokens decides the result, though parts may go on."""
        if side is None or not self.is_pair or self._is_whole(text, size):
            return True
        whole = [len(part) <= size for part in text]
        first, second = counts = _counts(encoding)
        if any(count < self._kept for count, all_ in zip(counts, whole, strict=True) if not all_):
            return False
        # Two long parts share the tokens that are kept; the longer one gets the odd one.
        return (
            self._kept % 2 == 0 or (whole[1] and first > second) or (whole[0] and first <= second)
        )

    def _complete(self, encoding: Any) -> Row:
        is_empty = 0 in _counts(encoding) if self.is_pair else len(encoding) <= self._num_special
        return ([], []) if is_empty else (encoding.ids, encoding.type_ids)

    def _truncated(self, encoding: Any, side: str | None) -> Row:
        ids, types = encoding.ids, encoding.type_ids
        if side is None:
            return ids, types
        sequences = encoding.sequence_ids
        counts = _counts(encoding)
        if self.is_pair and 0 in counts:
            return [], []
        first, second = counts
        kept = longest_first(first, second, self._kept) if self.is_pair else (self._kept,)
        for number in reversed(range(len(kept))):  # from the end, so that positions stay
            surplus = counts[number] - kept[number]
            if surplus > 0:
                start = sequences.index(number)
                start += kept[number] if side == "right" else 0
                del ids[start : start + surplus], types[start : start + surplus]
        return ids, types


def longest_first(first: int, second: int, kept: int) -> tuple[int, int]:
    """How many tokens of the two parts of a pair are kept, given how many they have.

    A part of at most half of `kept` stays whole; otherwise the longer one, or the second of
    two equal ones, gets the odd token. This is `longest_first` of the tokenizers library.
    """
    shorter, longer = sorted((first, second))
    longer = max(shorter, kept - shorter)
    if shorter + longer > kept:
        shorter, longer = kept // 2, kept - kept // 2
    return (longer, shorter) if first > second else (shorter, longer)


def _counts(encoding: Any) -> tuple[int, int]:
    """Tokens of each part of an encoding, those added to every text excluded."""
    sequences = encoding.sequence_ids
    return sequences.count(0), sequences.count(1)
