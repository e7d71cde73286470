"""Odd tokenizers give the stock pipeline's ids, or are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from serve.inference.predictor import Predictor
from tests.train.importing.checkpoints import edit
from tests.train.importing.conftest import bring, refusal_of

TEXTS = ["the parcel was late", "Überraschung im Paket", "box door late parcel", "我的包裹在哪里"]


def with_tokenizer(source: Path, model: Any, trainer: Any, before: Any, **settings: Any) -> Path:
    """Replace the tokenizer of a checkpoint."""
    for each in source.glob("*token*"):
        each.unlink()
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = before
    tokenizer.train_from_iterator([*TEXTS, " ".join(TEXTS)], trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        model_input_names=["input_ids", "attention_mask"],
        **settings,
    ).save_pretrained(source)
    return source


SPECIALS = ["<pad>", "</s>", "<unk>"]


def byte_level(prefix: bool) -> tuple[Any, Any, Any]:
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIALS,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    return models.BPE(), trainer, pre_tokenizers.ByteLevel(add_prefix_space=prefix)


def sentence_pieces() -> tuple[Any, Any, Any]:
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=SPECIALS, unk_token="<unk>", show_progress=False
    )
    return models.Unigram(), trainer, pre_tokenizers.Metaspace()


@pytest.mark.parametrize(
    ("parts", "side"),
    [
        (byte_level(False), "right"),
        (byte_level(True), "left"),
        (sentence_pieces(), "right"),
        (sentence_pieces(), "left"),
    ],
    ids=["bytes", "bytes-prefix-left", "pieces", "pieces-left"],
)
def test_kinds_of_tokenizers_and_both_sides_of_truncation(
    parts: Any, side: str, make: Callable[..., Path], tmp_path: Path
) -> None:
    source = with_tokenizer(make("roberta", vocab_size=400), *parts, truncation_side=side)

    bundle = bring(source, tmp_path / "bundle").bundle

    assert bundle.manifest.tokenizer.truncation_side == side
    assert bundle.manifest.parity["stock_batch"] <= 1e-4


def test_roberta_counts_positions_from_its_padding(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    source = edit(make("roberta", pad_token_id=1), "tokenizer_config.json", model_max_length=512)

    assert bring(source, tmp_path / "bundle").bundle.manifest.max_length == 72 - 2


def test_the_length_of_a_model_without_one_is_said(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    source = edit(make("bloom"), "tokenizer_config.json", model_max_length=int(1e30))

    imported = bring(source, tmp_path / "bundle")

    assert imported.bundle.manifest.max_length == 512
    assert "the model states no maximum length" in imported.notes[0]


@pytest.mark.parametrize("stated", ["many", 0, -1, None, 1e30])
def test_a_length_that_is_none_leaves_the_positions(
    stated: Any, make: Callable[..., Path], tmp_path: Path
) -> None:
    source = edit(make(), "tokenizer_config.json", model_max_length=stated)

    assert bring(source, tmp_path / "bundle").bundle.manifest.max_length == 72


def test_a_shorter_length_may_be_asked_for_and_a_longer_one_not(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    source = make()

    assert bring(source, tmp_path / "a", max_length=16).bundle.manifest.max_length == 16
    assert "takes at most 64 tokens" in refusal_of(source, tmp_path / "b", max_length=65)


def test_a_decoder_without_a_pad_token_is_padded_with_its_end_token(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    source = make("gpt2")
    edit(source, "tokenizer_config.json", eos_token="[SEP]")

    imported = bring(source, tmp_path / "bundle")

    assert "padded with '[SEP]'" in " ".join(imported.notes)
    config = json.loads((tmp_path / "bundle" / "config.json").read_text())
    assert config["pad_token_id"] == imported.bundle.manifest.tokenizer.fill["input_ids"] == 3


def test_columns_that_the_model_does_not_take_are_left_out(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    source = make("distilbert")
    edit(
        source,
        "tokenizer_config.json",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )

    imported = bring(source, tmp_path / "bundle")

    assert imported.bundle.manifest.tokenizer.columns == ("input_ids",)
    assert "takes no token_type_ids" in " ".join(imported.notes)


def test_a_tokenizer_of_a_larger_vocabulary_is_refused(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    message = refusal_of(make("bert", vocab_size=40), tmp_path / "bundle")

    assert "but the model embeds 40 tokens" in message


def test_files_that_a_tokenizer_names_are_no_part_of_the_bundle(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    source = edit(
        make(),
        "tokenizer_config.json",
        name_or_path="/home/somebody/model",
        special_tokens_map_file="/home/somebody/special_tokens_map.json",
    )

    bundle = bring(source, tmp_path / "bundle").bundle

    assert "somebody" not in (bundle.path / "tokenizer_config.json").read_text()


def test_a_tokenizer_written_in_python_is_served_by_transformers(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    source = make("bert", vocab_size=400)
    for each in source.glob("*token*"):
        each.unlink()
    settings = {"tokenizer_class": "ByT5Tokenizer", "extra_ids": 0, "model_max_length": 64}
    (source / "tokenizer_config.json").write_text(json.dumps(settings))

    bundle = bring(source, tmp_path / "bundle").bundle

    assert not bundle.manifest.tokenizer.fast
    text = "a text in bytes"
    ids = Predictor.load(bundle.path, device="cpu").encoder.encode([text])[0]["input_ids"]
    assert list(ids) == AutoTokenizer.from_pretrained(source)(text)["input_ids"]


def test_a_tokenizer_that_answers_differently_once_written_is_refused_with_the_tokens(
    make: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from train.importing import convert

    write = convert.write_checkpoint

    def alter(checkpoint: Any, directory: Path) -> None:
        write(checkpoint, directory)
        file = Tokenizer.from_file(str(directory / "tokenizer.json"))
        file.normalizer = normalizers.Sequence([])
        file.save(str(directory / "tokenizer.json"))

    monkeypatch.setattr(convert, "write_checkpoint", alter)

    message = refusal_of(make(), tmp_path / "bundle")

    assert "the stock tokenizer and the bundle's give different tokens for " in message
