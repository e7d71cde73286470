"""The bundle of whatever `textloop serve` is given: a bundle, a checkpoint or a Hub id.

A checkpoint is imported in full precision into a cache of the user, `textloop/imported` below
XDG_CACHE_HOME (~/.cache), under a name made from its content: a second start finds it there, and a
changed source makes another one. Needs the extra `serve` alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from serve.bundle.contents import CONFIG
from serve.bundle.location import bundle_at, locate
from serve.bundle.manifest import BundleError
from serve.bundle.seal import open_bundle
from serve.inference.placement import STOCK_SINGLE
from train.importing.convert import convert, describe
from train.importing.labels import Naming
from train.importing.parity import STOCK_BATCH
from train.importing.refusal import require_torch
from train.importing.source import (
    HUB,
    MAX_WEIGHTS_GB,
    Source,
    find_source,
    read_source,
)

FORMAT = 2
"""Raised when bundles are made differently, so that those in the cache are made again."""

ABANDONED_S = 24 * 3600.0
"""Age of a temporary directory of an import that was killed, in seconds, until it is removed."""


def _print_note(note: str) -> None:
    print(note, file=sys.stderr, flush=True)


def bundle_for(
    source: str,
    *,
    text_columns: tuple[str, ...] = ("text",),
    max_weights_gb: float = MAX_WEIGHTS_GB,
    say: Callable[[str], None] = _print_note,
) -> Path:
    """Return the directory of a bundle for `source`, made now if it is a checkpoint.

    source: a bundle, the directory of a run, the directory of a Hugging Face classifier, or
    hub:OWNER/NAME[@REVISION], which may be either. text_columns: two for a model of text pairs,
    of a checkpoint; a bundle has its own. say: receives lines for the user.
    Raises ValueError that says what is there instead, or what is missing here; ImportRefused, a
    ValueError too, for a model that cannot be imported.
    """
    if not source.startswith(HUB):
        if bundle := bundle_at(Path(source)):
            return bundle
        if not Path(source, CONFIG).is_file():
            return locate(Path(source))  # raises with what is there instead
        require_torch(source)
    directory, name, revision = find_source(source, max_weights_gb=max_weights_gb)
    if bundle := bundle_at(directory):
        return bundle
    checkpoint = read_source(directory, name, revision, max_weights_gb=max_weights_gb)
    return _cached(checkpoint, text_columns, say)


def _cached(source: Source, text_columns: tuple[str, ...], say: Callable[[str], None]) -> Path:
    """Return the imported bundle of this content, from the cache or made now."""
    described = describe(source, Naming(renames={}))
    cache = cache_directory()
    _remove_abandoned(cache)
    facts = {
        "format": FORMAT,
        "textloop": version("textloop"),
        "transformers": version("transformers"),
        "name": source.name,
        "content": source.content,
        "text_columns": text_columns,
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    bundle = cache / key
    if bundle.exists():
        try:
            return open_bundle(bundle).path
        except BundleError as error:
            say(f"note: the import in the cache is damaged and is made again ({error})")
            shutil.rmtree(bundle)
    say(f"`{source.name}` is no bundle: importing it in full precision into {bundle}")
    imported = convert(described, bundle, text_columns=text_columns)
    for note in imported.notes:
        say(f"note: {note}")
    parity = imported.bundle.manifest.parity
    worst = max(parity[STOCK_SINGLE], parity[STOCK_BATCH])
    say(
        f"imported: logits within {worst:.1e} of the stock pipeline on {parity['texts']:.0f} texts;"
        f" for int8 on CPUs, thresholds and metrics run `textloop import` with --texts"
    )
    return bundle


def cache_directory() -> Path:
    """Return the directory of the cache. Raises ValueError if it cannot be written."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(root) if Path(root).is_absolute() else Path.home() / ".cache"
    directory = base / "textloop" / "imported"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"cannot write the cache `{directory}`: {error.strerror}; set XDG_CACHE_HOME to a "
            "directory that this user may write, or run `textloop import` and serve its output"
        ) from None
    if not os.access(directory, os.W_OK | os.X_OK):
        raise ValueError(
            f"cannot write the cache `{directory}`: no permission; set XDG_CACHE_HOME to a "
            "directory that this user may write, or run `textloop import` and serve its output"
        )
    return directory


def _remove_abandoned(cache: Path) -> None:
    """Remove what imports that were killed have left."""
    for each in cache.glob(".*"):
        if each.is_dir() and time.time() - each.stat().st_mtime > ABANDONED_S:
            shutil.rmtree(each, ignore_errors=True)
