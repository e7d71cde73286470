"""Wait until the servers of this machine answer by a generation."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from serve.release.servers import ServerStatus, live_servers

POLL_S = 0.02
"""Seconds between two looks at the status files."""


@dataclass(frozen=True, kw_only=True)
class Waited:
    """What the servers did about a generation."""

    outcome: Literal["none", "switched", "refused", "ended", "timeout"]
    """none: no server runs here. switched: every HTTP process answers by the generation.
    refused: a server does not take it. ended: servers that had not switched are gone, and no
    other is left. timeout: the time was over first."""

    seconds: float
    servers: tuple[ServerStatus, ...]
    """As they were last seen."""

    @property
    def refusing(self) -> ServerStatus:
        """The server that refused."""
        return next(each for each in self.servers if each.refused is not None)


def wait_for(directory: Path, generation: int, *, timeout_s: float) -> Waited:
    """Watch the live servers until all have switched, one refuses, or the time is over.

    A server that answers by a later generation has switched too.
    """
    started = time.monotonic()
    seen: tuple[ServerStatus, ...] = ()
    while True:
        servers = tuple(live_servers(directory))
        seconds = time.monotonic() - started
        if refusing := tuple(each for each in servers if _refuses(each, generation)):
            return Waited(outcome="refused", seconds=seconds, servers=refusing)
        if not servers:
            gone = any(not has_switched(each, generation) for each in seen)
            outcome: Literal["ended", "none", "switched"] = (
                "ended" if gone else "switched" if seen else "none"
            )
            return Waited(outcome=outcome, seconds=seconds, servers=seen)
        if all(has_switched(each, generation) for each in servers):
            return Waited(outcome="switched", seconds=seconds, servers=servers)
        if seconds >= timeout_s:
            return Waited(outcome="timeout", seconds=seconds, servers=servers)
        seen = servers
        time.sleep(POLL_S)


def has_switched(server: ServerStatus, generation: int) -> bool:
    """Whether every HTTP process of a server answers by the generation or a later one."""
    return bool(server.http) and all(
        each.generation is not None and each.generation >= generation for each in server.http
    )


def _refuses(server: ServerStatus, generation: int) -> bool:
    return server.refused is not None and server.refused.generation == generation
