"""Tokenization: texts, or pairs of texts, to token ids.

Training, evaluation and serving all use `TextEncoder`, so a model never sees text that was
tokenized differently from its training data.

Shape suffixes: N texts, L tokens.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve.bundle.manifest import TokenizerRules

Text = str | tuple[str, str]
Encoding = dict[str, list[int] | NDArray[np.int32]]
Batch = dict[str, NDArray[np.int64]]


class TextError(ValueError):
    """A text cannot be classified. `index` is its position in the input."""

    def __init__(self, index: int, message: str) -> None:
        super().__init__(message)
        self.index = index


def text_problem(text: object) -> str | None:
    """Return why a text cannot be classified, or None if it can."""
    if not isinstance(text, str):
        return f"expected a string, got {type(text).__name__}"
    if not text.strip():
        return "the text is empty"
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            return f"not valid Unicode: lone surrogate at character {error.start}"
    return None


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
        """raw: a `tokenizers.Tokenizer`, or None to use the transformers `tokenizer`.

        A transformers tokenizer switches truncation on and off in one shared Rust object at
        each call, which is not thread-safe and costs more than the tokenization itself.
        Copies of the Rust object that are never modified give the same ids.
        """
        self.rules = rules
        self.columns = rules.columns
        self.max_length = max_length
        self.is_pair = is_pair
        self.tokenizer = tokenizer
        self._slow = threading.Lock()
        self._raw: dict[str | None, Any] = {}
        if raw is not None:
            for side in (None, "left", "right"):
                self._raw[side] = copy.deepcopy(raw)
                self._raw[side].no_padding()
                self._raw[side].no_truncation()
                if side:
                    self._raw[side].enable_truncation(max_length, direction=side)

    @classmethod
    def from_directory(cls, path: Path, *, max_length: int, is_pair: bool) -> TextEncoder:
        """Load the tokenizer of a model directory with transformers, from local files only."""
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
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

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that affects the token ids."""
        raw = self._raw.get(None)
        if raw is None:
            assert self.tokenizer is not None
            vocabulary = json.dumps(self.tokenizer.get_vocab(), sort_keys=True)
            words = f"{type(self.tokenizer).__name__} {self.tokenizer.init_kwargs} {vocabulary}"
        else:
            words = raw.to_str()
        what = f"{self.max_length} {self.is_pair} {self.rules.model_dump_json()} {words}"
        return hashlib.sha256(what.encode()).hexdigest()

    def encode(
        self, texts: Sequence[Text], *, truncation: bool = True, side: str | None = None
    ) -> list[Encoding]:
        """Return the `input_ids` and other model inputs of each text, in order. Thread-safe.

        A text of more than `max_length` tokens is truncated on `side`, left or right, None for
        the tokenizer's own (of a pair, the longer text first); with truncation False it raises
        TextError instead. Raises TextError for a text that is empty or not valid Unicode.
        """
        for index, text in enumerate(texts):
            for part in self._parts(index, text):
                if problem := text_problem(part):
                    raise TextError(index, problem)
        if not texts:
            return []
        side = side or self.rules.truncation_side
        if self.rules.fast:
            raw = self._raw[side if truncation else None]
            encodings: list[Encoding] = [
                {
                    name: encoded.ids if name == "input_ids" else encoded.type_ids
                    for name in self.columns
                }
                for encoded in raw.encode_batch_fast(list(texts))
            ]
        else:
            encodings = self._encode_slowly(texts, truncation=truncation, side=side)
        for index, encoding in enumerate(encodings):
            if (length := len(encoding["input_ids"])) > self.max_length:
                raise TextError(
                    index, f"{length} tokens, over the limit of {self.max_length} tokens"
                )
        return encodings

    def _encode_slowly(
        self, texts: Sequence[Text], *, truncation: bool, side: str | None
    ) -> list[Encoding]:
        """Encode with transformers, for tokenizers without a Rust implementation."""
        assert self.tokenizer is not None
        with self._slow:
            own, self.tokenizer.truncation_side = self.tokenizer.truncation_side, side
            try:
                columns = self._tokenize(texts, truncation=truncation)
            finally:
                self.tokenizer.truncation_side = own
        return [{name: columns[name][row] for name in self.columns} for row in range(len(texts))]

    def _tokenize(self, texts: Sequence[Text], *, truncation: bool) -> Any:
        assert self.tokenizer is not None
        return self.tokenizer(
            [text[0] if isinstance(text, tuple) else text for text in texts],
            [text[1] for text in texts if isinstance(text, tuple)] or None,
            truncation="longest_first" if truncation else False,
            max_length=self.max_length if truncation else None,
            padding=False,
            return_attention_mask=False,
            verbose=False,
        )

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

    def _parts(self, index: int, text: Text) -> tuple[str, ...]:
        if self.is_pair != isinstance(text, tuple):
            expected = "a pair of texts" if self.is_pair else "one text"
            raise TextError(index, f"this model classifies {expected} at a time")
        return text if isinstance(text, tuple) else (text,)
