"""Whether the parts of a bundle describe the same model: manifest, configuration, weights, export.

An altered bundle may be sealed again with the right hashes. What contradicts itself is refused
here, before anything is loaded: labels and their order, classes, positions, layers, the columns
of the tokenizer, thresholds. It reads JSON and headers only, in a few milliseconds. What only the
loaded model can tell is checked by `serve.inference.predictor`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from serve.bundle.architecture import (
    HEADS,
    LAYERS,
    QUANTIZATION_KEYS,
    code_keys,
    implementations,
    sizes_over,
    walk,
)
from serve.bundle.calibration import calibration_problems
from serve.bundle.contents import CONFIG, GOLDEN, TOKENIZER, TOKENIZER_CONFIG, read_object
from serve.bundle.export import export_problems
from serve.bundle.golden import read_golden
from serve.bundle.manifest import BundleError, Manifest
from serve.bundle.tensors import read_tensors, weight_names

MEAN_POOLED = "textloop_mean_pooled"
"""The `model_type` in the config.json of a mean-pooled model."""

STOCK_TYPE = "textloop_model_type"
"""The field of that config.json with the stock model type."""

POOLING = "textloop_pooling"
"""The field of that config.json with the kind of pooling."""

COLUMNS = ("input_ids", "token_type_ids")
"""Columns of an encoding that are made without transformers."""

_EMBEDDINGS = re.compile(
    r"(.*\.)?(word_embeddings|wte|embed_tokens|tok_embeddings|embed_in)\.weight"
)
_TYPES = re.compile(r"(.*\.)?token_type_embeddings\.weight")
_POSITIONS = re.compile(r"(.*\.)?(position_embeddings|wpe)\.weight")

_TYPE_OF = {"gpt-sw3": "gpt2"}
"""Model types that use the class of another."""

_FROM_PADDING = re.compile(
    r"(xlm-)?roberta(-xl|-prelayernorm)?|camembert|longformer|mpnet|data2vec-text|xmod|luke|lilt|"
    r"markuplm|layoutlmv3"
)
"""Model types that number positions from the padding's id + 1."""

MAX_LENGTH = 2**24
"""Limit of `max_length` where an architecture has none; published models have up to ten million
positions."""


def check_agreement(path: Path, manifest: Manifest) -> None:
    """Raise BundleError for the first contradiction between the parts of a bundle."""
    golden = [GOLDEN] if manifest.schema_version >= 4 else []
    for name in (CONFIG, *([TOKENIZER] if manifest.tokenizer.fast else []), *golden):
        if name not in manifest.files:
            raise BundleError(f"bundle `{path}`: file `{name}` is missing")
    if GOLDEN in manifest.files and not golden:
        raise BundleError(f"bundle `{path}`: schema 3 has no `{GOLDEN}`, but it is there")
    config = read_object(path, CONFIG)
    tokenizer = read_object(path, TOKENIZER_CONFIG) if TOKENIZER_CONFIG in manifest.files else {}
    weights = weight_names(path, set(manifest.files))
    tensors = read_tensors(path, weights)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    num_bytes = sum((path / name).stat().st_size for name in weights)
    problems = chain(
        code_problems(config, CONFIG),
        code_problems(tokenizer, TOKENIZER_CONFIG),
        (f"`{TOKENIZER_CONFIG}` names a file in `{key}`" for key in _files(tokenizer)),
        _model_type(config),
        (f"it {problem}" for problem in sizes_over(config, num_bytes)),
        _labels(manifest, config),
        _columns(manifest, config, tokenizer),
        _shapes(manifest, config, shapes),
        _length(manifest, config),
        calibration_problems(manifest),
        _numbers(manifest),
        export_problems(path, manifest, tensors),
    )
    for problem in problems:
        raise BundleError(f"bundle `{path}`: {problem}")
    if manifest.schema_version >= 4:
        read_golden(path, manifest)


def code_problems(values: dict[str, Any], name: str) -> Iterator[str]:
    """Return what a configuration asks for that transformers would fetch, run or load.

    name: of its file.
    """
    for key in code_keys(values):
        yield f"`{name}` names code (`{key}`), and Textloop runs no code from a bundle"
    for key, wanted in implementations(values):
        yield f"`{name}` asks for `{key}` = {wanted!r}, code from outside transformers"
    if values.get("transformers_weights"):
        yield f"`{name}` names other weights in `transformers_weights`"
    for key, value in walk(values):
        if key in QUANTIZATION_KEYS and value:
            yield f"`{name}` has a `{key}`, but bundles have weights in full precision"
    if values.get("is_encoder_decoder"):
        yield f"`{name}` describes an encoder-decoder, which no bundle is"


