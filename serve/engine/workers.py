"""The HTTP process's side of the sockets: which model process gets a request.

A connection to a model process exists for as long as that process is ready. When it ends,
the requests on it fail at once, and the connection is retried until the process is back.
Admission is decided in `serve.engine.admission`.

Shape suffixes: N texts, C labels.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from pathlib import Path
from typing import cast

from serve.engine.admission import Admission, Unavailable
from serve.engine.metrics import HttpMetrics
from serve.engine.transport import (
    Frames,
    Status,
    WorkReply,
    WorkRequest,
    pack_request,
    unpack_reply,
)
from serve.inference.text import Encoding, count_tokens

PROBE_S = 5.0
"""Seconds of silence after which a probe sends a model process a test inference, and seconds
that the process has to reply."""

WATCH_S = 0.1
"""Seconds a request waits before a task watches for its client to disconnect; starting one
for a shorter wait costs more than it saves."""

RETRY_S = 0.05
"""Seconds between two attempts to connect to a model process."""


class ClientGone(Exception):
    """The client disconnected before the response."""


class _Connection(asyncio.Protocol):
    """The connection to one model process."""

    def __init__(self, pool: WorkerPool) -> None:
        self.pool = pool
        self.frames = Frames()
        self.waiting: dict[int, asyncio.Future[WorkReply]] = {}
        self.tokens = 0
        self.transport: asyncio.Transport | None = None
        self.outgoing: list[bytes] = []
        self.replied_s = -math.inf  # no reply yet
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's does not inherit from it
        self.pool.ready.append(self)
        self.pool.metrics.workers_ready.set(len(self.pool.ready))

    def send(self, frame: bytes) -> None:
        """Send a frame, together with the others of this iteration of the event loop."""
        if not self.outgoing:
            asyncio.get_running_loop().call_soon(self._flush)
        self.outgoing.append(frame)

    def _flush(self) -> None:
        assert self.transport is not None
        if self.transport.is_closing():
            return  # connection_lost fails the requests that wait on this connection
        self.transport.write(b"".join(self.outgoing))
        self.outgoing.clear()

    def data_received(self, data: bytes) -> None:
        self.replied_s = time.monotonic()
        for frame in self.frames.feed(data):
            reply = unpack_reply(frame)
            future = self.waiting.get(reply.id)
            if future is not None and not future.done():
                future.set_result(reply)

    def connection_lost(self, error: Exception | None) -> None:
        self.pool.ready.remove(self)
        self.pool.metrics.workers_ready.set(len(self.pool.ready))
        for future in self.waiting.values():
            if not future.done():
                future.set_exception(
                    Unavailable(
                        503, "worker_died", "the model process died while handling this request", 1
                    )
                )
        self.lost.set()


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
        self.ready: list[_Connection] = []
        self._ids = count()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to connect; needs a running event loop."""
        self._tasks = [asyncio.create_task(self._keep(path)) for path in self.paths]

    async def close(self) -> None:
        """Close all connections."""
        for task in self._tasks:
            task.cancel()
        for connection in list(self.ready):
            assert connection.transport is not None
            connection.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def probe(self, encodings: list[Encoding]) -> int:
        """Return the number of model processes that reply.

        A process that has replied to anything within the last PROBE_S seconds counts without
        a test inference on `encodings`, so that a full queue does not look like a dead process.
        """
        now = time.monotonic()
        tokens = count_tokens(encodings)

        async def replies(connection: _Connection) -> bool:
            if now - connection.replied_s < PROBE_S:
                return True
            try:
                await self._ask(connection, encodings, tokens, timeout_s=PROBE_S, gone=_never)
            except (Unavailable, RuntimeError):
                return False
            return True

        return sum(await asyncio.gather(*map(replies, list(self.ready))))

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
        connection = min(self.ready, key=lambda each: each.tokens)
        reply = await self._ask(connection, encodings, tokens, timeout_s=timeout_s, gone=gone)
        self.admission.measure(tokens)
        return reply

    async def _ask(
        self,
        connection: _Connection,
        encodings: list[Encoding],
        tokens: int,
        *,
        timeout_s: float,
        gone: Callable[[], Awaitable[None]],
    ) -> WorkReply:
        loop = asyncio.get_running_loop()
        id_ = next(self._ids) & 0xFFFFFFFF
        future: asyncio.Future[WorkReply] = loop.create_future()
        now = time.monotonic()
        request = WorkRequest(
            id=id_, submitted_s=now, deadline_s=now + timeout_s, encodings=encodings
        )

        def time_out() -> None:
            if not future.done():
                future.set_exception(_timed_out(timeout_s))

        watcher: list[asyncio.Task[None]] = []

        async def leave() -> None:
            await gone()
            if not future.done():
                future.set_exception(ClientGone())

        timer = loop.call_later(timeout_s, time_out)
        watch = loop.call_later(WATCH_S, lambda: watcher.append(loop.create_task(leave())))
        connection.waiting[id_] = future
        connection.tokens += tokens
        self.admission.enter(tokens)
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
            self.admission.leave(tokens)
            if not replied and not connection.lost.is_set():
                cancellation = WorkRequest(id=id_, submitted_s=now, deadline_s=now, encodings=[])
                connection.send(pack_request(cancellation, self.columns))
        if reply.status is Status.EXPIRED:
            raise _timed_out(timeout_s)
        if reply.status is Status.FAILED:
            raise RuntimeError("the model failed on this request; see the server's log")
        return reply

    async def _keep(self, path: Path) -> None:
        """Connect to a model process, and reconnect whenever the connection ends."""
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(OSError):
                _, connection = await loop.create_unix_connection(
                    lambda: _Connection(self), str(path)
                )
                await connection.lost.wait()
            await asyncio.sleep(RETRY_S)


def _timed_out(timeout_s: float) -> Unavailable:
    return Unavailable(504, "timeout", f"no response within timeout_s = {timeout_s:g} s")


async def _never() -> None:
    """Wait for a client that does not disconnect."""
    await asyncio.get_running_loop().create_future()
