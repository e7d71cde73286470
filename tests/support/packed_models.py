"""Tiny random classifiers that can run without padding."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

from serve.inference.equivalence import to_tensors
from serve.inference.text import Batch

SIZES: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "num_labels": 5,
    "pad_token_id": 1,
    "initializer_range": 0.3,
}

NO_SPECIALS = {f"{name}_token_id": 2 for name in ("bos", "eos", "cls", "sep")}

CONFIGS = {
    "bert": BertConfig(max_position_embeddings=80, **SIZES),
    "distilbert": DistilBertConfig(
        vocab_size=99,
        dim=32,
        n_layers=2,
        n_heads=2,
        hidden_dim=48,
        num_labels=5,
        pad_token_id=1,
        max_position_embeddings=80,
        initializer_range=0.3,
    ),
    "electra": ElectraConfig(embedding_size=32, max_position_embeddings=80, **SIZES),
    "roberta": RobertaConfig(max_position_embeddings=80, **SIZES),
    "xlm-roberta": XLMRobertaConfig(max_position_embeddings=80, **SIZES),
}


def model_of(config: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config).eval()


def padded(model: Any, batch_NL: Batch) -> torch.Tensor:
    logits_NC: torch.Tensor = model(**to_tensors(batch_NL, "cpu")).logits
    return logits_NC
