"""Metric files that a full disk cannot turn into a crash.

prometheus_client keeps the metrics of a process in memory-mapped files that it only extends:
their blocks are allocated at the first write to a page, and where the disk is full by then, the
kernel kills the process with SIGBUS. Here the blocks are allocated first, and values for which
there is no room stay in the process: `/metrics` lacks them, which the log says. Tested with
prometheus_client 0.26, whose `values.MmapedDict` is replaced.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from typing import BinaryIO

from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict

FILE_BYTES = 65_536
"""Size of a new file; it is doubled when it is full."""

RETRY_S = 10.0
"""Seconds between two attempts to find room."""

logger = logging.getLogger(__name__)


def use_allocated_files(slot: int | None = None) -> None:
    """Keep the metrics that are made from now on in allocated files.

    slot: names the files instead of the process's id, so that the next process in this slot goes
    on with them: else each one that is started would leave files, which every scrape reads.
    Needs PROMETHEUS_MULTIPROC_DIR, and takes effect even if prometheus_client was imported
    before the variable was set; without it metrics stay in memory, as in tests.
    """
    if slot is not None and "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        values.MmapedDict = AllocatedDict  # type: ignore[attr-defined]
        values.ValueClass = values.MultiProcessValue(lambda: f"slot{slot}")  # type: ignore[no-untyped-call]
    elif values.MmapedDict is not AllocatedDict:  # type: ignore[attr-defined]
        values.MmapedDict = AllocatedDict  # type: ignore[attr-defined]
        values.ValueClass = values.get_value_class()  # type: ignore[no-untyped-call]


class AllocatedDict(MmapedDict):
    """The values of one file, or of no file while the disk is full."""

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        self._f: BinaryIO = None  # type: ignore[assignment]
        self._positions: dict[str, int] = {}
        self._name = filename
        self._kept: dict[str, tuple[float, float]] = {}
        """Values and timestamps for which the file has no room."""
        self._tried_s = -RETRY_S
        if read_mode:
            super().__init__(filename, read_mode=True)  # type: ignore[no-untyped-call]
        else:
            self._make_room("")

    def read_value(self, key: str) -> tuple[float, float]:
        """Value and timestamp of a key, which is added if it is new."""
        self._place(key)
        if key in self._kept:
            return self._kept[key]
        value: tuple[float, float] = super().read_value(key)  # type: ignore[no-untyped-call]
        return value

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        """Set value and timestamp of a key, which is added if it is new."""
        self._place(key)
        if key in self._kept:
            self._kept[key] = value, timestamp
        else:
            super().write_value(key, value, timestamp)  # type: ignore[no-untyped-call]

    def _place(self, key: str) -> None:
        """Give a key a place in the file, or keep its value here until there is room."""
        if key in self._positions:
            return
        if self._make_room(key):
            self._init_value(key)  # type: ignore[no-untyped-call]
            self._kept.pop(key, None)
        else:
            self._kept.setdefault(key, (0.0, 0.0))

    def _make_room(self, key: str) -> bool:
        """Allocate what the base class needs to add a key; False if that is impossible now."""
        needed = 4 + len(key.encode()) + 8 + 16  # length, key, padding, two doubles
        if self._f and self._used + needed <= self._capacity:
            return True
        now = time.monotonic()
        if now - self._tried_s < RETRY_S and self._kept:
            return False
        self._tried_s = now
        try:
            if not self._f:
                if not os.path.exists(self._name):
                    # Under another name first: a scrape may read the file as soon as it is there.
                    temporary = f"{self._name}.new"
                    _allocate(temporary, FILE_BYTES)
                    os.rename(temporary, self._name)
                try:
                    super().__init__(self._name)  # type: ignore[no-untyped-call]
                except OSError:  # too many open files: the mapping takes another one
                    if self._f:
                        self._f.close()
                    self._f = None  # type: ignore[assignment]
                    raise
            while self._used + needed > (size := os.path.getsize(self._name)):
                _allocate(self._name, 2 * size)
        except OSError as error:
            if not self._kept:
                logger.warning(
                    "no room for metrics: %s; /metrics lacks some of this process", error
                )
            return False
        return True


def _allocate(path: str, size: int) -> None:
    """Extend a file to a size, with blocks of its own. OSError leaves it as it was."""
    with open(path, "ab", buffering=0) as file:
        before = os.fstat(file.fileno()).st_size
        try:
            # Zeros in place of posix_fallocate, which some file systems lack.
            if file.write(bytes(size - before)) < size - before:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        except OSError:
            file.truncate(before)
            if not before:
                os.unlink(path)
            raise
