"""Load a checkpoint with the stock classes of transformers, and write it as a bundle's directory.

What transformers would do without a word is said or refused here: random weights where the file
has none, a head of another number of labels, tokens that the model does not embed, texts longer
than its positions.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve.bundle.contents import CONFIG, TOKENIZER_CONFIG
from serve.bundle.manifest import BundleError
from serve.bundle.tensors import read_tensors
from serve.files import write_atomic
from serve.inference.text import TextEncoder
from serve.language.lines import first_line
from serve.language.spelling import shown
from train.importing.labels import Task
from train.importing.refusal import ImportRefused
from train.importing.source import Source
from train.importing.tokenizer import fit_columns, limit_of, load_tokenizer, set_pad_token


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The stock model in fp32 on the CPU, its stock tokenizer, and what is told about them."""

    source: Source
    model: Any
    tokenizer: Any
    """As it is in the source."""

    encoder: TextEncoder
    """The tokenizer as it is written into the bundle."""

    labels: tuple[str, ...]
    task: Task
    dtype: str
    """Precision of the weights on disk."""

    pads: bool
    """Whether the stock tokenizer can pad, so that the stock pipeline takes batches."""

    notes: tuple[str, ...]

    @property
    def max_length(self) -> int:
        """Maximum tokens per text."""
        return self.encoder.max_length


def load_checkpoint(
    source: Source, labels: tuple[str, ...], task: Task, *, is_pair: bool, max_length: int | None
) -> Checkpoint:
    """Load model and tokenizer. Raises ImportRefused for what the stock classes cannot run.

    max_length: None for the limit of the checkpoint itself; ValueError for one that is over it.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    settings = _settings(source, labels, task)
    model, dtype, notes = _load_model(source, settings)
    tokenizer = load_tokenizer(source)
    pads = tokenizer.pad_token_id is not None
    own = load_tokenizer(source)
    notes += [*set_pad_token(source, own, model), *fit_columns(source, own, model)]
    limit, note = limit_of(source, tokenizer, model, max_length)
    notes += note
    own.model_max_length = limit  # for pipelines, which truncate to it
    encoder = TextEncoder.of(own, max_length=limit, is_pair=is_pair)
    try:
        encoder.check(int(model.get_input_embeddings().weight.shape[0]))
    except NotImplementedError:
        raise ImportRefused(
            f"`{source.name}`: {type(model).__name__} embeds no tokens, which servers need"
        ) from None
    except ValueError as error:
        raise ImportRefused(f"the tokenizer of `{source.name}` cannot be used: {error}") from None
    return Checkpoint(
        source=source,
        model=model,
        tokenizer=tokenizer,
        encoder=encoder,
        labels=labels,
        task=task,
        dtype=dtype,
        pads=pads,
        notes=tuple(notes),
    )


def write_checkpoint(checkpoint: Checkpoint, directory: Path) -> None:
    """Write model and tokenizer as a standard model directory, weights in fp32 safetensors."""
    model, tokenizer = checkpoint.model, checkpoint.encoder.tokenizer
    assert tokenizer is not None
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    # Whatever a checkpoint carries about its own past and machine means nothing in a bundle.
    _rewrite(directory / CONFIG, lambda key: key in _PAST)
    _rewrite(
        directory / TOKENIZER_CONFIG,
        lambda key: key in _PAST or key.endswith(("_file", "_files")) or key == "init_inputs",
    )


_PAST = (
    "_name_or_path",
    "name_or_path",
    "function_to_apply",
    "finetuning_task",
    "task_specific_params",
)


def _rewrite(file: Path, drop: Any) -> None:
    values = json.loads(file.read_text(encoding="utf-8"))
    kept = {key: value for key, value in values.items() if not drop(key)}
    if kept != values:
        write_atomic(file, json.dumps(kept, indent=2, ensure_ascii=False).encode())


def _settings(source: Source, labels: tuple[str, ...], task: Task) -> Any:
    """Return the configuration of the stock class, with the labels that the bundle has."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    )

    # Labels and precision are given below and at the loading, whatever is stated here.
    stated = ("num_labels", "_num_labels", "dtype", "torch_dtype")
    values = {key: value for key, value in source.config.items() if key not in stated}
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise ImportRefused(
            f"`{source.name}`: transformers has no architecture {shown(str(kind), 40)!r}"
        )
    _refuse_other_heads(source, values.get("architectures"))
    if kind not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
        raise ImportRefused(
            f"`{source.name}`: transformers has no sequence classifier for the architecture {kind}"
        )
    values |= {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: number for number, label in enumerate(labels)},
        "problem_type": f"{task}_classification",
    }
    try:
        settings: Any = CONFIG_MAPPING[kind].from_dict(values)
    except Exception as error:  # each architecture checks its own values
        raise ImportRefused(
            f"the config.json of `{source.name}` is none of {kind}: {first_line(error)}"
        ) from error
    if settings.is_encoder_decoder:
        raise ImportRefused(
            f"`{source.name}` is an encoder-decoder ({kind}), which Textloop does not serve: its "
            "classifiers fail for texts with their end token; choose an encoder or a decoder"
        )
    return settings


