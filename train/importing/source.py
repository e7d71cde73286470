"""The checkpoint that is imported: its files, what identifies them, and what is refused unread.

Only JSON is parsed here. Nothing in the source is ever written, and no code from it is run: a file
that is not one of a model's configuration, weights and tokenizer is not even read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve.bundle.agreement import MEAN_POOLED
from serve.bundle.architecture import code_keys, implementations, sizes_over
from serve.bundle.contents import (
    CONFIG,
    MAX_JSON_BYTES,
    MAX_TOKENIZER_BYTES,
    TOKENIZER_CONFIG,
    is_tokenizer_file,
    parse_object,
)
from serve.bundle.location import bundle_at
from serve.bundle.manifest import MANIFEST
from serve.files import sha256_of
from serve.language.spelling import shown
from train.importing.refusal import ImportRefused
from train.model.source import WEIGHTS

HUB = "hub:"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")

MAX_WEIGHTS_GB = 20.0
"""Default limit of the weights' files; in fp32 a model takes up to twice that in memory."""

MAX_SHARDS = 1000

_OTHER_WEIGHTS = {
    "tf_model.h5": "TensorFlow",
    "flax_model.msgpack": "Flax",
    "rust_model.ot": "Rust",
}
_JSON_FILES = (CONFIG, TOKENIZER_CONFIG)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A checkpoint whose files are there, complete and not too large."""

    directory: Path
    name: str
    """As the manifest states it: a Hub id, or the name of the directory."""

    revision: str | None
    """The commit of a Hub id."""

    weights: tuple[str, ...]
    """Names of the files with weights, the index first, as transformers chooses them."""

    content: dict[str, str]
    """SHA-256 of every file that is read, by name."""

    config: dict[str, Any]
    """Of `config.json`."""

    tokenizer: dict[str, Any]
    """Of `tokenizer_config.json`; empty without one."""

    @property
    def has_safetensors(self) -> bool:
        """Whether the weights are in safetensors files, and not in pickles."""
        return all(name.endswith((".safetensors", ".json")) for name in self.weights)


def open_source(given: str, *, max_weights_gb: float = MAX_WEIGHTS_GB) -> Source:
    """Find a checkpoint, a directory or hub:OWNER/NAME[@REVISION], and check its files.

    Raises ValueError for one that is not there, and ImportRefused for one that cannot be imported
    as far as its JSON files tell.
    """
    directory, name, revision = find_source(given, max_weights_gb=max_weights_gb)
    return read_source(directory, name, revision, max_weights_gb=max_weights_gb)


def find_source(given: str, *, max_weights_gb: float) -> tuple[Path, str, str | None]:
    """Return the directory of a source, fetched if it is on the Hub; its name, and its commit."""
    if not given.startswith(HUB):
        directory = local_directory(given)
        return directory, directory.resolve().name, None
    from train.importing.hub import fetch

    model = given.removeprefix(HUB)
    directory, commit = fetch(model, max_weights_gb=max_weights_gb)
    return directory, model.partition("@")[0], commit


def local_directory(given: str) -> Path:
    """Return the directory that is meant. Raises ValueError if there is none."""
    directory = Path(given)
    if directory.is_dir():
        return directory
    if directory.exists():
        raise ValueError(f"`{shown(given)}` is no directory; name the one that holds `{CONFIG}`")
    hint = f"; for a model of the Hub write {HUB}{given}" if HUB_ID.fullmatch(given) else ""
    raise ValueError(f"there is no directory `{shown(given)}`{hint}")


def read_source(
    directory: Path, name: str, revision: str | None, *, max_weights_gb: float
) -> Source:
    """Check the files of a checkpoint; see `open_source`."""
    if bundle := bundle_at(directory):
        raise ValueError(f"`{bundle}` is a bundle already: `textloop serve {bundle}` serves it")
    _refuse_other_kinds(directory, name)
    values = {each: _values(directory, each) for each in _JSON_FILES}
    config, tokenizer = values[CONFIG], values[TOKENIZER_CONFIG]
    weights = _weight_files(directory, name)
    num_bytes = sum((directory / each).stat().st_size for each in weights)
    if num_bytes > max_weights_gb * 1e9:
        raise ImportRefused(
            f"the weights of `{name}` have {num_bytes / 1e9:.1f} GB, over the limit of "
            f"{max_weights_gb:g}; raise it with --max-weights-gb if the memory holds them in fp32"
        )
    for problem in (*_problems(config, tokenizer), *sizes_over(config, num_bytes)):
        raise ImportRefused(f"`{name}` {problem}")
    words = sorted(each.name for each in directory.iterdir() if is_tokenizer_file(each.name))
    read = sorted({*weights, CONFIG, *(each for each in words if (directory / each).is_file())})
    for each in read:
        _check_file(directory, each, weights)
    return Source(
        directory=directory,
        name=name,
        revision=revision,
        weights=weights,
        content={each: sha256_of(directory / each) for each in read},
        config=config,
        tokenizer=tokenizer,
    )


def _refuse_other_kinds(directory: Path, name: str) -> None:
    """Raise ImportRefused for what is no checkpoint of a whole model."""
    if (directory / "adapter_config.json").is_file():
        raise ImportRefused(
            f"`{name}` is an adapter (peft), not a whole model; merge it into its base with "
            "`AutoPeftModelForSequenceClassification.from_pretrained(...).merge_and_unload()`, "
            "save the result and its tokenizer with `save_pretrained`, and import that directory"
        )
    if (directory / "model_head.pkl").is_file():
        raise ImportRefused(
            f"`{name}` is a SetFit model: its head is a pickle of scikit-learn, which may run "
            "code; train a head here, `textloop fit` with this directory as model.base"
        )
    if not (directory / CONFIG).is_file():
        extra = f" (`{MANIFEST}` alone makes no bundle)" if (directory / MANIFEST).exists() else ""
        raise ValueError(
            f"`{name}` has no `{CONFIG}`, so it is no Hugging Face model{extra}; name the "
            "directory that `save_pretrained` wrote"
        )


def _weight_files(directory: Path, name: str) -> tuple[str, ...]:
    """Return the files with weights that transformers would load, index first."""
    first = next((each for each in WEIGHTS if (directory / each).is_file()), None)
    if first is None:
        other = next((k for f, k in _OTHER_WEIGHTS.items() if (directory / f).is_file()), None)
        how = f"only those of {other}; convert them to PyTorch" if other else "none that are known"
        raise ImportRefused(f"`{name}` has no weights for PyTorch, {how}; expected {WEIGHTS[0]}")
    if not first.endswith(".index.json"):
        return (first,)
    shards = _values(directory, first).get("weight_map")
    names = sorted(set(shards.values())) if isinstance(shards, dict) else []
    if not names or len(names) > MAX_SHARDS or not all(_is_plain(each) for each in names):
        raise ImportRefused(f"`{name}`: `{first}` does not list the files of the weights")
    for each in names:
        if not (directory / each).is_file():
            raise ImportRefused(f"`{name}`: `{first}` names `{each}`, which is missing")
    return (first, *names)


def _is_plain(name: Any) -> bool:
    """Whether a name in an index is one of a file of weights in the same directory."""
    return isinstance(name, str) and re.fullmatch(r"[\w.-]+\.(safetensors|bin)", name) is not None


def _problems(config: dict[str, Any], tokenizer: dict[str, Any]) -> Iterator[str]:
    for key in (*code_keys(config), *code_keys(tokenizer)):
        yield (
            f"brings code of its own (`{key}`), and Textloop runs no code from a model; choose one "
            "whose architecture and tokenizer are part of transformers, or, if this one is, remove "
            "the key from a copy"
        )
    for key, wanted in implementations(config):
        yield f"asks for `{key}` = {wanted!r}, code from outside transformers; remove it in a copy"
    if config.get("transformers_weights"):
        yield "names its weights in `transformers_weights`; rename the file to model.safetensors"
    if quantized := config.get("quantization_config") or config.get("compression_config"):
        method = quantized.get("quant_method") if isinstance(quantized, dict) else quantized
        yield f"has quantized weights ({shown(str(method), 40)}); import the original model"
    if config.get("model_type") == MEAN_POOLED:
        yield "is the model of a bundle with mean pooling, without its manifest; use the bundle"


def _check_file(directory: Path, name: str, weights: tuple[str, ...]) -> None:
    """Raise ImportRefused for a file that is too large for what it is."""
    size = (directory / name).stat().st_size
    if name in weights and not name.endswith(".json"):
        return
    limit = MAX_TOKENIZER_BYTES if is_tokenizer_file(name) else MAX_JSON_BYTES
    if size > limit:
        raise ImportRefused(f"`{name}` has {size:,} bytes, over the limit of {limit:,}")


def _values(directory: Path, name: str) -> dict[str, Any]:
    """Read a JSON object of the source; empty for a file that is not there."""
    file = directory / name
    if not file.is_file():
        return {}
    if file.stat().st_size > MAX_JSON_BYTES:
        raise ImportRefused(f"`{file}` has more than {MAX_JSON_BYTES:,} bytes")
    try:
        return parse_object(file.read_bytes())
    except ValueError as error:
        raise ImportRefused(f"`{file}` is not a JSON object: {error}") from None
