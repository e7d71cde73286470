"""Tokenizer, configuration and weights of a base are reconciled before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import DECODER, SIZES, base_from, base_of
from safetensors.torch import load_file, save_file
from transformers import (
    BartConfig,
    CamembertConfig,
    ConvBertConfig,
    LlamaConfig,
    MPNetConfig,
    NystromformerConfig,
    RobertaConfig,
    T5Config,
    XLNetConfig,
)

from serve.inference.equivalence import to_tensors
from serve.inference.pooling import usable_positions
from serve.language.lines import first_line
from train.config.run import RunConfig
from train.model.adapters import check_targets
from train.model.base import Base, load_base

MakeConfig = Callable[..., dict[str, Any]]
NO_LENGTH = {"model_max_length": int(1e30)}


@pytest.fixture
def load(make_config: MakeConfig, tiny_base: Path, tmp_path: Path) -> Callable[..., Base]:
    def load(config: Any, *, tokenizer: dict[str, Any] | None = None, **model: Any) -> Base:
        path = base_from(config, tiny_base, tmp_path / "base", **(tokenizer or {}))
        values = make_config(tmp_path / "run", model={"base": str(path), **model})
        return load_base(RunConfig(**values), ("a", "b"))

    return load


def logits(base: Base, texts: list[str]) -> torch.Tensor:
    with torch.no_grad():
        batch = to_tensors(base.encoder.pad(base.encoder.encode(texts)), "cpu")
        result: torch.Tensor = base.model.eval()(**batch).logits
    return result


@pytest.mark.parametrize("number", [None, 7])
def test_decoder_takes_the_pad_id_of_its_tokenizer(
    load: Callable[..., Base], number: int | None
) -> None:
    config = LlamaConfig(**DECODER | {"pad_token_id": number})

    base = load(config, tokenizer={"model_input_names": ["input_ids", "attention_mask"]})

    assert base.model.config.pad_token_id == 0
    alone = logits(base, ["late parcel"])
    beside = logits(base, ["late parcel", "please help me with the invoice of today"])
    torch.testing.assert_close(beside[:1], alone)


def test_base_without_a_pad_token_asks_for_one(
    make_config: MakeConfig, tiny_base: Path, tmp_path: Path
) -> None:
    path = base_of("gpt2", tiny_base, tmp_path / "base")
    values = make_config(tmp_path / "run", model={"base": str(path)})

    with pytest.raises(ValueError, match=r"has no pad token; set model.pad_token to .*'\[UNK\]'"):
        load_base(RunConfig(**values), ("a", "b"))
    values["model"]["pad_token"] = "<nowhere>"
    with pytest.raises(ValueError, match=r"model.pad_token = '<nowhere>' is not in the vocabulary"):
        load_base(RunConfig(**values), ("a", "b"))
    values["model"]["pad_token"] = "[SEP]"
    base = load_base(RunConfig(**values), ("a", "b"))
    assert base.encoder.rules.fill["input_ids"] == base.model.config.pad_token_id == 3


@pytest.mark.parametrize("kind", [RobertaConfig, CamembertConfig, MPNetConfig])
def test_positions_are_counted_from_the_padding(load: Callable[..., Base], kind: Any) -> None:
    sizes = SIZES | {"pad_token_id": 1, "max_position_embeddings": 66}
    words = NO_LENGTH | {"pad_token": "[UNK]"}

    base = load(kind(**sizes), tokenizer=words, max_length=64)

    assert usable_positions(base.model) == 64
    logits(base, ["help " * 200])
    with pytest.raises(ValueError, match=r"model.max_length = 65, but .* takes at most 64 tokens"):
        load(kind(**sizes), tokenizer=words, max_length=65)


XLNET: dict[str, Any] = {"vocab_size": 80, "d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 48}


def test_minus_one_is_no_limit(load: Callable[..., Base]) -> None:
    base = load(XLNetConfig(**XLNET), tokenizer=NO_LENGTH, max_length=300)

    assert usable_positions(base.model) is None
    assert "depend on padding" in base.notes[0]


def test_architecture_that_needs_padding_on_the_left_is_refused(
    load: Callable[..., Base],
) -> None:
    with pytest.raises(ValueError, match="needs padding on the left, but Textloop pads on the ri"):
        load(XLNetConfig(**XLNET), tokenizer=NO_LENGTH | {"padding_side": "left"})


def test_architecture_of_fixed_lengths_is_refused(load: Callable[..., Base]) -> None:
    config = NystromformerConfig(**SIZES, segment_means_seq_len=16, num_landmarks=8)

    with pytest.raises(ValueError, match="cannot classify texts of different lengths"):
        load(config)


ENCODER_DECODERS: dict[str, Any] = {
    "bart": lambda: BartConfig(
        vocab_size=80,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
    ),
    "t5": lambda: T5Config(vocab_size=80, d_model=32, d_kv=16, d_ff=48, num_layers=1, num_heads=2),
}


@pytest.mark.parametrize("kind", ENCODER_DECODERS)
@pytest.mark.parametrize("is_stated", [True, False])
def test_encoder_decoder_is_refused_before_its_weights_are_read(
    make_config: MakeConfig, tiny_base: Path, tmp_path: Path, kind: str, is_stated: bool
) -> None:
    path = base_from(ENCODER_DECODERS[kind](), tiny_base, tmp_path / "base")
    settings = json.loads((path / "config.json").read_text())
    if not is_stated:
        settings.pop("is_encoder_decoder", None)
    (path / "config.json").write_text(json.dumps(settings))
    (path / "model.safetensors").write_bytes(b"never read" * 10_000)
    values = make_config(tmp_path / "run", model={"base": str(path)})

    with pytest.raises(ValueError, match=rf"is an encoder-decoder \({kind}\)"):
        load_base(RunConfig(**values), ("a", "b"))


def test_padding_that_is_not_masked_is_said(load: Callable[..., Base]) -> None:
    config = ConvBertConfig(**SIZES, embedding_size=16, conv_kernel_size=3, head_ratio=1)

    base = load(config)

    assert any("depend on padding (by " in note for note in base.notes)


def test_pad_token_that_the_base_does_not_embed_is_refused(load: Callable[..., Base]) -> None:
    with pytest.raises(ValueError, match=r"pad_token '\[PAD\]' with id 0|embeds only 3 tokens"):
        load(RobertaConfig(**SIZES | {"vocab_size": 3}))


def test_damaged_weights_are_refused(
    make_config: MakeConfig, tiny_base: Path, tmp_path: Path
) -> None:
    path = base_of("bert", tiny_base, tmp_path / "base")
    weights = load_file(path / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][:] = float("nan")
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    values = make_config(tmp_path / "run", model={"base": str(path)})

    with pytest.raises(ValueError, match="gives logits that are not finite"):
        load_base(RunConfig(**values), ("a", "b"))


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (
            {"target_modules": ["query", "nosuch"]},
            "names 'nosuch', and .* known: all-linear, ",
        ),
        ({"target_modules": ".*query"}, r"names '.\*query', and"),
        ({"target_modules": ["attention"]}, "names 'attention', and"),
        ({"rank_pattern": {"nosuch": 2}}, "lora.rank_pattern names 'nosuch'"),
        ({"target_modules": ["query"], "alpha_pattern": {"key": 2}}, "alpha_pattern names 'key'"),
        ({"target_modules": ["query"], "layers_to_transform": [0, 2]}, "layer 2; .* 0 to 1"),
    ],
)
def test_adapters_for_layers_that_are_not_there_are_refused(
    make_config: MakeConfig, tmp_path: Path, lora: dict[str, Any], message: str
) -> None:
    config = RunConfig(**make_config(tmp_path / "run", lora=lora))

    with pytest.raises(ValueError, match=message):
        check_targets(load_base(config, ("a", "b")), config)


def test_adapters_for_layers_that_are_there_are_taken(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    for lora in (
        {"target_modules": "query"},
        {"target_modules": ["self.query", "dense"], "rank_pattern": {"output.dense": 2}},
        {"target_modules": ["value"], "layers_to_transform": 1},
    ):
        config = RunConfig(**make_config(tmp_path / "run", lora=lora))
        check_targets(load_base(config, ("a", "b")), config)


def test_reason_is_one_plain_line() -> None:
    error = ValueError("\n\x1b[96m [torch.onnx] \x1b[0m no\tsuch operator\nsecond line")

    assert first_line(error) == "[torch.onnx] no such operator"
    assert first_line(ValueError("")) == "ValueError"
    assert len(first_line(ValueError("x" * 900))) == 200
