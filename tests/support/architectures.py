"""Tiny random bases, one per supported architecture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rows import FILLER, TOPICS
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BloomConfig,
    DebertaConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    LlamaConfig,
    ModernBertConfig,
    MPNetConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
    XLMRobertaConfig,
)

SIZES: dict[str, Any] = {
    "vocab_size": 80,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "pad_token_id": 0,
    "initializer_range": 0.2,
    "max_position_embeddings": 72,
}
# Published decoders name a pad token in their tokenizer and none in their configuration.
DECODER: dict[str, Any] = SIZES | {
    "num_key_value_heads": 2,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "pad_token_id": None,
}
RELATIVE: dict[str, Any] = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}

CONFIGS: dict[str, Callable[[], Any]] = {
    "bert": lambda: BertConfig(**SIZES),
    "roberta": lambda: RobertaConfig(**SIZES),
    "xlm-roberta": lambda: XLMRobertaConfig(**SIZES),
    "distilbert": lambda: DistilBertConfig(
        vocab_size=80, dim=32, n_layers=2, n_heads=2, hidden_dim=48, max_position_embeddings=72
    ),
    "mpnet": lambda: MPNetConfig(**SIZES),
    "deberta": lambda: DebertaConfig(**SIZES, **RELATIVE),
    "deberta-v2": lambda: DebertaV2Config(**SIZES, **RELATIVE, conv_kernel_size=3),
    "deberta-v3": lambda: DebertaV2Config(
        **SIZES, **RELATIVE, position_buckets=16, norm_rel_ebd="layer_norm", share_att_key=True
    ),
    "electra": lambda: ElectraConfig(**SIZES, embedding_size=16),
    "modernbert": lambda: ModernBertConfig(
        **SIZES, bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3
    ),
    "qwen2": lambda: Qwen2Config(**DECODER | {"vocab_size": 300}),
    "qwen3": lambda: Qwen3Config(**DECODER | {"vocab_size": 300}, head_dim=16),
    "llama": lambda: LlamaConfig(**DECODER),
    "gpt2": lambda: GPT2Config(vocab_size=80, n_embd=32, n_layer=2, n_head=2, n_positions=72),
    "bloom": lambda: BloomConfig(vocab_size=80, hidden_size=32, n_layer=2, n_head=2),
}

NO_PAD_TOKEN = {"gpt2": "[SEP]"}
"""Architectures whose tokenizers have no pad token, and the value of `model.pad_token`."""


def base_of(name: str, tokenizer: Path, path: Path) -> Path:
    """Save a tiny random base of an architecture with the tests' tokenizer."""
    base_from(CONFIGS[name](), tokenizer, path)
    if name.startswith("qwen"):  # transformers reads any vocabulary of theirs as one of bytes
        return _with_byte_tokenizer(path)
    words = AutoTokenizer.from_pretrained(tokenizer)
    if name in NO_PAD_TOKEN:
        words.pad_token = None
    if name not in ("bert", "electra", "deberta", "deberta-v2", "deberta-v3"):
        words.model_input_names = ["input_ids", "attention_mask"]
    words.save_pretrained(path)
    return path


def _with_byte_tokenizer(path: Path) -> Path:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["[PAD]"], show_progress=False)
    words = " ".join((*FILLER, *TOPICS.values())).split()
    tokenizer.train_from_iterator([*words, " ".join(words)], trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(path)
    return path


def base_from(config: Any, tokenizer: Path, path: Path, **changes: Any) -> Path:
    """Save a tiny random base; changes: attributes of its tokenizer."""
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(path)
    words = AutoTokenizer.from_pretrained(tokenizer)
    for name, value in changes.items():
        setattr(words, name, value)
    words.save_pretrained(path)
    return path
