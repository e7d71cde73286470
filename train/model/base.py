"""The base model and its tokenizer.

Decides where a base comes from, which of its weights were never trained, and which modules a run
therefore trains and saves in full. A saved model loads in the stock
`AutoModelForSequenceClassification` and gives the same logits, except with mean pooling: see
`serve.inference.pooling`.
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
    """A pretrained model with a new head for the run's labels."""

    model: Any
    encoder: TextEncoder
    trained_modules: tuple[str, ...]
    """Names of the modules trained and saved in full: the head, and the pooler if untrained."""

    notes: tuple[str, ...]
    """What the user should know about the base."""


def locate_base(model: ModelConfig) -> tuple[str, str | None]:
    """Return the directory or Hub id of the base, and the revision of a Hub id.

    Raises ValueError for a base that does not exist, and for a Hub id without a revision.
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
            f"model.base `{base}` is no directory, and a Hub id needs model.revision: a commit "
            "pins it, `main` takes the newest"
        )
    return base, model.revision


def weights_sha256(model: ModelConfig) -> str | None:
    """Return the SHA-256 of a local base's model.safetensors, or None for a Hub id.

    A Hub id is pinned by its revision.
    """
    path, revision = locate_base(model)
    file = Path(path) / "model.safetensors"
    if revision is not None or not file.is_file():
        return None
    return sha256_of(file)


def load_base(config: RunConfig, labels: tuple[str, ...]) -> Base:
    """Load the base in fp32 with a new head, and replace an untrained pooler.

    Raises ValueError if the base cannot be loaded, if `max_length` exceeds its positions, and if
    its head does not support `model.pooling: mean`.
    """
    path, revision = locate_base(config.model)
    source: dict[str, Any] = {"revision": revision} if revision else {"local_files_only": True}
    if revision is None:
        _refuse_mean_pooled(config.model, Path(path))
        transformers_logging.disable_progress_bar()  # there is no download to watch
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **source)
        settings = _architecture(config, labels, path, source)
        model, info = _load_model(config.model, settings, path, source)
    except OSError as error:
        raise ValueError(f"model.base `{config.model.base}` cannot be loaded: {error}") from error
    _check_tokenizer(config.model, tokenizer, settings)
    head_name, head = last_linear(model)
    if config.model.head_init == "random":
        head.reset_parameters()  # the base may bring a head for other labels
    trained = _untrained_modules(model, head_name, info)
    notes = []
    if state := _replace_untrained_pooler(model, is_missing="pooler" in trained):
        trained.add("pooler")
        notes.append(
            f"the pooler of `{config.model.base}` {state}; it starts as the identity and "
            "is trained and saved with the head"
        )
    if config.model.pooling == "mean" and not hasattr(settings, "classifier_pooling"):
        MeanPooling(model)
        notes.append("model.pooling=mean: the bundle loads in Textloop, not in stock classes")
    return Base(
        model=model,
        encoder=TextEncoder.of(
            tokenizer, max_length=config.model.max_length, is_pair=config.is_pair
        ),
        trained_modules=tuple(sorted(trained)),
        notes=tuple(notes),
    )


def _refuse_mean_pooled(model: ModelConfig, path: Path) -> None:
    if (path / "config.json").is_file() and is_pooled(path):
        raise ValueError(
            f"model.base `{model.base}` is a model trained with model.pooling: mean; start "
            "from its original base, or from a model with native pooling"
        )


def _architecture(
    config: RunConfig, labels: tuple[str, ...], path: str, source: dict[str, Any]
) -> Any:
    """Load the architecture's configuration and set the run's labels, pooling and dropout."""
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
    return settings


def _set_dropout(settings: Any, dropout: float) -> None:
    """Set every dropout probability in the architecture's configuration."""
    for name, value in settings.to_dict().items():
        if ("dropout" in name or name.endswith("pdrop")) and isinstance(value, int | float | None):
            setattr(settings, name, dropout)


def _load_model(
    model: ModelConfig, settings: Any, path: str, source: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """Load the weights in fp32, or in 4 bits; returns the model and transformers' loading_info."""
    quantized = {"quantization_config": four_bit()} if model.quantize else {}
    # Without `dtype` transformers loads in the checkpoint's own.
    loaded, info = AutoModelForSequenceClassification.from_pretrained(
        path,
        config=settings,
        dtype=torch.float32,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # a head of another number of labels
        **quantized,
        **source,
    )
    for module in loaded.modules() if quantized else ():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # At the first evaluation bitsandbytes would repack the weights and stop training them.
            module.support_avx512bf16_for_cpu = False
    return loaded, info


def four_bit() -> Any:
    """Return the settings for NF4 weights, except heads and poolers (Dettmers et al. 2023, QLoRA).

    Raises ValueError if bitsandbytes is not installed.
    """
    from transformers import BitsAndBytesConfig

    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError("model.quantize needs bitsandbytes: pip install 'textloop[qlora]'")
    bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16 if bf16 else torch.float32,
        llm_int8_skip_modules=["classifier", "score", r".*\bpooler", "pre_classifier"],
    )


def _check_tokenizer(model: ModelConfig, tokenizer: Any, settings: Any) -> None:
    """Raise ValueError without a pad token, and if max_length exceeds the base's positions."""
    if tokenizer.pad_token_id is None:
        raise ValueError(f"the tokenizer of `{model.base}` has no pad token; give it one")
    positions = getattr(settings, "max_position_embeddings", None)
    limit = min(positions or tokenizer.model_max_length, tokenizer.model_max_length)
    if model.max_length > limit:
        raise ValueError(
            f"model.max_length = {model.max_length}, but `{model.base}` takes at most "
            f"{limit} tokens"
        )


def last_linear(model: Any) -> tuple[str, nn.Linear]:
    """Return the name and layer that compute the logits: the last linear one outside the base.

    Raises ValueError if there is none with one output per label.
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


def _untrained_modules(model: Any, head_name: str, info: dict[str, Any]) -> set[str]:
    """Return the modules with weights that the base does not bring, and the head."""
    mismatched = [key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]]
    prefix = model.base_model_prefix + "."
    names = {head_name, *info["missing_keys"], *mismatched}
    return {name.removeprefix(prefix).split(".")[0] for name in names}


def _replace_untrained_pooler(model: Any, *, is_missing: bool) -> str | None:
    """Make the pooler the identity if it was never trained; returns what was wrong with it."""
    pooler = getattr(getattr(model, model.base_model_prefix), "pooler", None)
    dense = getattr(pooler, "dense", None)
    if not isinstance(dense, nn.Linear) or dense.in_features != dense.out_features:
        return None
    if not is_missing and dense.bias.detach().any():
        return None
    with torch.no_grad():
        dense.weight.copy_(torch.eye(dense.in_features))
        dense.bias.zero_()
    return "is missing" if is_missing else "was never trained (its bias is 0)"
