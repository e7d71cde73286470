"""The HTTP process's side of the sockets: which model process gets a request, and when none does.

Decides admission. The limit is counted in tokens, in one rule for a request of one text and
of five hundred: a request is taken if its tokens fit under the limit together with those
that wait, or if nothing waits. A request that is not taken is told when to come back.

A connection to a model process stands for as long as the process is ready. When it ends,
the requests that were on it fail at once; it is tried again until the process is back.

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
"""A model process that was silent for so long is asked; so long it may take to answer."""

WATCH_S = 0.1
"""A request that waits for so long is given up if its client leaves; a shorter wait is not
worth a task that watches."""

COUNT_S = 0.1
"""Seconds between two updates of the gauges."""

RETRY_S = 0.05
"""Seconds between two tries to reach a model process that is not there."""


class Unavailable(Exception):
    """No answer can be had now. `status` is the HTTP status that says so."""

    def __init__(self, status: int, reason: str, message: str, retry_after_s: int | None = None):
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after_s = retry_after_s


class ClientGone(Exception):
    """The client left before the answer."""


class _Connection(asyncio.Protocol):
    """One model process."""

    def __init__(self, pool: WorkerPool) -> None:
        self.pool = pool
        self.frames = Frames()
        self.waiting: dict[int, tuple[asyncio.Future[WorkReply], int]] = {}
        self.tokens = 0
        self.transport: asyncio.Transport | None = None
        self.outgoing: list[bytes] = []
        self.answered_s = -math.inf  # not in this process's sight
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's does not inherit from it
        self.pool.ready.append(self)
        self.pool.metrics.workers_ready.set(len(self.pool.ready))

    def send(self, frame: bytes) -> None:
        """Send a frame, together with the others of this turn of the event loop."""
        if not self.outgoing:
            asyncio.get_running_loop().call_soon(self._flush)
        self.outgoing.append(frame)

    def _flush(self) -> None:
        assert self.transport is not None
        if self.transport.is_closing():
            return  # whoever waits on this connection is told by connection_lost
        self.transport.write(b"".join(self.outgoing))
        self.outgoing.clear()

    def data_received(self, data: bytes) -> None:
        self.answered_s = time.monotonic()
        for frame in self.frames.feed(data):
            reply = unpack_reply(frame)
            entry = self.waiting.get(reply.id)
            if entry is not None and not entry[0].done():
                entry[0].set_result(reply)

    def connection_lost(self, error: Exception | None) -> None:
        self.pool.ready.remove(self)
        self.pool.metrics.workers_ready.set(len(self.pool.ready))
        for future, _ in self.waiting.values():
            if not future.done():
                future.set_exception(
                    Unavailable(
                        503, "worker_died", "the model process ended while it had this request", 1
                    )
                )
        self.lost.set()


class WorkerPool:
    """All model processes, as one HTTP process sees them.

    max_queue_tokens: tokens that may wait on this HTTP process's account.
    """

    def __init__(
        self,
        columns: Sequence[str],
        *,
        max_queue_tokens: int,
        metrics: HttpMetrics,
    ) -> None:
        self.paths: Sequence[Path] = ()
        """Sockets of the model processes; to be set before `start`."""
        self.columns = columns
        self.max_queue_tokens = max_queue_tokens
        self.metrics = metrics
        self.ready: list[_Connection] = []
        self.tokens = 0
        self.tokens_per_s = 0.0
        self._ids = count()
        self._tasks: list[asyncio.Task[None]] = []
        self._window_s = time.monotonic()
        self._window_tokens = 0
        self._counting = False

    def start(self) -> None:
        """Begin to connect; needs a running event loop."""
        self._tasks = [asyncio.create_task(self._keep(path)) for path in self.paths]

    async def close(self) -> None:
        """End all connections."""
        for task in self._tasks:
            task.cancel()
        for connection in list(self.ready):
            assert connection.transport is not None
            connection.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def probe(self, encodings: list[Encoding]) -> int:
        """Number of model processes that answer.

        A process is asked to classify `encodings` unless an answer came from it within the
        last PROBE_S seconds, so that a full queue is not taken for a dead process.
        """
        now = time.monotonic()
        tokens = count_tokens(encodings)

        async def answers(connection: _Connection) -> bool:
            if now - connection.answered_s < PROBE_S:
                return True
            try:
                await self._ask(connection, encodings, tokens, timeout_s=PROBE_S, gone=_never)
            except (Unavailable, RuntimeError):
                return False
            return True

        return sum(await asyncio.gather(*map(answers, list(self.ready))))

    def admit(self, tokens: int) -> None:
        """Raise Unavailable 429 unless `tokens` more may wait, 503 if no process is ready.

        Ask with 0 before the texts are tokenized, so that a full queue costs nothing.
        """
        if not self.ready:
            raise Unavailable(503, "not_ready", "no model process is ready", 1)
        if self.tokens and self.tokens + max(tokens, 1) > self.max_queue_tokens:
            wait_s = self.tokens / self.tokens_per_s if self.tokens_per_s else 1.0
            raise Unavailable(
                429,
                "queue_full",
                f"the queue is full: {self.tokens} tokens wait, {tokens} more would pass the "
                f"limit of {self.max_queue_tokens}; come back later",
                max(1, math.ceil(wait_s)),
            )

    async def submit(
        self,
        encodings: list[Encoding],
        tokens: int,
        *,
        timeout_s: float,
        gone: Callable[[], Awaitable[None]],
    ) -> WorkReply:
        """Logits of admitted texts, from the process with the least to do.

        tokens: `count_tokens` of them. gone: returns when the client has left; the request
        is then given up before it costs a forward pass. Called for requests that wait for WATCH_S.
        Raises ClientGone, Unavailable 429, 503 or 504, and RuntimeError if the pass failed.
        """
        self.admit(tokens)
        connection = min(self.ready, key=lambda each: each.tokens)
        reply = await self._ask(connection, encodings, tokens, timeout_s=timeout_s, gone=gone)
        self._count(tokens)
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
                future.set_exception(
                    Unavailable(504, "timeout", f"no answer within timeout_s = {timeout_s:g} s")
                )

        watcher: list[asyncio.Task[None]] = []

        async def leave() -> None:
            await gone()
            if not future.done():
                future.set_exception(ClientGone())

        timer = loop.call_later(timeout_s, time_out)
        watch = loop.call_later(WATCH_S, lambda: watcher.append(loop.create_task(leave())))
        connection.waiting[id_] = (future, tokens)
        connection.tokens += tokens
        self.tokens += tokens
        self._count_waiting()
        connection.send(pack_request(request, self.columns))
        answered = False
        try:
            reply = await future
            answered = True
        finally:
            timer.cancel()
            watch.cancel()
            for task in watcher:
                task.cancel()
            del connection.waiting[id_]
            connection.tokens -= tokens
            self.tokens -= tokens
            self._count_waiting()
            if not answered and not connection.lost.is_set():
                given_up = WorkRequest(id=id_, submitted_s=now, deadline_s=now, encodings=[])
                connection.send(pack_request(given_up, self.columns))
        if reply.status is Status.EXPIRED:
            raise Unavailable(504, "timeout", f"no answer within timeout_s = {timeout_s:g} s")
        if reply.status is Status.FAILED:
            raise RuntimeError("the model failed on this request; see the server's log")
        return reply

    def _count_waiting(self) -> None:
        """Set the gauge, but not for every request: it costs as much as all else here."""
        if not self._counting:
            self._counting = True
            asyncio.get_running_loop().call_later(COUNT_S, self._set_waiting)

    def _set_waiting(self) -> None:
        self._counting = False
        self.metrics.waiting_tokens.set(self.tokens)

    def _count(self, tokens: int) -> None:
        """Measure the rate of answers over windows of about a second that had some."""
        self._window_tokens += tokens
        now = time.monotonic()
        if (elapsed := now - self._window_s) >= 1.0:
            if elapsed < 2.0:
                self.tokens_per_s = self._window_tokens / elapsed
            self._window_s, self._window_tokens = now, 0

    async def _keep(self, path: Path) -> None:
        """Connect to a model process, and again whenever the connection has ended."""
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(OSError):
                _, connection = await loop.create_unix_connection(
                    lambda: _Connection(self), str(path)
                )
                await connection.lost.wait()
            await asyncio.sleep(RETRY_S)


async def _never() -> None:
    """Wait for a client that does not leave."""
    await asyncio.get_running_loop().create_future()