def _files(tokenizer: dict[str, Any]) -> Iterator[str]:
    """Return the keys that name files, which are found by their own names alone."""
    names = ("_file", "_files", "init_inputs")
    return (key for key in tokenizer if key.endswith(names) and tokenizer[key])


def _model_type(config: dict[str, Any]) -> Iterator[str]:
    kinds = [config.get("model_type")]
    if kinds == [MEAN_POOLED]:
        kinds.append(config.get(STOCK_TYPE))
    if not isinstance(kinds[-1], str) or kinds[1:] == [MEAN_POOLED]:
        key = "model_type" if len(kinds) == 1 else STOCK_TYPE
        yield f"`{key}` = {kinds[-1]!r} in `config.json` is no architecture"
    if (kinds[0] == MEAN_POOLED) != (config.get(POOLING) == "mean"):
        yield f"`model_type` and `{POOLING}` in `config.json` contradict each other"
    for key in ("dtype", "torch_dtype"):
        if config.get(key) not in (None, "float32", "float16", "bfloat16", "float64"):
            yield f"`{key}` = {config[key]!r} in `config.json` is no precision of a model"
    classes = config.get("architectures")
    if not isinstance(classes, list) or not _is_classifier(classes, str(kinds[-1])):
        yield (
            f"`architectures` = {classes!r} in `config.json`, expected one sequence classifier of "
            f"{kinds[-1]}"
        )


def _is_classifier(classes: list[Any], kind: str) -> bool:
    """Whether a list has one class, that of a model type, which has the same letters."""
    name, _, rest = ",".join(map(str, classes)).partition("ForSequenceClassification")
    letters = [
        sorted(filter(str.isalnum, each.lower())) for each in (name, _TYPE_OF.get(kind, kind))
    ]
    return not rest and letters[0] == letters[1]


def _labels(manifest: Manifest, config: dict[str, Any]) -> Iterator[str]:
    labels = list(manifest.labels)
    if len(labels) < (2 if manifest.task == "single_label" else 1):
        yield f"a {manifest.task} model with {len(labels)} labels in `manifest.json`"
    if len(set(labels)) < len(labels) or "" in labels:
        yield "the labels in `manifest.json` are not all different, or one is empty"
    # transformers leaves its own names of two labels out.
    names = config.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"})
    in_order = {str(number): label for number, label in enumerate(labels)}
    if names != in_order:
        yield _difference("labels", labels, names)
    numbers = config.get("label2id")
    if numbers is not None and numbers != {label: n for n, label in enumerate(labels)}:
        yield "the labels in `manifest.json` are not those of `label2id` in `config.json`"
    if config.get("num_labels", len(labels)) != len(labels):
        yield f"{len(labels)} labels in `manifest.json`, {config['num_labels']} in `config.json`"
    if config.get("problem_type") not in (None, f"{manifest.task}_classification"):
        yield (
            f"task {manifest.task} in `manifest.json`, but `problem_type` = "
            f"{config['problem_type']!r} in `config.json`"
        )
    if len(set(manifest.text_columns)) < len(manifest.text_columns) or "" in manifest.text_columns:
        yield "the text columns in `manifest.json` have the same name, or none"
    data = manifest.config.get("data")
    stated = data.get("text_columns") if isinstance(data, dict) else None
    if isinstance(stated, list) and stated != [*manifest.text_columns]:
        yield f"the text columns in `manifest.json` are not {stated}, as in its `config`"


def _difference(what: str, labels: list[str], names: Any) -> str:
    found = list(names.values()) if isinstance(names, dict) else []
    if len(found) != len(labels):
        return f"{len(labels)} {what} in `manifest.json`, {len(found)} in `config.json`"
    return f"the {what} in `manifest.json` are not those of `config.json`, in the same order"


def _numbers(manifest: Manifest) -> Iterator[str]:
    """Return measured numbers that are none; no JSON of an answer can hold them."""
    measured = manifest.model_dump(include={"metrics", "parity", "int8", "calibration"})
    for key, value in walk(measured):
        if isinstance(value, float) and not math.isfinite(value):
            yield f"`{key}` = {value} in `manifest.json` is not finite"