_HEADS = {
    "ForTokenClassification": "labels every token",
    "ForQuestionAnswering": "finds answers in a text",
    "ForMultipleChoice": "chooses among texts",
    "ForNextSentencePrediction": "predicts whether one sentence follows another",
}


def _refuse_other_heads(source: Source, classes: Any) -> None:
    """Refuse a model of another task: its head may have the same names in the file of weights."""
    if not isinstance(classes, list) or not classes:
        return
    names = [str(each) for each in classes]
    if any(each.endswith("ForSequenceClassification") for each in names):
        return
    for ending, what in _HEADS.items():
        if names[0].endswith(ending):
            raise ImportRefused(
                f"`{source.name}` is a {shown(names[0], 80)}, which {what}; Textloop serves "
                "classifiers of whole texts"
            )
    raise ImportRefused(no_head(source.name, shown(names[0], 80)))


def no_head(name: str, kind: str) -> str:
    """Return why a model without a classification head is refused, and what to do."""
    return (
        f"`{name}` is a {kind} without a classification head: it has no labels to answer with; "
        "train a head on labelled texts: `textloop fit` with model.base set to this model "
        "(method: probe trains the head alone)"
    )


def _load_model(source: Source, settings: Any) -> tuple[Any, str, list[str]]:
    """Return the stock model in fp32, the precision of its weights on disk, and notes."""
    import torch
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            source.directory,
            config=settings,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=source.has_safetensors,
            weights_only=True,  # what a pickle may hold besides tensors is refused by PyTorch
            attn_implementation=None,
            experts_implementation=None,
            ignore_mismatched_sizes=True,  # named below
            output_loading_info=True,
        )
    except Exception as error:  # damaged files raise errors of safetensors, pickle, torch, ...
        raise ImportRefused(f"`{source.name}` cannot be loaded: {_why(error)}") from error
    _check_weights(source, model, info)
    for name, values in model.named_parameters():
        if values.numel() and not torch.isfinite(values).all():
            raise ImportRefused(f"the weights `{name}` of `{source.name}` are not finite")
    dtype = _dtype_on_disk(source)
    notes = []
    if unused := sorted(info["unexpected_keys"]):
        notes.append(
            f"{len(unused)} weights that the classifier does not use, such as `{unused[0]}`, are "
            "left out, as the stock class does"
        )
    if dtype != "float32":
        notes.append(f"the weights are {dtype} on disk; served in fp32, from the same values")
    return model.eval(), dtype, notes


_PRECISIONS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def _dtype_on_disk(source: Source) -> str:
    """Return the precision of most weights; of pickles as the configuration states it."""
    try:
        names = [each for each in source.weights if each.endswith(".safetensors")]
        bytes_of = Counter[str]()
        for tensor in read_tensors(source.directory, names).values():
            bytes_of[tensor.dtype] += tensor.end - tensor.start
        if bytes_of:
            kind = bytes_of.most_common(1)[0][0]
            return _PRECISIONS.get(kind, kind)
    except BundleError:  # a layout that a bundle may not have, and transformers reads
        pass
    return str(source.config.get("dtype") or source.config.get("torch_dtype") or "float32")


def _why(error: Exception) -> str:
    text = str(error)
    if "weights_only" in text.lower() or "Unsupported global" in text or "WeightsUnpickler" in text:
        return (
            "its pickle holds more than tensors, which could run code; convert it to safetensors "
            "where you trust it"
        )
    return first_line(error)


def _check_weights(source: Source, model: Any, info: dict[str, Any]) -> None:
    """Raise ImportRefused for weights that would be random, and for a head of other labels."""
    prefix = model.base_model_prefix + "."
    mismatched = sorted(info["mismatched_keys"], key=lambda each: not each[0].endswith("weight"))
    for name, stored, expected in mismatched:
        if not name.startswith(prefix) and stored and expected and stored[0] != expected[0]:
            raise ImportRefused(
                f"`{source.name}` has {expected[0]} labels in its config.json, but the head "
                f"`{name}` in its weights has {stored[0]} rows; give as many names with --labels, "
                "after removing id2label from a copy of config.json, or correct it there"
            )
        raise ImportRefused(
            f"the weights `{name}` of `{source.name}` have the shape {tuple(stored)}, but its "
            f"config.json describes {tuple(expected)}"
        )
    missing = sorted(info["missing_keys"])
    if lacking := [name for name in missing if name.startswith(prefix)]:
        raise ImportRefused(
            f"`{source.name}` lacks {len(lacking)} of the weights that its config.json describes, "
            f"such as `{lacking[0]}`: they would be random; the download may be incomplete"
        )
    if missing:
        kind = type(model).__name__.removesuffix("ForSequenceClassification")
        raise ImportRefused(no_head(source.name, f"{kind} model (`{missing[0]}` is missing)"))
