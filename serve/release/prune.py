"""Remove deployed bundles that nothing needs: only when asked, never one that may be in use."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

from serve.files import sync_directory
from serve.release.bundles import REMOVED, list_deployed
from serve.release.directory import locked
from serve.release.gate import gate_path
from serve.release.pointer import ReleaseError, bundle_path, read_pointer
from serve.release.servers import live_servers, other_servers


def prune(directory: Path, *, keep: int) -> list[str]:
    """Remove all bundles but those in use and the `keep` newest others; returns their versions.

    In use are the champion, the previous one, and what any server serves, loads or keeps, those of
    other machines included. Raises ReleaseError if a server does not say what it uses.
    """
    with locked(directory):
        pointer = read_pointer(directory)
        if pointer is None:
            return []
        used = {pointer.champion, pointer.previous}
        for server in (*live_servers(directory), *other_servers(directory)):
            if server.version is None:
                raise ReleaseError(f"{server.name} does not say which version it serves")
            used |= {server.version, server.loading, server.retired}
        others = [each.version for each in list_deployed(directory) if each.version not in used]
        for version in (removed := others[keep:]):
            path = bundle_path(directory, version)
            retired = path.with_name(f"{REMOVED}{uuid.uuid4().hex}")
            path.rename(retired)
            gate_path(directory, version).unlink(missing_ok=True)
            sync_directory(path.parent)
            shutil.rmtree(retired)
    return removed