def _columns(
    manifest: Manifest, config: dict[str, Any], tokenizer: dict[str, Any]
) -> Iterator[str]:
    rules = manifest.tokenizer
    columns = rules.columns
    where = "`tokenizer.columns` in `manifest.json`"
    if columns[:1] != COLUMNS[:1] or len(set(columns)) < len(columns):
        yield f"{where} must start with input_ids, each once, got {list(columns)}"
    if rules.fast and (unknown := sorted(set(columns) - set(COLUMNS))):
        yield f"{where} has the unknown column {unknown[0]!r}"
    if rules.fill.keys() != set(columns):
        yield "`tokenizer.fill` in `manifest.json` does not have one value for each column"
    stated = tokenizer.get("model_input_names")
    if stated is None and str(tokenizer.get("tokenizer_class")).startswith("BertTokenizer"):
        stated = [*COLUMNS, "attention_mask"]  # left out where they are the class's own
    if isinstance(stated, list) and [n for n in stated if n != "attention_mask"] != [*columns]:
        yield f"{where} is {list(columns)}, but the tokenizer's inputs are {stated}"
    if tokenizer.get("truncation_side") not in (None, rules.truncation_side):
        yield (
            f"`manifest.json` truncates on the {rules.truncation_side}, the tokenizer on the "
            f"{tokenizer['truncation_side']}"
        )
    for column, size in zip(COLUMNS, ("vocab_size", "type_vocab_size"), strict=True):
        rows, value = config.get(size), rules.fill.get(column, 0)
        if value < 0 or (isinstance(rows, int) and value >= max(rows, 1)):
            yield f"`tokenizer.fill` in `manifest.json` has {value} for {column}, which is no id"


Shapes = dict[str, tuple[int, ...]]


def _shapes(manifest: Manifest, config: dict[str, Any], shapes: Shapes) -> Iterator[str]:
    labels = len(manifest.labels)
    for name in HEADS:
        if shapes.get(name, (labels,))[:1] != (labels,):
            rows = shapes[name][0] if shapes[name] else 0
            yield f"{labels} labels, but the weights `{name}` give {rows}"
    pad, fill = config.get("pad_token_id"), manifest.tokenizer.fill.get("input_ids")
    # Such a head reads the last token before the padding.
    if "score.weight" in shapes and isinstance(pad, int) and pad != fill:
        yield f"`pad_token_id` = {pad} in `config.json`, but texts are padded with {fill}"
    for pattern, key, size, more in (
        (_EMBEDDINGS, "vocab_size", config.get("vocab_size"), 0),
        (_TYPES, "type_vocab_size", config.get("type_vocab_size"), 0),
        # Some architectures add positions to those that their configuration states.
        (_POSITIONS, "max_position_embeddings", _positions(config), 2),
    ):
        for name, shape in shapes.items():
            if not pattern.fullmatch(name) or not isinstance(size, int):
                continue
            if not shape or not size <= shape[0] <= size + more:
                yield f"`{key}` = {size} in `config.json`, but `{name}` has the shape {shape}"
    stated = next((config[key] for key in LAYERS if isinstance(config.get(key), int)), None)
    layers = _num_layers(config, shapes)
    if stated is not None and layers and stated not in layers:
        yield f"{stated:,} layers in `config.json`, but weights of {max(layers)}"


def _num_layers(config: dict[str, Any], shapes: Shapes) -> set[int]:
    """Lengths of the lists in the weights; none where the architecture shares or nests layers."""
    if config.keys() & {"num_hidden_groups", "block_sizes"}:
        return set()
    groups: dict[str, set[int]] = {}
    for name in shapes:
        if found := re.match(r"(.*?)\.(\d{1,6})\.", name):
            groups.setdefault(found[1], set()).add(int(found[2]))
    return set(map(len, groups.values()))


def _positions(config: dict[str, Any]) -> int | None:
    stated = (config.get(key) for key in ("max_position_embeddings", "n_positions"))
    return next((each for each in stated if isinstance(each, int) and each > 0), None)


def usable_positions(config: dict[str, Any]) -> int | None:
    """Return how many tokens a configuration has positions for; None if it states no limit."""
    positions = _positions(config)
    kind = str(config.get(STOCK_TYPE, config.get("model_type")))
    if positions is None or not _FROM_PADDING.fullmatch(kind):
        return positions
    padding = 1 if kind == "mpnet" else config.get("pad_token_id", 1)
    return positions - padding - 1 if isinstance(padding, int) else positions


def _length(manifest: Manifest, config: dict[str, Any]) -> Iterator[str]:
    limit = usable_positions(config)
    if not 1 <= manifest.max_length <= (MAX_LENGTH if limit is None else limit):
        expected = f"1 to {MAX_LENGTH if limit is None else limit}, as the model has positions"
        yield f"`max_length` = {manifest.max_length} in `manifest.json`, expected {expected}"
