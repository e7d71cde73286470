"""The connection of an HTTP process to one model process."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Protocol, cast

from serve.engine.admission import Unavailable
from serve.engine.transport import Beat, Frames, Status, WorkReply, unpack

SILENT_S = 5.0
"""Seconds without a word from a model process after which it gets no new requests."""

STUCK_S = 15.0
"""The same for seconds that one forward pass has been running."""


class Pool(Protocol):
    """What a connection tells about itself."""

    def connected(self, connection: Connection) -> None: ...

    def heard(self, connection: Connection, beat: Beat) -> None: ...

    def disconnected(self, connection: Connection) -> None: ...


class Connection(asyncio.Protocol):
    """The connection to one model process, and the requests on it."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.frames = Frames()
        self.waiting: dict[int, asyncio.Future[WorkReply]] = {}
        self.tokens = 0
        self.transport: asyncio.Transport | None = None
        self.outgoing: list[bytes] = []
        self.heard_s = time.monotonic()
        self.replied_s = -math.inf  # no reply yet
        self.running_s = 0.0
        self.beat: Beat | None = None
        """The last report of the process."""
        self.failed_probe = False
        """Whether a test inference failed, and no other has succeeded since."""
        self.lost = asyncio.Event()

    def is_silent(self, now: float) -> bool:
        """Whether the process seems to hang."""
        return now - self.heard_s > SILENT_S or self.running_s > STUCK_S

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's does not inherit from it
        self.pool.connected(self)

    def abort(self) -> None:
        """Close the connection at once."""
        assert self.transport is not None
        self.transport.abort()

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
        self.heard_s = time.monotonic()
        for frame in self.frames.feed(data):
            message = unpack(frame)
            if isinstance(message, Beat):
                self.running_s, self.beat = message.running_s, message
                self.pool.heard(self, message)
                continue
            self.replied_s = self.heard_s
            if message.status is Status.OK:
                self.failed_probe = False
            future = self.waiting.get(message.id)
            if future is not None and not future.done():
                future.set_result(message)

    def connection_lost(self, error: Exception | None) -> None:
        for future in self.waiting.values():
            if not future.done():
                future.set_exception(
                    Unavailable(
                        503, "worker_died", "the model process died while handling this request", 1
                    )
                )
        self.pool.disconnected(self)
        self.lost.set()
