"""Tokenization: texts, or pairs of texts, to token ids.

Training, evaluation and serving all use `TextEncoder`, so a model never sees text that was
tokenized differently from its training data.

Shape suffixes: N texts, L tokens.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve.bundle.manifest import TokenizerRules
from serve.inference.fast import NO_TOKENS, FastTokenizer, Row, check_last_id
from serve.inference.slow import encode_slowly, plain_ids

Text = str | tuple[str, str]
Encoding = dict[str, list[int] | NDArray[np.int32]]
Batch = dict[str, NDArray[np.int64]]

_BLANK = "\u115f\u1160\u2800\u3164\uffa0"
"""Letters and symbols that show nothing: the fillers of Hangul, and Braille without a dot."""

_WORD = re.compile(rf"[^\W{_BLANK}]")


class TextError(ValueError):
    """A text cannot be classified. `index` is its position in the input."""

    def __init__(self, index: int, message: str) -> None:
        super().__init__(message)
        self.index = index


def text_problem(text: object) -> str | None:
    """Return why a text cannot be classified, or None if it can."""
    if not isinstance(text, str):
        return f"expected a string, got {type(text).__name__}"
    if not _WORD.search(text) and not any(map(_is_visible, set(text))):
        return "the text is empty" if not text.strip() else "the text has no visible character"
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            return f"not valid Unicode: lone surrogate at character {error.start}"
    return None


def _is_visible(character: str) -> bool:
    """Whether a character alone shows anything: no space, control, format or combining mark."""
    category = unicodedata.category(character)
    return character not in _BLANK and (category[0] in "LNPS" or category in ("Co", "Cn", "Cs"))


def count_tokens(encodings: Sequence[Encoding]) -> int:
    """Return the total number of tokens of the encodings."""
    return sum(len(encoding["input_ids"]) for encoding in encodings)


def shortest_first(encodings: Sequence[Encoding]) -> list[int]:
    """Return row numbers sorted by length; the sort is stable."""
    return sorted(range(len(encodings)), key=lambda row: len(encodings[row]["input_ids"]))


class TextEncoder:
    """A tokenizer with a length limit.

    is_pair: whether each text is a pair, encoded together as `[CLS] a [SEP] b [SEP]` or in
    the tokenizer's own form for two segments.
    """

    def __init__(
        self,
        rules: TokenizerRules,
        *,
        max_length: int,
        is_pair: bool,
        raw: Any | None,
        tokenizer: Any | None = None,
    ) -> None:
        """raw: a `tokenizers.Tokenizer`, or None to use the transformers `tokenizer`."""
        self.rules = rules
        self.columns = rules.columns
        self.max_length = max_length
        self.is_pair = is_pair
        self.tokenizer = tokenizer
        self._slow = threading.Lock()
        self._fast = (
            None if raw is None else FastTokenizer(raw, max_length=max_length, is_pair=is_pair)
        )

    @classmethod
    def from_directory(cls, path: Path, *, max_length: int, is_pair: bool) -> TextEncoder:
        """Load the tokenizer of a model directory with transformers, from local files only."""
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
        return cls.of(tokenizer, max_length=max_length, is_pair=is_pair)

    @classmethod
    def of(cls, tokenizer: Any, *, max_length: int, is_pair: bool) -> TextEncoder:
        """Wrap a transformers tokenizer."""
        columns = tuple(name for name in tokenizer.model_input_names if name != "attention_mask")
        fill = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
        fast = tokenizer.is_fast and set(columns) <= fill.keys()
        rules = TokenizerRules(
            fast=fast,
            columns=columns,
            fill={name: fill.get(name) or 0 for name in columns},
            truncation_side=tokenizer.truncation_side,
        )
        raw = tokenizer.backend_tokenizer if fast else None
        return cls(rules, max_length=max_length, is_pair=is_pair, raw=raw, tokenizer=tokenizer)

    @classmethod
    def from_rules(
        cls, path: Path, rules: TokenizerRules, *, max_length: int, is_pair: bool
    ) -> TextEncoder:
        """Load the `tokenizer.json` of a model directory without transformers and PyTorch.

        rules: the result of `of` for the same tokenizer, which must be fast.
        """
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        from tokenizers import Tokenizer

        assert rules.fast
        raw = Tokenizer.from_file(str(path / "tokenizer.json"))
        return cls(rules, max_length=max_length, is_pair=is_pair, raw=raw)

    def check(self, num_embeddings: int | None = None) -> None:
        """Raise ValueError for a tokenizer that cannot be used.

        It leaves no room for a text, is random, takes memory out of all proportion to a text, or
        has ids of more than `num_embeddings` tokens. Those added to its vocabulary may have such
        ids, as in published models: only a text that holds one fails.
        """
        if self._fast is not None:
            self._fast.check(num_embeddings)
        elif self.tokenizer is not None:
            added = self.tokenizer.num_special_tokens_to_add(self.is_pair)
            if added >= self.max_length:
                raise ValueError(f"it adds {added} tokens, which leaves no room for a text")
            check_last_id(max(self.plain_ids(), default=0), num_embeddings)

    def plain_ids(self) -> list[int]:
        """Return the ids of the vocabulary, in order, except tokens added to it, such as [CLS]."""
        return self._fast.plain_ids() if self._fast else plain_ids(self.tokenizer)

    def id_of(self, token: str) -> int | None:
        """Return the id of a token of the vocabulary; None without a tokenizer in Rust."""
        number: int | None = self._fast.raw.token_to_id(token) if self._fast else None
        return number

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that affects the token ids."""
        if self._fast is None:
            assert self.tokenizer is not None
            vocabulary = json.dumps(self.tokenizer.get_vocab(), sort_keys=True)
            words = f"{type(self.tokenizer).__name__} {self.tokenizer.init_kwargs} {vocabulary}"
        else:
            words = self._fast.raw.to_str()
        what = f"{self.max_length} {self.is_pair} {self.rules.model_dump_json()} {words}"
        return hashlib.sha256(what.encode()).hexdigest()

    def encode(
        self,
        texts: Sequence[Text],
        *,
        truncation: bool = True,
        side: str | None = None,
        max_characters: int | None = None,
    ) -> list[Encoding]:
        """Return the encoding of each text, in order; arguments as for `encode_each`.

        Raises TextError for the first text that has none.
        """
        encodings: list[Encoding] = []
        for index, encoding in enumerate(
            self.encode_each(texts, truncation=truncation, side=side, max_characters=max_characters)
        ):
            if isinstance(encoding, str):
                raise TextError(index, encoding)
            encodings.append(encoding)
        return encodings

    def encode_each(
        self,
        texts: Sequence[Text],
        *,
        truncation: bool = True,
        side: str | None = None,
        max_characters: int | None = None,
    ) -> list[Encoding | str]:
        """Return the `input_ids` and other model inputs of each text, or why it has none.

        A text of more than `max_length` tokens is truncated on `side`, left or right, None for
        the tokenizer's own (of a pair, the longer text first); with truncation False it has no
        encoding, nor has a text that is empty, before or after normalization, or not valid
        Unicode. max_characters: characters of a text that may be read. Only a text that cannot
        be cut, or has few tokens at its end, needs more than a few per token. Thread-safe.
        Raises TextError for a pair where the model takes single texts, or the reverse.
        """
        most = max_characters if self._fast is None else None
        results: list[Any] = [self._problem(index, text, most) for index, text in enumerate(texts)]
        usable = [index for index, problem in enumerate(results) if problem is None]
        if not usable:
            return results
        chosen = [texts[index] for index in usable]
        kept_side = (side or self.rules.truncation_side) if truncation else None
        if self._fast is not None:
            encodings = self._encode_fast(self._fast, chosen, kept_side, max_characters)
        else:
            encodings = self._encode_slowly(chosen, kept_side)
        for index, encoding in zip(usable, encodings, strict=True):
            results[index] = encoding
            if isinstance(encoding, dict) and len(encoding["input_ids"]) > self.max_length:
                results[index] = self._too_long(texts[index], len(encoding["input_ids"]))
        return results

    def _encode_fast(
        self,
        fast: FastTokenizer,
        texts: Sequence[Text],
        side: str | None,
        max_characters: int | None,
    ) -> list[Encoding | str]:
        rows = fast.encode(texts, side=side, max_characters=max_characters)
        return [self._result(row, max_characters) for row in rows]

    def _result(self, row: Row | str | None, max_characters: int | None) -> Encoding | str:
        if row is None:
            return _unreadable(max_characters)
        if isinstance(row, str):
            return row
        ids, type_ids = row
        if not ids:
            return NO_TOKENS
        return {name: ids if name == "input_ids" else type_ids for name in self.columns}

    def _encode_slowly(self, texts: Sequence[Text], side: str | None) -> list[Encoding | str]:
        """Encode with transformers, for tokenizers without a Rust implementation."""
        assert self.tokenizer is not None
        with self._slow:
            rows = encode_slowly(self.tokenizer, texts, max_length=self.max_length, side=side)
        return [
            row if isinstance(row, str) else {name: row[name] for name in self.columns}
            for row in rows
        ]

    def pad(self, encodings: Sequence[Encoding]) -> Batch:
        """Stack encodings into arrays of shape (N, L), L the longest, plus the attention mask."""
        length = max(len(encoding["input_ids"]) for encoding in encodings)
        shape = (len(encodings), length)
        batch_NL: Batch = {
            name: np.full(shape, self.rules.fill[name], dtype=np.int64) for name in self.columns
        }
        batch_NL["attention_mask"] = np.zeros(shape, dtype=np.int64)
        for row, encoding in enumerate(encodings):
            for name, ids in encoding.items():
                batch_NL[name][row, : len(ids)] = ids
            batch_NL["attention_mask"][row, : len(encoding["input_ids"])] = 1
        return batch_NL

    def _problem(self, index: int, text: Text, max_characters: int | None) -> str | None:
        if self.is_pair != isinstance(text, tuple):
            expected = "a pair of texts" if self.is_pair else "one text"
            raise TextError(index, f"this model classifies {expected} at a time")
        for part in text if isinstance(text, tuple) else (text,):
            if problem := text_problem(part):
                return problem
            if max_characters is not None and len(part) > max_characters:
                return _unreadable(max_characters)
        return None

    def _too_long(self, text: Text, length: int) -> str:
        known = "at least " if self._fast and self._fast.may_cut(text) else ""
        limit = f"over the limit of {self.max_length} tokens"
        return f"{known}{length} tokens, {limit}; shorten the text or enable truncation"


def _unreadable(max_characters: int | None) -> str:
    return (
        f"more than {max_characters} characters must be read to truncate this text, the limit "
        "(max_text_characters); shorten the text"
    )
