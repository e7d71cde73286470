"""Tiny random classifiers with three layers, and texts for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    LlamaConfig,
    ModernBertConfig,
    MPNetConfig,
    Qwen2Config,
    RobertaConfig,
)

from serve.bundle.manifest import TokenizerRules
from serve.inference.text import TextEncoder

SIZES: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "num_labels": 5,
    "pad_token_id": 1,
    "initializer_range": 0.3,
}
SPECIALS = {f"{name}_token_id": 2 for name in ("bos", "eos", "cls", "sep")}

CONFIGS: dict[str, Any] = {
    "bert": BertConfig(max_position_embeddings=80, **SIZES),
    "deberta-v2": DebertaV2Config(
        max_position_embeddings=80,
        relative_attention=True,
        pos_att_type=["c2p", "p2c"],
        conv_kernel_size=3,
        **SIZES,
    ),
    "distilbert": DistilBertConfig(
        vocab_size=99,
        dim=32,
        n_layers=3,
        n_heads=2,
        hidden_dim=48,
        num_labels=5,
        pad_token_id=1,
        max_position_embeddings=80,
    ),
    "electra": ElectraConfig(embedding_size=16, max_position_embeddings=80, **SIZES),
    "llama": LlamaConfig(max_position_embeddings=80, **SIZES, bos_token_id=2, eos_token_id=2),
    "modernbert": ModernBertConfig(max_position_embeddings=80, **SIZES, **SPECIALS),
    "mpnet": MPNetConfig(max_position_embeddings=80, **SIZES),
    "qwen2": Qwen2Config(
        max_position_embeddings=80, **SIZES, num_key_value_heads=2, bos_token_id=2, eos_token_id=2
    ),
    "roberta": RobertaConfig(max_position_embeddings=80, **SIZES),
}

CPU = torch.device("cpu")
LENGTHS = (9, 3, 12, 5, 5)


def encoder() -> TextEncoder:
    rules = TokenizerRules(
        fast=True, columns=("input_ids",), fill={"input_ids": 1}, truncation_side="right"
    )
    return TextEncoder(rules, max_length=32, is_pair=False, raw=None)


def encodings() -> list[Any]:
    chooser = np.random.default_rng(0)
    return [{"input_ids": chooser.integers(3, 99, length).tolist()} for length in LENGTHS]


def model_of(name: str) -> Any:
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(CONFIGS[name]).eval()
