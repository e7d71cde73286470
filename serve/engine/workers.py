"""The HTTP process's side of the sockets: which model process gets a request.

A connection to a model process exists for as long as that process is ready. When it ends,
the requests on it fail at once, and the connection is retried until the process is back. A
process that falls silent gets no new requests. Admission is decided in
`serve.engine.admission`.

Shape suffixes: N texts, C labels.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from pathlib import Path

from serve.engine.admission import Admission, Unavailable
from serve.engine.connection import Connection
from serve.engine.metrics import HttpMetrics
from serve.engine.transport import Beat, Status, WorkReply, WorkRequest, pack_request
from serve.inference.text import Encoding, count_tokens

PROBE_S = 5.0
"""Seconds without a reply after which a probe sends a model process a test inference, and seconds
that the process has to reply."""

WATCH_S = 0.1
"""Seconds a request waits before a task watches for its client to disconnect; starting one
for a shorter wait costs more than it saves."""

RETRY_S = 0.05
"""Seconds between two attempts to connect to a model process."""

SURVEY_S = 0.5
"""Seconds between two looks at which model processes are silent."""


class ClientGone(Exception):
    """The client disconnected before the response."""


class WorkerPool:
    """The model processes of one bundle, as seen by one HTTP process.

    admission: the HTTP process's own, shared by all of its pools.
    """

    def __init__(
        self,
        columns: Sequence[str],
        *,
        admission: Admission,
        metrics: HttpMetrics,
    ) -> None:
        self.paths: Sequence[Path] = ()
        """Sockets of the model processes; to be set before `start`."""
        self.columns = columns
        self.metrics = metrics
        self.admission = admission
        self.users = 0
        """Requests that have taken this pool's arm and are not finished."""
        self.is_counted = True
        """Whether new requests come here: then admission and the gauge follow this pool."""
        self.connections: list[Connection] = []
        self.ready: list[Connection] = []
        """Those whose process answers; the only ones that get requests."""
        self._ids = count()
        self._tasks: list[asyncio.Task[None]] = []
        self._answering = 0

    def start(self) -> None:
        """Begin to connect; needs a running event loop."""
        self._tasks = [
            asyncio.create_task(self._survey_regularly()),
            *(asyncio.create_task(self._keep(path)) for path in self.paths),
        ]

    def count(self, is_counted: bool) -> None:
        """Let admission and the gauge follow this pool, or no longer."""
        self.is_counted = is_counted
        for connection in self.connections:
            self.admission.report(connection, connection.beat if is_counted else None)
        self._survey()

    def heard(self, connection: Connection, beat: Beat) -> None:
        """Take a model process's report."""
        if self.is_counted:
            self.admission.report(connection, beat)

    async def close(self) -> None:
        """Close all connections."""
        for task in self._tasks:
            task.cancel()
        for connection in list(self.connections):
            connection.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def probe(self, encodings: list[Encoding]) -> int:
        """Return the number of model processes that reply; the gauge follows.

        A process that has replied to anything within the last PROBE_S seconds counts without
        a test inference on `encodings`, so that a full queue does not look like a dead process.
        """
        now = time.monotonic()
        tokens = count_tokens(encodings)

        async def test(connection: Connection) -> None:
            if now - connection.replied_s < PROBE_S:
                return
            try:
                await self.ask(connection, encodings, tokens, timeout_s=PROBE_S, gone=never)
            except (Unavailable, RuntimeError):
                connection.failed_probe = True

        await asyncio.gather(*map(test, list(self.ready)))
        self._survey()
        return self._answering

    def _survey(self) -> None:
        """Find out which processes answer, for routing, the gauge and the probe alike."""
        now = time.monotonic()
        self.ready = [each for each in self.connections if not each.is_silent(now)]
        self._answering = sum(not each.failed_probe for each in self.ready)
        if self.is_counted:
            self.metrics.workers_ready.set(self._answering)

    async def _survey_regularly(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(SURVEY_S)
            # After a pause of this process, what was sent meanwhile has yet to be read.
            if time.monotonic() - before < 3 * SURVEY_S:
                self._survey()

    def connected(self, connection: Connection) -> None:
        """Take a new connection into use."""
        self.connections.append(connection)
        self._survey()

    def disconnected(self, connection: Connection) -> None:
        """Take a connection out of use; its requests have failed."""
        self.connections.remove(connection)
        self.admission.report(connection, None)
        self._survey()

    def admit(self, tokens: int) -> None:
        """Raise Unavailable 503 if no process is ready, 429 unless `tokens` more may enter.

        Call it with 0 before tokenizing, so that a full queue costs nothing.
        """
        if not self.ready:
            raise Unavailable(503, "not_ready", "no model process is ready", 1)
        self.admission.check(tokens)

    async def submit(
        self,
        encodings: list[Encoding],
        tokens: int,
        *,
        timeout_s: float,
        gone: Callable[[], Awaitable[None]],
    ) -> WorkReply:
        """Return the logits of texts, computed by the process with the fewest tokens in flight.

        tokens: `count_tokens` of the encodings. gone: returns when the client has disconnected,
        and the request is then cancelled before it costs a forward pass; called only for
        requests that wait longer than WATCH_S.
        Raises ClientGone, Unavailable 429, 503 or 504, and RuntimeError if the pass failed.
        """
        self.admit(tokens)
        self.admission.enter(tokens)
        try:
            connection = self.least_busy()
            return await self.ask(connection, encodings, tokens, timeout_s=timeout_s, gone=gone)
        finally:
            self.admission.leave(tokens)

    def least_busy(self) -> Connection:
        """The model process with the fewest tokens in flight; Unavailable 503 if none is ready."""
        if not self.ready:
            raise Unavailable(503, "not_ready", "no model process is ready", 1)
        return min(self.ready, key=lambda each: each.tokens)

    async def ask(
        self,
        connection: Connection,
        encodings: list[Encoding],
        tokens: int,
        *,
        timeout_s: float,
        gone: Callable[[], Awaitable[None]],
    ) -> WorkReply:
        """Send texts to one model process, past admission, and return its reply.

        Arguments and errors as for `submit`.
        """
        loop = asyncio.get_running_loop()
        id_ = next(self._ids) & 0xFFFFFFFF
        future: asyncio.Future[WorkReply] = loop.create_future()
        now = time.monotonic()
        request = WorkRequest(
            id=id_, submitted_s=now, deadline_s=now + timeout_s, encodings=encodings
        )

        def time_out() -> None:
            if not future.done():
                future.set_exception(timed_out(self.admission.timeout_s))

        watcher: list[asyncio.Task[None]] = []

        async def leave() -> None:
            await gone()
            if not future.done():
                future.set_exception(ClientGone())

        timer = loop.call_later(timeout_s, time_out)
        watch = loop.call_later(WATCH_S, lambda: watcher.append(loop.create_task(leave())))
        connection.waiting[id_] = future
        connection.tokens += tokens
        connection.send(pack_request(request, self.columns))
        replied = False
        try:
            reply = await future
            replied = True
        finally:
            timer.cancel()
            watch.cancel()
            for task in watcher:
                task.cancel()
            del connection.waiting[id_]
            connection.tokens -= tokens
            if not replied and not connection.lost.is_set():
                cancellation = WorkRequest(id=id_, submitted_s=now, deadline_s=now, encodings=[])
                connection.send(pack_request(cancellation, self.columns))
        if reply.status is Status.EXPIRED:
            raise timed_out(self.admission.timeout_s)
        if reply.status is Status.FAILED:
            raise RuntimeError("the model failed on this request; see the server's log")
        return reply

    async def _keep(self, path: Path) -> None:
        """Connect to a model process, and reconnect whenever the connection ends."""
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(OSError):
                _, connection = await loop.create_unix_connection(
                    lambda: Connection(self), str(path)
                )
                await connection.lost.wait()
            await asyncio.sleep(RETRY_S)


def timed_out(timeout_s: float) -> Unavailable:
    """The error of a request without a response in time."""
    return Unavailable(504, "timeout", f"no response within timeout_s = {timeout_s:g} s")


async def never() -> None:
    """Wait for a client that does not disconnect."""
    await asyncio.get_running_loop().create_future()
