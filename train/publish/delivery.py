"""What every publish target takes and returns, and when a target refuses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from train.config.refusal import Refused

LATEST = "latest"
"""Name of the file, beside the directories of the tags, that holds the newest tag."""


class PublishRefused(Refused):
    """The target did not take the model; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """Files to publish under one tag."""

    tag: str
    files: Mapping[str, Path]
    """Where each file is, by its path in what is published."""

    sealed: Mapping[str, str]
    """SHA-256 of the files that the tag names for ever; the others may be renewed."""

    marker: str
    """The file that makes the rest a whole: a reader looks for it first, it is written last."""


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """What was done."""

    place: str
    """Where the model is, for people."""

    changed: int
    """Number of files written or deleted; 0 if all was there."""


def refuse_other_content(place: str, package: Package, there: Mapping[str, str | None]) -> None:
    """Raise PublishRefused where a tag that exists does not name the package's sealed files.

    there: SHA-256 of each file under the tag, None for one that is missing.
    """
    other = sorted(name for name, digest in package.sealed.items() if there.get(name) != digest)
    if other:
        raise PublishRefused(
            f"{place} already holds other content under the tag {package.tag} (`{other[0]}` "
            "differs); a tag names one model for ever: choose another publish.tag"
        )
