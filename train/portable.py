"""What may leave this machine: no absolute path, no credentials, no pickle.

Decides how a configuration is written into a manifest, and which files are refused by
`publish`. It reads no tensors: a pickle is known by its name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from train.config.run import RunConfig

PICKLES = {".bin", ".ckpt", ".joblib", ".npy", ".pickle", ".pkl", ".pt", ".pth"}
"""Suffixes of files that may run code where they are loaded."""

_TEXTS = {".json", ".jsonl", ".md", ".txt", ".yaml", ".yml"}
_VOCABULARIES = {"tokenizer.json", "vocab.json", "vocab.txt", "merges.txt"}
"""Texts whose words may look like a path."""

_USER = re.compile(r"(\w://)[^/@\s]+@")
_QUERY = re.compile(r"(https?://[^?#\s]+)\?[^#\s]*")


def portable_config(config: RunConfig) -> dict[str, Any]:
    """The resolved configuration as it stands in a manifest, without where it is published."""
    values: dict[str, Any] = portable(config.model_dump(mode="json", exclude={"publish"}))
    return values


def portable(values: Any) -> Any:
    """The same values without this machine's paths and without credentials in URLs.

    A path that exists here, or could be made here, becomes relative to the working directory,
    or only its last name where it lies elsewhere. URLs lose `USER:PASSWORD@` and, being often
    signed, the query of http and https.
    """
    if isinstance(values, dict):
        return {key: portable(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [portable(value) for value in values]
    if not isinstance(values, str):
        return values
    path = Path(values)
    if path.is_absolute() and len(path.parts) > 2 and (path.exists() or path.parent.exists()):
        here = Path.cwd()
        return str(path.relative_to(here)) if path.is_relative_to(here) else path.name
    return _QUERY.sub(r"\1", _USER.sub(r"\1", values))


def check_portable(files: Mapping[str, Path], *, private: Mapping[str, Path]) -> None:
    """Refuse files that must not be published.

    files: by their path in what is published. private: directories of this machine that no
    text file may name, by what they are. Raises ValueError that names the file and the remedy.
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
                f"`{name}` is not published: a file of that kind may run code where it is loaded; "
                "remove it, weights go in .safetensors"
            )
        if suffix not in _TEXTS or PurePosixPath(name).name in _VOCABULARIES:
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        for directory, what in names.items():
            # Not inside a longer word, as in a URL.
            if re.search(rf"(?<![\w.~-]){re.escape(str(directory))}(?![\w.-])", text):
                raise ValueError(
                    f"`{name}` is not published: it names the {what} of this machine, "
                    f"`{directory}`; give relative paths in the configuration and run "
                    "`python -m train merge` again"
                )
