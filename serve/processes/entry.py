"""A server's entry among the servers of a deployment directory: what it answers with.

`textloop promote` waits for it. A directory that cannot be written stops no server.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from serve.engine.routing import Report
from serve.release.pointer import ReleaseError, timestamp
from serve.release.servers import HttpProcess, RefusedVersion, Registration, ServerStatus

WRITE_S = 2.0
"""Seconds after which the status is written again, though nothing changed."""

logger = logging.getLogger(__name__)


class Entry:
    """The entry of this server, made when it is first written."""

    def __init__(self, directory: Path, url: str) -> None:
        self.directory = directory
        self.url = url
        self.http: Sequence[int] = ()
        """Pids of the HTTP processes."""
        self._started = timestamp()
        self._registration: Registration | None = None
        self._is_impossible = False
        self._written: tuple[ServerStatus, float] | None = None

    def write(
        self,
        reports: Mapping[int, Report],
        *,
        version: str,
        loading: str | None,
        refused: RefusedVersion | None,
        retired: str | None,
    ) -> None:
        """State what the HTTP processes report, and what the main process does."""
        if self._is_impossible:
            return
        by_pid = {pid: reports.get(pid) for pid in self.http}
        generations = {pid: each.generation if each else None for pid, each in by_pid.items()}
        known = [each for each in generations.values() if each is not None]
        status = ServerStatus(
            host=socket.gethostname(),
            pid=os.getpid(),
            url=self.url,
            started=self._started,
            generation=min(known) if known and len(known) == len(generations) else None,
            version=version,
            loading=loading,
            refused=refused,
            retired=retired,
            http=tuple(HttpProcess(pid=pid, generation=each) for pid, each in generations.items()),
            updated="",
        )
        now = time.monotonic()
        if self._written and self._written[0] == status and now - self._written[1] < WRITE_S:
            return
        self._written = status, now
        self._replace(status.model_copy(update={"updated": timestamp()}))

    def _replace(self, status: ServerStatus) -> None:
        if self._registration is not None:
            self._registration.write(status)
            return
        try:
            self._registration = Registration(self.directory, status)
        except (OSError, ReleaseError) as error:
            self._is_impossible = True
            logger.warning(
                "`%s` cannot be written (%s): `textloop promote` does not wait for this server",
                self.directory,
                error,
            )

    def close(self) -> None:
        """Remove the entry."""
        if self._registration is not None:
            self._registration.close()
