"""Lines for a stream that may stall or fail: a bounded queue and a thread that writes.

For the access log and the server's own log. A reader that stalls, a full disk or a closed pipe
costs lines, which are counted, and never delays or fails the caller. `stdout` and `stderr` are
this process's standard streams; use them in place of `print` in a process that serves.
"""

from __future__ import annotations

import logging
import os
import queue
import select
import stat
import sys
import threading
import time
from collections.abc import Iterator

MAX_LINES = 4096
"""Lines that wait to be written; further lines are dropped."""

MAX_LINE = 16_384
"""Bytes of a line; a longer one, such as a deep traceback, is truncated."""

WHOLE = select.PIPE_BUF
"""Bytes in one write to a pipe: those of other processes do not come between."""

FILE_BATCH = 65_536
"""Bytes in one write to anything but a pipe or a socket."""

GATHER_S = 0.02
"""Seconds between two writes: lines of a busy server are written together."""

CLOSE_S = 0.5
"""Seconds to write the last lines."""

logger = logging.getLogger(__name__)


class LineWriter:
    """Writes lines to a file descriptor.

    Before `start`, `write` writes at once what fits without waiting; afterwards a thread
    writes. A forked process has no thread until it calls `start` itself.
    fd: None, for a stream that is closed, drops every line.
    """

    def __init__(self, fd: int | None, name: str) -> None:
        self.fd = fd
        self.name = name
        self._failing = False
        self._torn = False
        self._forget_thread()
        os.register_at_fork(after_in_child=self._forget_thread)

    def _forget_thread(self) -> None:
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._taken = 0  # by the thread, and not yet written
        self._ending = False
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.dropped = 0
        """Lines that were not written, or not completely."""

    def start(self) -> None:
        """Let a thread write from now on."""
        if self._thread is None and self.fd is not None:
            self._ending = False
            self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
            self._thread.start()

    def write(self, line: str) -> None:
        """Add a line, without its end. Never waits and never raises."""
        data = line.encode("utf-8", "backslashreplace")[: MAX_LINE - 1] + b"\n"
        if self._thread is None:
            if self.fd is not None and self._fits(data):
                self._put([data])
            else:
                self._drop(1)
        elif self._lines.qsize() >= MAX_LINES:
            self._drop(1)
        else:
            self._lines.put(data)

    def close(self) -> None:
        """Write what is left, for at most CLOSE_S; the rest is dropped and counted."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._lines.put(None)
            thread.join(CLOSE_S)
            if thread.is_alive():
                # The end is one entry of the queue, unless the thread has taken it.
                self._drop(self._taken + self._lines.qsize() - (not self._ending))

    def take_dropped(self) -> int:
        """Return how many lines were dropped since the last call."""
        with self._lock:
            dropped, self.dropped = self.dropped, 0
        return dropped

    def _drop(self, lines: int) -> None:
        with self._lock:
            self.dropped += lines

    def _run(self) -> None:
        assert self.fd is not None
        try:
            mode = os.fstat(self.fd).st_mode
        except OSError:
            mode = 0
        size = WHOLE if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else FILE_BATCH
        lines = self._lines
        while not self._ending:
            taken = [lines.get(), *(lines.get() for _ in range(lines.qsize()))]
            self._ending = taken[-1] is None
            self._taken = len(taken) - self._ending
            for batch in _batches(taken, size):
                self._put(batch)
                self._taken -= len(batch)
            time.sleep(0 if self._ending else GATHER_S)

    def _fits(self, data: bytes) -> bool:
        """Whether a write does not wait: a pipe has room; a file always has."""
        assert self.fd is not None
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        return len(data) <= WHOLE and bool(poll.poll(0))

    def _put(self, batch: list[bytes]) -> None:
        """Write lines in one piece; on an error they are dropped."""
        assert self.fd is not None
        # After a line that was cut off, start a new one.
        data = total = b"\n" * self._torn + b"".join(batch)
        try:
            while data:
                try:
                    data = data[os.write(self.fd, data) :]
                except BlockingIOError:  # another process made the stream non-blocking
                    select.select([], [self.fd], [])
            self._failing = self._torn = False
        except OSError as error:
            self._drop(len(batch))
            self._torn = self._torn or len(data) < len(total)
            if not self._failing:
                self._failing = True
                logger.warning(
                    "cannot write to %s: %s; dropping lines", self.name, error.strerror or error
                )


def _batches(lines: list[bytes | None], size: int) -> Iterator[list[bytes]]:
    """Split lines into runs of at most `size` bytes, or of one line."""
    batch: list[bytes] = []
    length = 0
    for line in lines:
        if line is None:  # the end
            break
        if batch and length + len(line) > size:
            yield batch
            batch, length = [], 0
        batch.append(line)
        length += len(line)
    if batch:
        yield batch


class LogHandler(logging.Handler):
    """Sends log records to `stderr`, each with time (UTC), level, logger and process."""

    def __init__(self) -> None:
        super().__init__()
        formatter = logging.Formatter(
            "{asctime}Z {levelname} {name}[{process}]: {message}", "%Y-%m-%dT%H:%M:%S", style="{"
        )
        formatter.converter = time.gmtime
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; one that cannot be formatted is named without its arguments."""
        try:
            line = self.format(record)
        except Exception as error:
            line = f"cannot format the log record {record.msg!r}: {error}"
        stderr.write(line)


def log_to_stderr(level: str) -> None:
    """Send all logs of this process of at least that level, and warnings, to `stderr`."""
    logging.basicConfig(handlers=[LogHandler()], level=level.upper(), force=True)
    logging.captureWarnings(True)


def _fd(stream: object, number: int) -> int | None:
    """The number of a standard stream, None if it was closed at the start: the number may
    then belong to a socket."""
    return number if stream is not None else None


stdout = LineWriter(_fd(sys.__stdout__, 1), "stdout")
stderr = LineWriter(_fd(sys.__stderr__, 2), "stderr")
