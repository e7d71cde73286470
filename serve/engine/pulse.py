"""The main process's ear at one model process: does it still live?

A process that died is seen by its parent; one that hangs, in a forward pass or as a whole, is
not. It reports to everybody who is connected (`serve.engine.transport.Beat`), so the main process
connects too, and sends nothing.
"""

from __future__ import annotations

import socket
import time
from pathlib import Path

from serve.engine.transport import Beat, Frames, unpack

LONGEST_GAP_S = 1.0
"""Silence that counts between two calls of `problem`; after a longer pause of the main process
itself, or of the whole machine, the model process has as long again."""


class Pulse:
    """The reports of the model process that listens on `path`."""

    def __init__(self, path: Path, *, hang_s: float) -> None:
        self.path = path
        self.hang_s = hang_s
        self._socket: socket.socket | None = None
        self._frames = Frames()
        self._silent_s = 0.0
        self._running_s = 0.0
        self._called_s = time.monotonic()

    def problem(self) -> str | None:
        """Why the process must be replaced, None if it lives or has yet to load its model."""
        now = time.monotonic()
        gap_s, self._called_s = min(now - self._called_s, LONGEST_GAP_S), now
        if self._socket is None and not self._connect():
            return None
        self._silent_s += gap_s
        self._listen()
        if self._silent_s > self.hang_s:
            return f"no sign of life for hang_s = {self.hang_s:g} s"
        if self._running_s > self.hang_s:
            return f"one forward pass runs for longer than hang_s = {self.hang_s:g} s"
        return None

    def close(self) -> None:
        """Forget the process; the next one listens on the same path."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self._frames = None, Frames()
        self._silent_s = self._running_s = 0.0

    def _connect(self) -> bool:
        connection = socket.socket(socket.AF_UNIX)
        connection.setblocking(False)
        try:
            connection.connect(str(self.path))
        except OSError:  # not there yet
            connection.close()
            return False
        self._socket = connection
        return True

    def _listen(self) -> None:
        assert self._socket is not None
        try:
            while data := self._socket.recv(1 << 16):
                for frame in self._frames.feed(data):
                    message = unpack(frame)
                    assert isinstance(message, Beat)
                    self._silent_s, self._running_s = 0.0, message.running_s
        except BlockingIOError:
            return
        except OSError:
            pass
        self.close()  # the process is gone, and its parent sees that
