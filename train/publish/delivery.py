"""Types shared by the publish targets: the package, the delivery, and the refusal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from train.config.refusal import Refused

LATEST = "latest"
"""Name of the file, next to the directories of the tags, that holds the newest tag."""


class PublishRefused(Refused):
    """The target did not accept the model; the message gives the reason and the remedy."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """Files to publish under one tag."""

    tag: str
    files: Mapping[str, Path]
    """Local path of each file, by its published path."""

    sealed: Mapping[str, str]
    """SHA-256 of the files that are immutable under the tag; the others may be replaced."""

    marker: str
    """Published path of the file whose presence means that all others are: it is written last."""


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """The outcome of publishing one package."""

    place: str
    """Where the model is, for display."""

    changed: bool
    """Whether anything was written or deleted; False if the target was up to date."""


def refuse_other_content(place: str, package: Package, there: Mapping[str, str | None]) -> None:
    """Raise PublishRefused if an existing tag does not hold the package's sealed files.

    there: SHA-256 of each file under the tag, None for a missing one.
    """
    other = sorted(name for name, digest in package.sealed.items() if there.get(name) != digest)
    if other:
        raise PublishRefused(
            f"{place} already holds other content under the tag {package.tag} (`{other[0]}` "
            "differs); tags are immutable: choose another publish.tag"
        )
