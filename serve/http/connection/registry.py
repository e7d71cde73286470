"""All connections of one HTTP process: how many there may be, and their clock.

The clock stands while the event loop is blocked, so a client is never blamed for time in which
nobody read what it sent. One sweep over all connections takes the place of a timer per request.
What one connection may send is in `.parsing`, how fast in `.timed`.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import resource
import time
from typing import Protocol

from serve import lines
from serve.engine.metrics import HttpMetrics
from serve.settings import ServeConfig

logger = logging.getLogger(__name__)

SWEEP_S = 0.5
"""Seconds between two sweeps: how exact the time limits are."""

LOG_S = 1.0
"""Seconds between two lines about closed connections with the same reason."""

MOST_CONNECTIONS = 8192
"""Default of `max_connections` where enough files may be open."""

OTHER_FILES = 40
"""Open files of an HTTP process besides its connections."""

MOST_FILES = 65_536
"""The limit of open files is raised to at most this: some libraries visit all of them."""

FEW_CONNECTIONS = 256
"""Fewer than this, because of the limit of open files, is worth a warning."""

EVICT_AFTER_S = 1.0
"""Where all connections are taken, one that has waited this long for its client's next request,
or for the rest of a head, makes room for a new one."""

EVICT_BODY_AFTER_S = 5.0
"""The same while a body is being sent."""

EVICT_SHARE = 64
"""One in so many is evicted at a time, so that finding them costs little per new connection."""

STOP_S = 5.0
"""Time limits of clients, at most, once the server is shutting down."""


def raise_file_limit() -> int:
    """Raise the limit of open files as far as it goes, up to MOST_FILES; return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    infinite = resource.RLIM_INFINITY
    wanted = MOST_FILES if hard == infinite else min(hard, MOST_FILES)
    if soft != infinite and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return MOST_FILES if soft == infinite else soft


def max_connections(config: ServeConfig, max_files: int) -> int:
    """Connections of one HTTP process. Raises ValueError if its files do not suffice.

    max_files: how many files a process may have open.
    """
    room = max_files - OTHER_FILES
    most = room - _surplus(room)
    remedy = f"the limit of open files is {max_files}; raise it, as with `ulimit -n`"
    if most < 8:
        raise ValueError(f"no room for connections: {remedy}")
    if config.max_connections is None:
        if most < FEW_CONNECTIONS:
            logger.warning("at most %d connections per HTTP process: %s", most, remedy)
        return min(most, MOST_CONNECTIONS)
    if config.max_connections > most:
        raise ValueError(
            f"max_connections = {config.max_connections} needs more than {most} connections' "
            f"files: {remedy}, or lower max_connections"
        )
    return config.max_connections


def _surplus(connections: int) -> int:
    return max(4, connections // 16)


class Counted(Protocol):
    """What is known here of one connection."""

    transport: asyncio.Transport
    client: tuple[str, int] | None
    is_surplus: bool

    def check_time(self) -> None:
        """Close the connection if its client is out of time."""

    def may_be_evicted(self) -> bool:
        """Whether the server has waited for this client long enough to prefer another."""

    def eviction_order(self) -> tuple[int, float]:
        """Lower is evicted first."""

    def evict(self) -> None:
        """Make room for another connection."""


class Connections:
    """The connections of this HTTP process. Made before it is forked, used after."""

    def __init__(self, config: ServeConfig, metrics: HttpMetrics, most: int) -> None:
        """most: from `max_connections`."""
        self.config = config
        self.metrics = metrics
        self.most = most
        self.surplus = _surplus(most)
        """Further connections: they are served probes and a 503 for anything else."""
        self.open: set[Counted] = set()
        self.now_s = 0.0
        """Seconds that the event loop has run."""
        self.stopped_s: float | None = None
        """When the shutdown began."""
        self.pending_body_bytes = 0
        self._swept_s = 0.0
        self._logged_s: dict[str, float] = {}
        self._unlogged: dict[str, int] = {}
        self._searched_s = -1.0

    def add(self, connection: Counted) -> None:
        """Count a new connection, and decide how it is served."""
        if not self._swept_s:
            self._swept_s = time.monotonic()
            asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)
        taken = len(self.open)
        self.open.add(connection)
        if taken >= self.most and not self._make_room():
            connection.is_surplus = True
            if taken >= self.most + self.surplus:
                self.count_closed("connections", connection, "too many connections")
                connection.transport.abort()

    def stop(self) -> None:
        """Shorten the time limits of clients: the server is shutting down."""
        if self.stopped_s is None:
            self.stopped_s = self.now_s

    def expired(self, since_s: float, limit_s: float) -> bool:
        """Whether a client that had `limit_s` from `since_s` on has run out of time."""
        if self.stopped_s is not None:
            since_s = max(since_s, self.stopped_s)
            limit_s = min(limit_s, STOP_S, self.config.grace_s / 4)
        return self.now_s - since_s > limit_s

    def count_closed(self, reason: str, connection: Counted, message: str) -> None:
        """Count a connection that the server closes; log it unless one like it just was."""
        self.metrics.connections_closed.labels(reason).inc()
        self._unlogged[reason] = self._unlogged.get(reason, 0) + 1
        now = time.monotonic()
        if now - self._logged_s.get(reason, -LOG_S) >= LOG_S:
            self._logged_s[reason] = now
            others = self._unlogged.pop(reason) - 1
            client = ":".join(map(str, connection.client or ("unknown client",)))
            more = f" (and {others} more like it before)" if others else ""
            logger.warning("closed the connection of %s: %s%s", client, message, more)

    def _sweep(self) -> None:
        asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)
        now = time.monotonic()
        self.now_s += min(now - self._swept_s, 2 * SWEEP_S)
        self._swept_s = now
        for connection in list(self.open):
            connection.check_time()
        metrics = self.metrics
        metrics.connections.set(len(self.open))
        for writer, counter in (
            (lines.stdout, metrics.access_log_dropped),
            (lines.stderr, metrics.log_dropped),
        ):
            if dropped := writer.take_dropped():
                counter.inc(dropped)

    def _make_room(self) -> bool:
        """Close those that wait longest for their client; False if none has waited long.

        Those that have not sent a request come first, then those between two requests.
        """
        if self._searched_s == self.now_s:
            return False
        found = [each for each in self.open if each.may_be_evicted()]
        if not found:
            self._searched_s = self.now_s  # no use in another search before the next sweep
            return False
        count = 1 + self.most // EVICT_SHARE
        for each in heapq.nsmallest(count, found, key=lambda each: each.eviction_order()):
            each.evict()
            self.open.discard(each)
        return True
