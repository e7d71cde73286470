"""Where a base comes from, what identifies its content, and which bases are refused unread.

Only JSON is parsed here, without PyTorch, so that a wrong base is reported within a second. What
only the loaded model can tell is in `train.model.compatibility`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from serve.bundle.agreement import POOLING
from serve.bundle.architecture import code_keys, implementations, sizes_over
from serve.bundle.contents import CONFIG, parse_object
from serve.bundle.manifest import BundleError
from serve.bundle.seal import Bundle, open_bundle
from serve.files import sha256_of
from train.config.names import BUNDLE
from train.config.run import ModelConfig, RunConfig

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Files with weights, or with the names of those files, in the order in which transformers looks
for them."""

_TOKENIZER_FILE = re.compile(
    r".*(token|vocab|merges|spiece|sentencepiece|spm|bpe|dict|tekken|emoji).*|.*\.model"
)
"""Names of files that a tokenizer may read."""


def locate_base(model: ModelConfig) -> tuple[str, str | None]:
    """Return the directory or Hub id of the base, and the revision of a Hub id.

    Raises ValueError for a base that does not exist, and for a Hub id without a revision.
    """
    base = model.base
    if model.starts_from_bundle:
        return str(open_base_bundle(model, verify=False).path), None
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
            f"model.base `{base}` is no directory; expected one, package:NAME/PATH, bundle:DIR or "
            "a Hub id"
        )
    if model.revision is None:
        raise ValueError(
            f"model.base `{base}` is no directory, and a Hub id needs model.revision: a commit "
            "pins it, `main` takes the newest"
        )
    return base, model.revision


def open_base_bundle(model: ModelConfig, *, verify: bool = True) -> Bundle:
    """Open the bundle that `model.base` names. Raises ValueError, with the reason."""
    try:
        return open_bundle(model.base.removeprefix(BUNDLE), verify=verify)
    except BundleError as error:
        raise ValueError(f"model.base `{model.base}`: {error}") from None


def base_content(model: ModelConfig) -> dict[str, str]:
    """Return what identifies the content of a base.

    For a directory: the SHA-256 of each file that is loaded, by name: weights in any layout,
    config.json and the tokenizer's files. For a Hub id: the commit that its revision names, which
    is itself a hash of the content.
    """
    path, revision = locate_base(model)
    if revision is not None:
        return {"commit": _commit(model.base, revision)}
    directory = Path(path)
    names = {*weight_files(model, directory), "config.json"} | {
        file.name
        for file in directory.iterdir()
        if file.is_file() and _TOKENIZER_FILE.fullmatch(file.name)
    }
    return {name: sha256_of(directory / name) for name in sorted(names)}


def weights_sha256(content: dict[str, str]) -> str | None:
    """Return one hash of a base's weights, from `base_content`; None for a Hub id.

    It is that of the file if there is only one, otherwise that of all names and hashes.
    """
    weights = {
        name: digest
        for name, digest in content.items()
        if name in WEIGHTS or name.endswith((".safetensors", ".bin"))
    }
    if len(weights) == 1:
        return next(iter(weights.values()))
    return hashlib.sha256(json.dumps(weights).encode()).hexdigest() if weights else None


def weight_files(model: ModelConfig, directory: Path) -> list[str]:
    """Return the names of the files with weights that transformers would load, index first.

    Raises ValueError if there are none, or a file that the index names is missing.
    """
    if not (directory / "config.json").is_file():
        raise ValueError(f"model.base `{model.base}` cannot be loaded: it has no config.json")
    first = next((name for name in WEIGHTS if (directory / name).is_file()), None)
    if first is None:
        raise ValueError(
            f"model.base `{model.base}` has no weights; expected one of {', '.join(WEIGHTS)}"
        )
    if not first.endswith(".index.json"):
        return [first]
    shards = sorted(set(_values(model, directory / first).get("weight_map", {}).values()))
    for shard in shards:
        if not (directory / shard).is_file():
            raise ValueError(f"model.base `{model.base}`: `{first}` names `{shard}`, not found")
    return [first, *shards]


