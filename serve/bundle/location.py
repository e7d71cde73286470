"""Which directory is meant by a path to a bundle, and what else a path may lead to."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path

from serve.bundle.manifest import MANIFEST, BundleError

MAX_VERSIONS = 1000
"""Entries of a directory among which a bundle is looked for."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def locate(path: Path) -> Path:
    """Return the bundle at `path`: the directory itself, or that of the run there.

    Raises BundleError that says what is there instead, and what to do.
    """
    if bundle := bundle_at(path):
        return bundle
    raise BundleError(_explain(path))


def bundle_at(path: Path) -> Path | None:
    """Return the bundle at `path`, or in the run there; None if there is none."""
    found = (each for each in (path, path / "bundle") if (each / MANIFEST).is_file())
    return next(found, None)


def _explain(path: Path) -> str:
    if bundle := _bundle_near(path):
        return f"`{path}` is not a bundle; the one near it is `{bundle}`"
    if not path.is_dir():
        what = "not a directory" if path.exists() else "there is no such directory"
        hint = ""
        if _HUB_ID.fullmatch(str(path)) and not path.exists():
            hint = (
                "; if this is a Hub id, download it first: "
                f"`hf download {path} --local-dir DIRECTORY`"
            )
        return f"no bundle at `{path}`: {what}{hint}"
    if (path / "fit.json").is_file() or (path / "trainer_state.json").is_file():
        return f"`{path}` is what `fit` trained, not a bundle; create that with `textloop merge`"
    if (path / "adapter_config.json").is_file():
        return (
            f"`{path}` is an adapter of another program, without `{MANIFEST}`; merge it into its "
            "base there, save the result with its tokenizer, and make a bundle of that with "
            "`textloop import`"
        )
    if (path / "adapter").is_dir() or (path / "run.json").is_file():
        return (
            f"`{path}` is a run without a bundle; create it with `textloop merge` and the "
            "run's configuration"
        )
    if (path / "config.json").is_file():
        return (
            f"`{path}` is a Hugging Face model without `{MANIFEST}`, not a bundle; make one of a "
            f"classifier with `textloop import {path} --output DIRECTORY`, or train one with this "
            "model as `model.base`"
        )
    return f"`{path}` has no `{MANIFEST}`, so it is no bundle; bundles are made by `textloop merge`"


def _bundle_near(path: Path) -> Path | None:
    """The bundle that a file, a checkpoint or a folder of a run or of the Hub's cache belongs to.

    Looks two folders up, and one down: a published directory has a folder for each version.
    """
    for above in (path.parent, path.parent.parent) if path.exists() else ():
        for each in (above, above / "bundle"):
            if each != path and (each / MANIFEST).is_file():
                return each
    for folder in (path, path / "snapshots"):
        names = sorted(islice(folder.iterdir(), MAX_VERSIONS)) if folder.is_dir() else []
        if found := next((each for each in names if (each / MANIFEST).is_file()), None):
            return found
    return None
