"""What may leave this machine: no absolute path, no credentials, no pickle.

Decides how a configuration is written into a manifest, and which files `publish` refuses. It
reads no tensors: a pickle is recognized by its suffix.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from serve.language.credentials import hide
from train.config.names import BUNDLE
from train.config.run import RunConfig

PICKLES = {".bin", ".ckpt", ".joblib", ".npy", ".pickle", ".pkl", ".pt", ".pth"}
"""Suffixes of files that may run code when they are loaded."""

_TEXTS = {".json", ".jsonl", ".md", ".txt", ".yaml", ".yml"}
_VOCABULARIES = {"tokenizer.json", "vocab.json", "vocab.txt", "merges.txt"}
"""Text files whose tokens may look like a path."""

_USER = re.compile(r"(\w://)[^/@\s]+@")
_QUERY = re.compile(r"(https?://[^?#\s]+)\?[^#\s]*", re.IGNORECASE)
_URL = re.compile(r"(?<![\w+.-])(?:sql:)?[\w+.-]+://[^\s<>`\"]+", re.IGNORECASE)


def portable_config(config: RunConfig) -> dict[str, Any]:
    """Return the resolved configuration for a manifest, without the publish targets."""
    values: dict[str, Any] = portable(config.model_dump(mode="json", exclude={"publish"}))
    return values


def portable(values: Any) -> Any:
    """Return the values without this machine's paths and without credentials in URLs.

    An absolute path that exists, or whose parent does, becomes relative to the working
    directory, or its last component if it is outside. URLs lose `USER:PASSWORD@`, http(s) URLs
    their query, and other addresses their credentials.
    """
    if isinstance(values, dict):
        return {key: portable(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [portable(value) for value in values]
    if not isinstance(values, str):
        return values
    if values.startswith(BUNDLE):
        return BUNDLE + portable(values.removeprefix(BUNDLE))
    path = Path(values)
    if path.is_absolute() and len(path.parts) > 2 and (path.exists() or path.parent.exists()):
        here = Path.cwd()
        return str(path.relative_to(here)) if path.is_relative_to(here) else path.name
    return hide(_QUERY.sub(r"\1", _USER.sub(r"\1", hide(values))))


def _credentials(text: str, *, is_json: bool) -> str | None:
    """Find an address with credentials in a file's text; return it with the credentials hidden."""
    found: Iterator[str] = (match[0] for match in _URL.finditer(text))
    if is_json:
        with contextlib.suppress(json.JSONDecodeError, RecursionError):
            found = _strings(json.loads(text))
    for each in found:
        if (shown := hide(each)) != each:
            return shown
    return None


def _strings(values: Any) -> Iterator[str]:
    if isinstance(values, dict):
        for key, value in values.items():
            yield from (key, *_strings(value))
    elif isinstance(values, list):
        for value in values:
            yield from _strings(value)
    elif isinstance(values, str):
        yield values


def check_portable(files: Mapping[str, Path], *, private: Mapping[str, Path]) -> None:
    """Raise ValueError for a file that must not be published; it names file and remedy.

    files: by their published path. private: directories of this machine that no text file may
    name, by description.
    """
    names = {
        directory.resolve(): what
        for what, directory in private.items()
        if len(directory.resolve().parts) > 1
    }
    for name, path in files.items():
        suffix = PurePosixPath(name).suffix
        if suffix in PICKLES:
            raise ValueError(
                f"`{name}` is not published: a file of this kind may run code when it is loaded; "
                "remove it and store weights as .safetensors"
            )
        if suffix not in _TEXTS or PurePosixPath(name).name in _VOCABULARIES:
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        if shown := _credentials(text, is_json=suffix == ".json"):
            raise ValueError(
                f"`{name}` is not published: `{shown}` contains a password, token or key; put it "
                "into an environment variable, write ${NAME} in the configuration, and rerun "
                "`textloop merge`"
            )
        for directory, what in names.items():
            # Not inside a longer word, as in a URL.
            if re.search(rf"(?<![\w.~-]){re.escape(str(directory))}(?![\w.-])", text):
                raise ValueError(
                    f"`{name}` is not published: it names the {what} of this machine, "
                    f"`{directory}`; use relative paths in the configuration and rerun "
                    "`textloop merge`"
                )
