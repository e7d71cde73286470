"""What a server begins with: a bundle, or the champion of a deployment directory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from serve.bundle.manifest import BundleError
from serve.bundle.seal import Bundle
from serve.processes.group import LoadFailed
from serve.release.bundles import open_deployed
from serve.release.pointer import Pointer, ReleaseError, read_pointer
from serve.release.servers import RefusedVersion

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class First:
    """What answers when a server starts."""

    bundle: Bundle
    deployment: Path | None = None
    """The directory whose releases are followed."""
    pointer: Pointer | None = None
    """Its pointer."""
    refused: RefusedVersion | None = None
    """Why the champion does not answer, where the version before it does."""

    @property
    def generation(self) -> int:
        """The one that answers; 0 for a bundle alone."""
        if self.pointer is None:
            return 0
        return self.pointer.generation - (self.refused is not None)


def serve_deployment(directory: Path, serve: Callable[[First], Result]) -> Result:
    """Call `serve` with the champion of a directory; with the version before it if that fails.

    serve: raises BundleError or LoadFailed if the bundle cannot be loaded. Raises ReleaseError if
    nothing was promoted, and the champion's error if neither can be served.
    """
    pointer = read_pointer(directory)
    if pointer is None:
        raise ReleaseError(
            f"nothing was promoted in `{directory}`; `textloop deploy {directory} BUNDLE` copies a "
            f"bundle there and prints its version, then: `textloop promote {directory} VERSION`"
        )

    try:
        bundle = open_deployed(directory, pointer.champion)
        return serve(First(bundle=bundle, deployment=directory, pointer=pointer))
    except (BundleError, ReleaseError, LoadFailed) as error:
        if pointer.previous is None:
            raise
        logger.error(
            "version %s is refused: %s; version %s answers",
            pointer.champion,
            error,
            pointer.previous,
        )
        return serve(
            First(
                bundle=open_deployed(directory, pointer.previous),
                deployment=directory,
                pointer=pointer,
                refused=RefusedVersion.of(pointer, str(error)),
            )
        )
