"""What can be checked before PyTorch and transformers are imported, which takes seconds.

The commands call it first, so that a wrong path or too large a `model.max_length` is reported at
once. The stages themselves check everything again, and more.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from serve.language.credentials import hide
from train.config.run import RunConfig
from train.model.source import check_apart, check_source

_NOT_A_PATH = ("://", "sql:", "hub:", "${", "*", "?")
"""What names something else than one local file."""


def check_inputs(config: RunConfig) -> None:
    """Check what a run names, before the first expensive step.

    Raises ValueError for credentials that are written out, data files that are not there, a base
    that cannot be trained, and an output directory that cannot be written.
    """
    _check_credentials(config.model_dump(mode="json"))
    for key in ("train", "validation", "test", "fixes"):
        source = getattr(config.data, key)
        if source is None or any(mark in source for mark in _NOT_A_PATH):
            continue
        if not Path(source).exists():
            raise ValueError(f"data.{key}: cannot read `{source}`: there is no data file")
    check_source(config.model)
    check_apart(config)
    check_output(config.output_dir)


def check_output(directory: Path) -> None:
    """Raise ValueError for a directory that cannot be made or written."""
    there = next(each for each in (directory, *directory.absolute().parents) if each.exists())
    if not there.is_dir():
        raise ValueError(f"output_dir `{directory}`: `{there}` is a file; choose another path")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(
            f"output_dir `{directory}`: no permission to write in `{there}`; choose another path"
        )


def _check_credentials(values: Any, path: str = "") -> None:
    if isinstance(values, dict):
        for key, value in values.items():
            _check_credentials(value, f"{path}.{key}".lstrip("."))
    elif isinstance(values, list):
        for value in values:
            _check_credentials(value, path)
    elif isinstance(values, str) and (hidden := hide(values)) != values:
        raise ValueError(
            f"{path}: `{hidden}` contains a password, token or key, and the configuration is "
            "stored in the bundle; put it into an environment variable"
            + (" and write ${NAME} instead" if path.startswith(("data.", "tune.storage")) else "")
        )


def read_fitted(adapter: Path) -> dict[str, Any]:
    """Read what `fit` recorded. Raises ValueError if nothing was trained, or it cannot be read."""
    record = adapter / "fit.json"
    if not record.is_file():
        raise ValueError(f"`{adapter}` has no trained model; make it with `textloop fit`")
    try:
        fitted: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"`{record}` is broken ({error}); make it again with `textloop fit --fresh`"
        ) from None
    return fitted
