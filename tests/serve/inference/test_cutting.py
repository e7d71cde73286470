"""Long texts are cut before they are tokenized, and their tokens stay the same.

Tiny tokenizers of every kind, trained here, on random texts full of what could go wrong.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from serve.bundle.manifest import TokenizerRules
from serve.inference import cutting
from serve.inference.cutting import Cutter
from serve.inference.text import TextEncoder, TextError

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "<mask>"]
PIECES = [
    *"parcel late invoice Über café 日本語の文 你好世界 تأخر Ελλάς x1 3,141 a-b don't".split(),
    *[
        "[SEP]",
        "<mask>",
        "[x]",
        "e\u0301",
        "\u200b",
        "\ufffd",
        "\u0000",
        "ﹲ",
        "ﷺ",
        "…",
        "…。",
        "😀",
    ],
    *["\n", "\r\n", "\t", "  ", "   ", "!", "foo!\n", "\u00a0", "\u3000", "\u2581", "_", "'s"],
]
LLAMA = next(pattern for pattern in cutting._PATTERNS if "{1,3}" in pattern)


def corpus(seed: int = 0, size: int = 300) -> list[str]:
    chooser = random.Random(seed)
    return [random_text(chooser, chooser.randint(1, 30)) for _ in range(size)]


def random_text(chooser: random.Random, words: int) -> str:
    kind = chooser.random()
    joint = " " if kind < 0.7 else ""
    return joint.join(chooser.choice(PIECES) for _ in range(words))


def trained(model: Any, trainer: Any, normalizer: Any, pre_tokenizer: Any) -> Tokenizer:
    tokenizer = Tokenizer(model)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def word_piece(**settings: Any) -> Tokenizer:
    return trained(
        models.WordPiece(unk_token="[UNK]"),
        trainers.WordPieceTrainer(vocab_size=200, special_tokens=SPECIALS, show_progress=False),
        normalizers.BertNormalizer(**settings),
        pre_tokenizers.BertPreTokenizer(),
    )


def byte_level(pre_tokenizer: Any, normalizer: Any = None) -> Tokenizer:
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    return trained(models.BPE(), trainer, normalizer, pre_tokenizer)


def unigram(pre_tokenizer: Any, *steps: Any) -> Tokenizer:
    trainer = trainers.UnigramTrainer(
        vocab_size=150, special_tokens=SPECIALS, unk_token="[UNK]", show_progress=False
    )
    return trained(models.Unigram(), trainer, normalizers.Sequence(list(steps)), pre_tokenizer)


def split(pattern: str) -> Any:
    return pre_tokenizers.Split(Regex(pattern), "isolated")


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "bert": lambda: word_piece(lowercase=True),
    "bert cased": lambda: word_piece(lowercase=False, strip_accents=False),
    "bert without chinese": lambda: word_piece(handle_chinese_chars=False),
    "gpt-2": lambda: byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "roberta": lambda: byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "llama 3": lambda: byte_level(
        pre_tokenizers.Sequence(
            [split(LLAMA), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        ),
        normalizers.NFC(),
    ),
    "xlm-r": lambda: unigram(
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]),
        normalizers.Nmt(),
        normalizers.NFKC(),
        normalizers.Replace(Regex(" {2,}"), " "),
    ),
    "deberta": lambda: unigram(
        pre_tokenizers.Metaspace(), normalizers.Strip(), normalizers.NFKC(), normalizers.Lowercase()
    ),
    "metaspace first": lambda: unigram(
        pre_tokenizers.Metaspace(prepend_scheme="first"), normalizers.NFKC()
    ),
}


@pytest.fixture(autouse=True)
def _cut_also_what_is_not_truncated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.inference.fast.COUNTED_CHARACTERS", 0)


@pytest.fixture(scope="module")
def make() -> Callable[..., TextEncoder]:
    made: dict[str, Tokenizer] = {}

    def encoder(kind: str, *, max_length: int, is_pair: bool) -> TextEncoder:
        if kind not in made:
            made[kind] = KINDS[kind]()
        rules = TokenizerRules(
            fast=True,
            columns=("input_ids", "token_type_ids"),
            fill={"input_ids": 0, "token_type_ids": 0},
            truncation_side="right",
        )
        return TextEncoder(rules, max_length=max_length, is_pair=is_pair, raw=made[kind])

    return encoder


def uncut(encoder: TextEncoder, text: Any, side: str | None) -> Any:
    """Ids and types of the whole text, truncated by the library itself."""
    assert encoder._fast is not None
    raw = copy.deepcopy(encoder._fast.raw)
    if side:
        raw.enable_truncation(encoder.max_length, direction=side)
    encoded = raw.encode_batch_fast([text])[0]
    return {"input_ids": encoded.ids, "token_type_ids": encoded.type_ids}


@pytest.mark.parametrize("kind", KINDS)
def test_cut_texts_have_the_tokens_of_the_whole(
    make: Callable[..., TextEncoder], kind: str
) -> None:
    chooser = random.Random(kind)
    cut = 0
    for max_length in (4, 7, 16):
        encoder = make(kind, max_length=max_length, is_pair=False)
        for _ in range(40):
            text = random_text(chooser, chooser.randint(1, 300))
            for side in ("left", "right"):
                (got,) = encoder.encode_each([text], side=side)
                if isinstance(got, dict):
                    assert got == uncut(encoder, text, side)
            (kept,) = encoder.encode_each([text], truncation=False)
            whole = uncut(encoder, text, None)
            too_long = len(whole["input_ids"]) > max_length
            assert isinstance(kept, str) if too_long else kept in (whole, *NOTHING)
            assert encoder._fast is not None
            cut += encoder._fast._read(text, encoder._fast.first_size, "right") not in (text, None)
    assert cut > 30  # of 120: the texts were long enough to be cut


NOTHING = (
    "no token is left of the text after normalization",
    "the text has no visible character",
    "the text is empty",
)


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-r"])
@pytest.mark.parametrize("max_length", [10, 11])
def test_cut_pairs_share_their_tokens_as_whole_ones_do(
    make: Callable[..., TextEncoder], kind: str, max_length: int
) -> None:
    """The longer part gets the odd token, so both lengths may count."""
    encoder = make(kind, max_length=max_length, is_pair=True)
    chooser = random.Random(kind)
    for _ in range(30):
        lengths = chooser.choice([(1, 90), (90, 1), (80, 85), (85, 80), (30, 80)])
        pair = tuple(random_text(chooser, length) for length in lengths)
        for side in ("left", "right"):
            (got,) = encoder.encode_each([pair], side=side)
            if isinstance(got, dict):
                assert got == uncut(encoder, pair, side)
        (kept,) = encoder.encode_each([pair], truncation=False)
        assert isinstance(kept, str)


@pytest.mark.parametrize("kind", ["bert", "roberta", "deberta"])
def test_a_huge_text_costs_as_much_as_its_beginning(
    make: Callable[..., TextEncoder], kind: str
) -> None:
    encoder = make(kind, max_length=128, is_pair=False)
    text = "parcel late again " * 110_000

    started = time.process_time()
    encoder.encode([text])
    with pytest.raises(TextError, match=r"at least .* tokens, over the limit of 128 tokens"):
        encoder.encode([text], truncation=False)

    assert time.process_time() - started < 0.2  # 2 to 7 s for the whole


@pytest.mark.parametrize(
    "text", ["x" * 3000, "\u200b" * 2994 + "parcel", "日本" * 1500], ids=["word", "hidden", "cjk"]
)
def test_what_cannot_be_cut_is_read_whole_up_to_the_limit(
    make: Callable[..., TextEncoder], text: str
) -> None:
    encoder = make("roberta", max_length=16, is_pair=False)

    assert encoder.encode([text], max_characters=3000)[0] == uncut(encoder, text, "right")
    with pytest.raises(TextError, match="more than 2999 characters must be read") as caught:
        encoder.encode(["parcel", text], max_characters=2999)
    assert caught.value.index == 1


def test_chinese_is_cut_where_bert_splits_it(make: Callable[..., TextEncoder]) -> None:
    encoder = make("bert", max_length=16, is_pair=False)
    text = "世界你好" * 5000

    assert encoder.encode([text], max_characters=1000)[0] == uncut(encoder, text, "right")


@pytest.mark.parametrize(
    ("normalizer", "pre_tokenizer", "added"),
    [
        (None, None, None),
        (normalizers.Replace(" ", "\u2581"), None, None),
        (None, pre_tokenizers.Metaspace(split=False), None),
        (None, pre_tokenizers.ByteLevel(use_regex=False), None),
        (None, split(r"\w+ \w+"), None),
        (normalizers.Replace(Regex(r"(\w) (\w)"), "x"), pre_tokenizers.BertPreTokenizer(), None),
        (None, pre_tokenizers.BertPreTokenizer(), "new york"),
    ],
)
def test_tokenizers_without_a_boundary_at_spaces_are_never_cut(
    normalizer: Any, pre_tokenizer: Any, added: str | None
) -> None:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    if added:
        tokenizer.add_tokens([added])

    assert Cutter.of(tokenizer) is None
