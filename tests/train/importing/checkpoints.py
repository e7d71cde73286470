"""Tiny Hugging Face classifiers as other people publish them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from architectures import CONFIGS, SIZES, base_of
from transformers import (
    AlbertConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    CamembertConfig,
    ConvBertConfig,
    FNetConfig,
    FunnelConfig,
    T5Config,
    XLNetConfig,
)

LABELS = ("negative", "neutral", "positive")

MORE: dict[str, Any] = {
    "albert": lambda: AlbertConfig(**SIZES, embedding_size=16),
    "camembert": lambda: CamembertConfig(**SIZES),
    "funnel": lambda: FunnelConfig(
        vocab_size=80, d_model=32, n_head=2, d_head=16, d_inner=48, block_sizes=[1, 1]
    ),
    "convbert": lambda: ConvBertConfig(**SIZES, embedding_size=16),
    "fnet": lambda: FNetConfig(**SIZES),
    "xlnet": lambda: XLNetConfig(vocab_size=80, d_model=32, n_layer=2, n_head=2, d_inner=48),
    "t5": lambda: T5Config(
        vocab_size=80, d_model=32, d_kv=16, d_ff=48, num_layers=2, num_heads=2, pad_token_id=0
    ),
}

ARCHITECTURES = ("albert", "camembert", "funnel", *CONFIGS)
"""Those that are imported."""

REFUSED = {
    "convbert": "does not mask padding",
    "xlnet": "does not mask padding",
    "fnet": "takes no attention mask",
    "t5": "is an encoder-decoder",
}
"""Those that are not, and why."""


def classifier(
    name: str, words: Path, path: Path, *, labels: tuple[str, ...] = LABELS, **settings: Any
) -> Path:
    """Save a tiny random classifier with a head for `labels`. words: the tests' tokenizer.

    settings: further values of its configuration.
    """
    config = MORE[name]() if name in MORE else _config_of(name, words, path)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: number for number, label in enumerate(labels)}
    for key, value in settings.items():
        setattr(config, key, value)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(path)
    if name in MORE:
        tokenizer = AutoTokenizer.from_pretrained(words)
        if name in ("camembert", "t5"):
            tokenizer.model_input_names = ["input_ids", "attention_mask"]
        tokenizer.save_pretrained(path)
    return path


def _config_of(name: str, words: Path, path: Path) -> Any:
    """Save base and tokenizer, and return the configuration; the classifier replaces the base."""
    base_of(name, words, path)
    return CONFIGS[name]()


def edit(path: Path, name: str = "config.json", **changes: Any) -> Path:
    """Set keys of a JSON file of a checkpoint; None removes them. Returns the checkpoint."""
    values = json.loads((path / name).read_text()) | changes
    removed = {key for key, value in changes.items() if value is None}
    kept = {key: value for key, value in values.items() if key not in removed}
    (path / name).write_text(json.dumps(kept))
    return path
