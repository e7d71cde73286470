"""The base model and its tokenizer.

Decides where a base comes from, which of its weights were never trained, and which modules a run
therefore trains and saves in full. A saved model loads in the stock
`AutoModelForSequenceClassification` and gives the same logits, except with mean pooling: see
`serve.inference.pooling`.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from serve.inference.pooling import MeanPooling, is_pooled, stock_settings
from serve.inference.text import TextEncoder
from serve.language.lines import first_line
from train.config.run import ModelConfig, RunConfig
from train.data.addresses import presentable
from train.model.compatibility import (
    check_positions,
    check_tokenizer,
    padding_note,
    reconcile,
    set_pad_token,
)
from train.model.kept_head import keep_rows
from train.model.source import (
    check_source,
    encoder_decoder_problem,
    locate_base,
    open_base_bundle,
)


@dataclass(frozen=True, kw_only=True)
class Base:
    """A pretrained model with a new head for the run's labels."""

    model: Any
    encoder: TextEncoder
    trained_modules: tuple[str, ...]
    """Names of the modules trained and saved in full: the head, and the pooler if untrained."""

    notes: tuple[str, ...]
    """What the user should know about the base."""

    new_outputs: tuple[int, ...] | None = None
    """Of a base that is a bundle: the outputs of labels that it does not know; else None."""


def load_base(config: RunConfig, labels: tuple[str, ...]) -> Base:
    """Load the base in fp32 with a new head, and replace an untrained pooler.

    Raises ValueError if the base cannot be loaded or trained, if `max_length` exceeds its
    positions, and if its head does not support `model.pooling: mean`.
    """
    path, revision = locate_base(config.model)
    check_source(config.model)
    source: dict[str, Any] = {"revision": revision} if revision else {"local_files_only": True}
    source["trust_remote_code"] = False
    if revision is None:
        if not config.model.starts_from_bundle:
            _refuse_mean_pooled(config.model, Path(path))
        transformers_logging.disable_progress_bar()  # there is no download to watch
    with _explained(config.model):
        tokenizer = AutoTokenizer.from_pretrained(path, **source)
        settings = _architecture(config, labels, path, source)
    _check_architecture(config.model, settings)
    set_pad_token(config.model, tokenizer, settings)
    quantized = {"quantization_config": four_bit()} if config.quantize else {}
    with _explained(config.model):
        model, info = _load_model(settings, path, source | quantized)
    reconcile(config.model, model, tokenizer)
    head_name, head = last_linear(model)
    if config.model.head_init == "random" and not config.model.starts_from_bundle:
        head.reset_parameters()  # the base may bring a head for other labels
    new_outputs = None
    if config.model.starts_from_bundle:
        known = open_base_bundle(config.model, verify=False).manifest.labels
        new_outputs = keep_rows(head, head_name, Path(path), known, labels, config.data.label_map)
    trained = _untrained_modules(config.model, model, head_name, info)
    encoder = TextEncoder.of(tokenizer, max_length=config.model.max_length, is_pair=config.is_pair)
    check_tokenizer(config.model, model, encoder)
    check_positions(config.model, model, encoder)
    notes = list(padding_note(config.model, model, encoder))
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
        encoder=encoder,
        trained_modules=tuple(sorted(trained)),
        notes=tuple(notes),
        new_outputs=new_outputs,
    )


@contextlib.contextmanager
def _explained(model: ModelConfig) -> Iterator[None]:
    """Raise ValueError, with the base, for whatever its files make a library raise."""
    try:
        yield
    except Exception as error:  # damaged files raise errors of safetensors, pickle, json, ...
        raise ValueError(
            f"model.base `{model.base}` cannot be loaded: {presentable(first_line(error))}"
        ) from error


def _check_architecture(model: ModelConfig, settings: Any) -> None:
    """Raise ValueError for an architecture that classifies no sequences, or fails at it."""
    if settings.is_encoder_decoder:
        problem = encoder_decoder_problem(settings.model_type)
        raise ValueError(f"model.base `{model.base}` {problem}")
    if settings.model_type not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
        raise ValueError(
            f"model.base `{model.base}`: transformers has no sequence classifier for the "
            f"architecture {settings.model_type!r}; choose another base"
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
    outputs: dict[str, Any] = {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
        "problem_type": f"{config.task}_classification",
    }
    if config.model.starts_from_bundle:  # whose model type may be Textloop's own
        settings = stock_settings(Path(path))
        for name, value in outputs.items():
            setattr(settings, name, value)
    else:
        settings = AutoConfig.from_pretrained(path, **outputs, **source)
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


def _load_model(settings: Any, path: str, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Load the weights in fp32, or in 4 bits; returns the model and transformers' loading_info."""
    # Without `dtype` transformers loads in the checkpoint's own.
    loaded, info = AutoModelForSequenceClassification.from_pretrained(
        path,
        config=settings,
        dtype=torch.float32,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # a head of another number of labels
        **options,
    )
    for module in loaded.modules() if "quantization_config" in options else ():
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


def _untrained_modules(
    base: ModelConfig, model: Any, head_name: str, info: dict[str, Any]
) -> set[str]:
    """Return the modules with weights that the base does not bring, and the head.

    Raises ValueError if the base lacks weights below its head and pooler: they would be random.
    """
    mismatched = [key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]]
    prefix = model.base_model_prefix + "."
    absent = sorted({*info["missing_keys"], *mismatched})
    body = [name for name in absent if name.startswith(prefix)]
    if lacking := [name for name in body if "pooler" not in name.split(".")]:
        raise ValueError(
            f"model.base `{base.base}` lacks {len(lacking)} of the weights that its config.json "
            f"describes, such as `{lacking[0]}`: they would be random; the download may be "
            "incomplete, or config.json is that of another model"
        )
    return {name.removeprefix(prefix).split(".")[0] for name in {head_name, *absent}}


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