def check_source(model: ModelConfig) -> None:
    """Raise ValueError for a base that Textloop does not train, as far as its JSON files tell.

    No code that comes with a base is ever run, and none is fetched because its files name it.
    """
    if model.starts_from_bundle:
        _check_bundle(model)
    path, revision = locate_base(model)
    num_bytes = None
    if revision is None:
        if not (Path(path) / "adapter_config.json").is_file():
            files = weight_files(model, Path(path))
            num_bytes = sum((Path(path) / name).stat().st_size for name in files)
        found = {name: Path(path, name) for name in _JSON_FILES if Path(path, name).is_file()}
    else:
        cached = {name: _hub_file(path, revision, name) for name in _JSON_FILES}
        found = {name: Path(file) for name, file in cached.items() if file}
    values = {name: _values(model, file) for name, file in found.items()}
    for problem in _problems(model, values):
        raise ValueError(f"model.base `{model.base}` {problem}")
    for problem in sizes_over(values.get("config.json", {}), num_bytes):
        raise ValueError(f"model.base `{model.base}` {problem}")
    limits = (
        values.get("config.json", {}).get("max_position_embeddings"),
        values.get("tokenizer_config.json", {}).get("model_max_length"),
    )
    check_length(model, [limit for limit in limits if isinstance(limit, int)])


def _check_bundle(model: ModelConfig) -> None:
    """Raise ValueError for a bundle whose head the run would not go on with."""
    path = open_base_bundle(model).path
    pooling = parse_object((path / CONFIG).read_bytes()).get(POOLING, "native")
    if model.pooling != pooling:
        raise ValueError(
            f"model.base `{model.base}` was trained with model.pooling: {pooling}; set the same"
        )


def check_apart(config: RunConfig) -> None:
    """Raise ValueError for a base that is a bundle which the run's `merge` would replace."""
    if not config.model.starts_from_bundle:
        return
    bundle = open_base_bundle(config.model, verify=False)
    if bundle.path.resolve().is_relative_to(config.output_dir.resolve()):
        raise ValueError(
            f"model.base `{config.model.base}` is in output_dir `{config.output_dir}`, where "
            "`merge` would replace it; choose another output_dir"
        )


def check_length(model: ModelConfig, limits: Iterable[int | None]) -> None:
    """Raise ValueError if `max_length` is over a limit; 0 and -1 state none."""
    limit = min((each for each in limits if each and each > 0), default=model.max_length)
    if model.max_length > limit:
        raise ValueError(
            f"model.max_length = {model.max_length}, but `{model.base}` takes at most "
            f"{limit} tokens"
        )


_JSON_FILES = ("config.json", "tokenizer_config.json", "adapter_config.json")


def _problems(model: ModelConfig, files: dict[str, dict[str, Any]]) -> Iterator[str]:
    config, tokenizer = files.get("config.json", {}), files.get("tokenizer_config.json", {})
    if "adapter_config.json" in files:
        yield "is an adapter; merge it into its own base first, and name the merged model"
    for key in (*code_keys(config), *code_keys(tokenizer)):
        yield (
            f"brings code of its own (`{key}`), and Textloop runs no code from a base; choose "
            "one whose architecture is part of transformers"
        )
    if config.get("transformers_weights"):
        yield "names its weights in `transformers_weights`; rename the file to model.safetensors"
    for key, name in implementations(config):
        yield (
            f"asks for `{key}` = {name!r}, code from outside transformers; remove it from its "
            "config.json"
        )
    quantized = config.get("quantization_config")
    method = quantized.get("quant_method") if isinstance(quantized, dict) else quantized
    if quantized and not (method == "bitsandbytes" and model.quantize):
        yield (
            f"has quantized weights ({method}); name the original model, and set "
            "model.quantize: 4bit to keep its frozen weights in 4 bits"
        )
    if config.get("is_encoder_decoder"):
        yield encoder_decoder_problem(str(config.get("model_type")))


def encoder_decoder_problem(kind: str) -> str:
    """Return why an encoder-decoder is refused."""
    return (
        f"is an encoder-decoder ({kind}), which Textloop does not train: its classifiers fail for "
        "texts that contain their end token; choose an encoder or a decoder"
    )


def _values(model: ModelConfig, file: Path) -> dict[str, Any]:
    try:
        return parse_object(file.read_bytes())
    except ValueError as error:
        raise ValueError(
            f"model.base `{model.base}`: `{file}` is not a JSON object: {error}"
        ) from None


def _commit(base: str, revision: str) -> str:
    from transformers.utils.hub import extract_commit_hash

    commit: str | None = extract_commit_hash(_hub_file(base, revision, "config.json"), None)
    if commit is None:
        raise ValueError(
            f"model.base `{base}`: the Hub did not tell which commit `{revision}` is; download the "
            "model and name its directory"
        )
    return commit


def _hub_file(base: str, revision: str, name: str) -> str | None:
    """Return the path of a file of a Hub model, downloaded if needed; None if it has none.

    Raises ValueError if the model, or its config.json, cannot be had.
    """
    from transformers.utils import cached_file

    try:
        file: str | None = cached_file(
            base,
            name,
            revision=revision,
            _raise_exceptions_for_missing_entries=name == "config.json",
        )
    except OSError as error:
        raise ValueError(f"model.base `{base}` cannot be loaded: {error}") from error
    return file
