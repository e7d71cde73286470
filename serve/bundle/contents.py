"""The files of a bundle: which names are known, where they may lie, and how JSON is read.

A library that is given a directory decides by the files that it finds there. So a bundle holds
only files that Textloop writes or knows to be harmless: no code, no pickles, no adapters.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from serve.bundle.manifest import BundleError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
ONNX_FILE = "onnx/model_int8.onnx"
"""Path of the int8 export in a bundle, if the export passed its parity gate."""

GOLDEN = "golden.json"
"""Inputs and the logits that the sealed model gave for them; see `serve.bundle.golden`."""

MAX_JSON_BYTES = 16_000_000
"""Size of a JSON file or header that is read here; most have some kilobytes, that of a model with
100,000 labels 8 MB. Parsing it takes up to 25 times as much memory."""

MAX_TOKENIZER_BYTES = 128_000_000
"""Size of any file of a tokenizer; the largest published ones have 35 MB."""

MAX_ONNX_BYTES = 2**31
"""Limit of protobuf."""

MAX_WEIGHTS_BYTES = 200_000_000_000
"""Size of a file of weights, which is more than one device holds; a sparse file can state more."""

MAX_ENTRIES, MAX_DEPTH = 10_000, 3
"""Files and folders in a bundle, and folders within each other; those written here have one."""

_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")

_TOKENIZER_FILE = re.compile(
    r"[\w.-]*(token|vocab|merges|spiece|sentencepiece|spm|bpe|dict|tekken|emoji)[\w.-]*"
    r"\.(json|txt|model|codes|vocab|src|tgt|tiktoken)|[\w.-]*\.(model|spm|tokenizer)|"
    r"(word_shape|word_pronunciation|byte_maps|normalizer)\.json"
)
"""Names of files that a tokenizer of transformers may read; none of them can be a pickle or
code."""

_OTHER = re.compile(
    r"generation_config\.json|(additional_chat_templates/)?[\w-]+\.jinja|"
    r"(LICENSE|LICENCE|NOTICE)(\.txt|\.md)?"
)
"""Files that nothing here reads."""


def is_tokenizer_file(name: str) -> bool:
    """Return whether a tokenizer may read a file of that name."""
    return name != WEIGHTS_INDEX and _TOKENIZER_FILE.fullmatch(name) is not None


def check_names(path: Path, names: Collection[str]) -> None:
    """Raise BundleError for a listed file that a bundle never has."""
    folded: dict[str, str] = {}
    for name in sorted(names):
        if (other := folded.setdefault(name.casefold(), name)) != name:
            raise BundleError(
                f"bundle `{path}`: the files `{other}` and `{name}` are one file on some systems"
            )
        known = name in (CONFIG, WEIGHTS, WEIGHTS_INDEX, ONNX_FILE, GOLDEN) or _SHARD.fullmatch(
            name
        )
        if known or is_tokenizer_file(name) or _OTHER.fullmatch(name):
            continue
        if name == "adapter_config.json":
            why = "it would load an adapter, and weights from elsewhere"
        elif name.endswith((".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")):
            why = "weights must be in safetensors files; a pickle can run code"
        elif name.endswith((".py", ".so")):
            why = "a bundle holds no code"
        else:
            why = (
                "only the files of a model, its tokenizer, the int8 export and the golden cases "
                "may be there"
            )
        raise BundleError(f"bundle `{path}`: file `{name}` is not one of a bundle: {why}")


def file_names(path: Path) -> list[str]:
    """Relative POSIX paths of all files except the hidden ones that git and the Hub add.

    Raises BundleError for a link that leaves the bundle, for what is no file, and for more files
    and folders than a bundle can have.
    """
    names: list[str] = []
    folders = [path]
    entries = 0
    while folders:
        folder = folders.pop()
        for file in folder.iterdir():
            if file.name.startswith("."):
                continue
            name = file.relative_to(path).as_posix()
            entries += 1
            if entries > MAX_ENTRIES or name.count("/") > MAX_DEPTH:
                raise BundleError(
                    f"bundle `{path}`: more than {MAX_ENTRIES:,} files, or folders nested more "
                    f"than {MAX_DEPTH} deep"
                )
            if file.is_symlink():
                _check_link(path, file, name)
            if file.is_file():
                names.append(name)
            elif file.is_dir():
                folders.append(file)
            else:
                raise BundleError(f"bundle `{path}`: `{name}` is not a regular file")
    return sorted(names)


def _check_link(path: Path, file: Path, name: str) -> None:
    """Accept links within the bundle, and those of the Hub's cache to its own files."""
    root, target = Path(os.path.realpath(path)), Path(os.path.realpath(file))
    roots = [root]
    if root.parent.name == "snapshots":  # models--NAME/snapshots/COMMIT, files in ../../blobs
        roots.append(root.parent.parent / "blobs")
    if file.is_dir() or not any(target.is_relative_to(each) for each in roots):
        raise BundleError(
            f"bundle `{path}`: `{name}` is a link out of the bundle; replace it with the file"
        )


def check_sizes(path: Path, names: Collection[str]) -> None:
    """Raise BundleError for a file that is too large for what it is."""
    for name in names:
        size, limit = (path / name).stat().st_size, _limit(name)
        if size > limit:
            raise BundleError(
                f"bundle `{path}`: file `{name}` has {size:,} bytes, over the limit of {limit:,}"
            )


def _limit(name: str) -> int:
    if name.endswith(".safetensors"):
        return MAX_WEIGHTS_BYTES
    if name == ONNX_FILE:
        return MAX_ONNX_BYTES
    is_small = name == TOKENIZER_CONFIG or not is_tokenizer_file(name)
    return MAX_JSON_BYTES if is_small else MAX_TOKENIZER_BYTES


def parse_object(data: bytes) -> dict[str, Any]:
    """Parse a JSON object. Raises ValueError, also for one that is nested too deeply."""
    try:
        values = json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except ValueError as error:
        if "integer string" in str(error):  # the interpreter's advice is for programmers
            raise ValueError("a number with thousands of digits") from None
        raise
    if not isinstance(values, dict):
        raise ValueError(f"expected an object, got {type(values).__name__}")
    return values


def read_object(path: Path, name: str) -> dict[str, Any]:
    """Read a JSON object of a bundle. Raises BundleError that names the file."""
    try:
        if (path / name).stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"more than {MAX_JSON_BYTES:,} bytes")
        return parse_object((path / name).read_bytes())
    except (OSError, ValueError) as error:
        raise BundleError(f"bundle `{path}`: file `{name}` is not a JSON object: {error}") from None
