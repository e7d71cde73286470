"""Tokenization: truncation, padding, pairs, and rejected texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import normalizers
from transformers import AutoTokenizer

from serve.inference.text import TextEncoder, TextError


@pytest.fixture(scope="module")
def single(tiny_base: Path) -> TextEncoder:
    return TextEncoder.from_directory(tiny_base, max_length=8, is_pair=False)


@pytest.fixture(scope="module")
def pairs(tiny_base: Path) -> TextEncoder:
    return TextEncoder.from_directory(tiny_base, max_length=8, is_pair=True)


def test_length_and_padding_stored_in_the_tokenizer_are_not_applied(single: TextEncoder) -> None:
    """Those of sentence-transformers have some; this one truncates and pads to 6 tokens."""
    short, long = single.encode(["parcel", "my parcel is late again today still"])

    assert len(short["input_ids"]) == 3
    assert len(long["input_ids"]) == 8


def test_ids_are_those_of_the_stock_tokenizer(pairs: TextEncoder, tiny_base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)

    ours = pairs.encode([("my parcel is", "late again today still thanks")])[0]

    stock = tokenizer(
        "my parcel is", "late again today still thanks", truncation=True, max_length=8
    )
    assert ours["input_ids"] == stock["input_ids"]
    assert ours["token_type_ids"] == stock["token_type_ids"]
    assert 1 in ours["token_type_ids"]


def test_too_long_text_is_refused_without_truncation(single: TextEncoder) -> None:
    with pytest.raises(TextError, match="9 tokens, over the limit of 8 tokens") as caught:
        single.encode(["parcel", "my parcel is late again today still"], truncation=False)

    assert caught.value.index == 1


INVISIBLE = [
    *["\u200b\u200b", "\u0001", "\u0000 \u007f", "\u0301", "\u202e", "\ufe0f\u200d", "\ufeff"],
    *["\u3164", "\u2800 \u2800", "\u00ad", "\U000e0041", "\u0e31"],
]


@pytest.mark.parametrize("text", INVISIBLE)
def test_a_text_without_a_visible_character_is_empty(single: TextEncoder, text: str) -> None:
    with pytest.raises(TextError, match=r"no visible character|is empty"):
        single.encode(["fine", text])


@pytest.mark.parametrize("text", ["!", "\u200bx", "é", "日", "😀", "_", "\ue000", "e\u0301"])
def test_a_text_with_a_visible_character_is_none_of_them(single: TextEncoder, text: str) -> None:
    assert len(single.encode([text])) == 1


def test_a_text_of_which_normalization_leaves_nothing_is_refused(tiny_base: Path) -> None:
    """BERT's normalizer removes the replacement character, which is visible."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    tokenizer.backend_tokenizer.normalizer = normalizers.BertNormalizer()
    single = TextEncoder.of(tokenizer, max_length=8, is_pair=False)
    pairs = TextEncoder.of(tokenizer, max_length=8, is_pair=True)

    message = "no token is left of the text after normalization"
    assert single.encode_each(["\ufffd", "parcel"])[0] == message
    assert pairs.encode_each([("parcel", "\ufffd"), ("\ufffd", "late " * 20)]) == [message] * 2


@pytest.mark.parametrize("text", ["", " \n\t", "\ud800"])
def test_unusable_text_is_refused(single: TextEncoder, text: str) -> None:
    with pytest.raises(TextError) as caught:
        single.encode(["fine", text])

    assert caught.value.index == 1


def test_pair_for_a_single_text_model_is_refused_and_the_reverse(
    single: TextEncoder, pairs: TextEncoder
) -> None:
    with pytest.raises(TextError, match="one text at a time"):
        single.encode([("a", "b")])
    with pytest.raises(TextError, match="a pair of texts at a time"):
        pairs.encode(["a"])


def test_padding_fills_to_the_longest_and_masks_the_rest(pairs: TextEncoder) -> None:
    encodings = pairs.encode([("parcel", "late"), ("my parcel", "is late")])

    batch_NL = pairs.pad(encodings)

    assert batch_NL["input_ids"].shape == (2, 7)
    assert batch_NL["attention_mask"].tolist() == [[1] * 5 + [0] * 2, [1] * 7]
    assert (batch_NL["input_ids"][0, 5:] == pairs.tokenizer.pad_token_id).all()
    assert batch_NL["input_ids"].dtype == np.int64


def test_no_texts_give_no_encodings(single: TextEncoder) -> None:
    assert single.encode([]) == []
