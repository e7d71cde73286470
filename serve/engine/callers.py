"""The HTTP processes that ask a model process, and their requests that are not answered yet."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from dataclasses import dataclass, field

from serve.engine.transport import Frames, WorkRequest
from serve.inference.scores import Array


@dataclass(eq=False)
class Request:
    """A request, and the rows of logits computed so far."""

    caller: Caller
    work: WorkRequest
    rows: list[Array | None]
    missing: int
    started_s: float | None = None
    compute_s: float = 0.0


@dataclass(eq=False)
class Caller:
    """The connection to one HTTP process."""

    socket: socket.socket
    frames: Frames = field(default_factory=Frames)
    requests: dict[int, Request] = field(default_factory=dict)
    sending: threading.Lock = field(default_factory=threading.Lock)

    def send(self, frames: bytes) -> None:
        """Send replies; if sending fails, nobody is waiting for them any more.

        The connection then ends: a part of a frame may have been sent, and the next reply would
        wait as long.
        """
        with self.sending:
            try:
                self.socket.sendall(frames)
            except OSError:
                with contextlib.suppress(OSError):
                    self.socket.shutdown(socket.SHUT_RDWR)

    def send_beat(self, frame: bytes) -> None:
        """Send a report, unless that would wait: it would stop the reader of all connections."""
        if not self.sending.acquire(blocking=False):
            return
        writable = select.poll()
        writable.register(self.socket, select.POLLOUT)
        with contextlib.suppress(OSError):
            if writable.poll(0):
                self.socket.sendall(frame)
        self.sending.release()
