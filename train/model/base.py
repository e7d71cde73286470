"""The base model and its tokenizer.

Decides where a base comes from, which of its weights were never trained, and which modules a
run therefore trains and saves whole. What is saved loads in the stock
`AutoModelForSequenceClassification` and gives the same logits, but for mean pooling, which
`serve.inference.pooling` explains.
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

from serve.files import sha256_of
from serve.inference.pooling import MeanPooling, is_pooled
from serve.inference.text import TextEncoder
from train.config.run import ModelConfig, RunConfig

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True, kw_only=True)
class Base:
    """A pretrained model with a new head of the run's labels."""

    model: Any
    encoder: TextEncoder
    trained_modules: tuple[str, ...]
    """Names of modules that are trained and saved whole: head, and pooler if untrained."""

    notes: tuple[str, ...]
    """What the user should know about the base."""


def locate_base(model: ModelConfig) -> tuple[str, str | None]:
    """Directory or Hub id of the base, and the revision of a Hub id.

    Raises ValueError for a base that is not there, and for a Hub id without a revision.
    """
    base = model.base
    if base.startswith("package:"):
        package, _, inside = base.removeprefix("package:").partition("/")
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ValueError(f"model.base `{base}`: no package `{package}`; pip install it")
        path = Path(spec.submodule_search_locations[0]) / inside
        if not (path / "config.json").is_file():
            raise ValueError(f"model.base `{base}`: no config.json in `{path}`")
        return str(path), None
    if Path(base).is_dir():
        return base, None
    if not _HUB_ID.fullmatch(base) or base.startswith("."):
        raise ValueError(
            f"model.base `{base}` is no directory; expected one, package:NAME/PATH or a Hub id"
        )
    if model.revision is None:
        raise ValueError(
            f"model.base `{base}` is no directory, so it is taken for a Hub id, which needs "
            "model.revision: a commit pins it, `main` takes the newest"
        )
    return base, model.revision


def weights_sha256(model: ModelConfig) -> str | None:
    """SHA-256 of a local base's model.safetensors; None for a Hub id, whose revision pins it."""
    path, revision = locate_base(model)
    file = Path(path) / "model.safetensors"
    if revision is not None or not file.is_file():
        return None
    return sha256_of(file)


def load_base(config: RunConfig, labels: tuple[str, ...]) -> Base:
    """Load the base in fp32 with a new head, and mend an untrained pooler.

    Raises ValueError if `max_length` is more than the base has positions for, and if the base's
    head cannot be given the mean of all tokens where that is asked for.
    """
    path, revision = locate_base(config.model)
    if revision is None and Path(path, "config.json").is_file() and is_pooled(Path(path)):
        raise ValueError(
            f"model.base `{config.model.base}` is a model trained with model.pooling: mean; start "
            "from the base that it was made of, or from a model with native pooling"
        )
    source: dict[str, Any] = {"revision": revision} if revision else {"local_files_only": True}
    quantized = {"quantization_config": four_bit()} if config.lora.quantize else {}
    if revision is None:
        transformers_logging.disable_progress_bar()  # there is no download to watch
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **source)
        settings = AutoConfig.from_pretrained(
            path,
            num_labels=len(labels),
            id2label=dict(enumerate(labels)),
            label2id={label: index for index, label in enumerate(labels)},
            problem_type=f"{config.task}_classification",
            **source,
        )
        if config.model.pooling == "mean" and hasattr(settings, "classifier_pooling"):
            settings.classifier_pooling = "mean"  # ModernBERT's own
        if config.model.dropout is not None:
            _set_dropout(settings, config.model.dropout)
        # transformers loads in the checkpoint's own dtype unless it is told otherwise.
        model, info = AutoModelForSequenceClassification.from_pretrained(
            path,
            config=settings,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # a head of another number of labels
            **quantized,
            **source,
        )
    except OSError as error:
        raise ValueError(f"model.base `{config.model.base}` cannot be loaded: {error}") from error
    for module in model.modules() if quantized else ():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # At the first evaluation bitsandbytes would repack the weights, and train no more.
            module.support_avx512bf16_for_cpu = False
    if tokenizer.pad_token_id is None:
        raise ValueError(f"the tokenizer of `{config.model.base}` has no pad token; give it one")
    positions = getattr(settings, "max_position_embeddings", None)
    limit = min(positions or tokenizer.model_max_length, tokenizer.model_max_length)
    if config.model.max_length > limit:
        raise ValueError(
            f"model.max_length = {config.model.max_length}, but `{config.model.base}` takes "
            f"at most {limit} tokens"
        )
    prefix = model.base_model_prefix + "."
    head_name, head = last_linear(model)
    if config.model.head_init == "random":
        head.reset_parameters()  # the base may bring a head for other labels
    mismatched = [key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]]
    names = {head_name, *info["missing_keys"], *mismatched}
    fresh = {name.removeprefix(prefix).split(".")[0] for name in names}
    notes = []
    pooler = getattr(getattr(model, model.base_model_prefix), "pooler", None)
    dense = getattr(pooler, "dense", None)
    if isinstance(dense, nn.Linear) and dense.in_features == dense.out_features:
        state = "is missing" if "pooler" in fresh else "was never trained (its bias is 0)"
        if "pooler" in fresh or not dense.bias.detach().any():
            with torch.no_grad():
                dense.weight.copy_(torch.eye(dense.in_features))
                dense.bias.zero_()
            fresh.add("pooler")
            notes.append(
                f"the pooler of `{config.model.base}` {state}; it starts as the identity and "
                "is trained and saved with the head"
            )
    if config.model.pooling == "mean" and not hasattr(settings, "classifier_pooling"):
        MeanPooling(model)
        notes.append("model.pooling=mean: the bundle loads in Textloop, not in stock classes")
    encoder = TextEncoder.of(tokenizer, max_length=config.model.max_length, is_pair=config.is_pair)
    return Base(
        model=model, encoder=encoder, trained_modules=tuple(sorted(fresh)), notes=tuple(notes)
    )


def four_bit() -> Any:
    """NF4 weights for everything but heads and poolers (Dettmers et al. 2023, QLoRA).

    Raises ValueError where bitsandbytes is not installed.
    """
    from transformers import BitsAndBytesConfig

    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError("lora.quantize needs bitsandbytes: pip install 'textloop[qlora]'")
    bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16 if bf16 else torch.float32,
        llm_int8_skip_modules=["classifier", "score", r".*\bpooler", "pre_classifier"],
    )


def last_linear(model: Any) -> tuple[str, nn.Linear]:
    """Name and layer that give the logits: the last linear one outside the base model.

    Raises ValueError if there is none with an output for each label.
    """
    prefix = model.base_model_prefix + "."
    head = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith(prefix)
    ]
    if not head or head[-1][1].out_features != model.config.num_labels:
        raise ValueError(
            f"{type(model).__name__} has no linear head of {model.config.num_labels} outputs"
        )
    return head[-1]


def _set_dropout(settings: Any, dropout: float) -> None:
    """Set every dropout probability that the architecture's configuration has."""
    for name, value in settings.to_dict().items():
        if ("dropout" in name or name.endswith("pdrop")) and isinstance(value, int | float | None):
            setattr(settings, name, dropout)
