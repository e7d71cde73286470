"""One change of a deployment directory at a time: its lock, and whether it is one."""

from __future__ import annotations

import fcntl
import getpass
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serve.language.lines import one_line
from serve.release.pointer import BUNDLES, MAX_WHO, POINTER, ReleaseError

LOCK = "lock"

LOCK_WAIT_S = 30.0
"""Seconds that a command waits for another one to finish its change; the lock is held while files
are renamed, not while a bundle is copied or a model loaded."""

_NOTICE_S, _POLL_S = 1.0, 0.02


class ReleaseBusy(ReleaseError):
    """Another command holds the lock, for longer than one waits for it."""


@contextmanager
def locked(directory: Path, *, wait_s: float | None = None) -> Iterator[None]:
    """Hold the lock of a deployment directory; the kernel frees it when the process ends.

    wait_s: default LOCK_WAIT_S. Raises ReleaseBusy if another process holds it for longer.
    """
    limit_s = LOCK_WAIT_S if wait_s is None else wait_s
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(directory / LOCK, flags, 0o666)
    try:
        started, told = time.monotonic(), False
        while not try_lock(descriptor):
            waited = time.monotonic() - started
            if waited >= limit_s:
                raise ReleaseBusy(
                    f"another command has been changing `{directory}` for more than "
                    f"{limit_s:g} s; try again"
                )
            if waited >= _NOTICE_S and not told:
                told = True
                print(f"note: another command is changing `{directory}`; waiting up to "
                      f"{limit_s:g} s", file=sys.stderr)  # fmt: skip
            time.sleep(_POLL_S)
        yield
    finally:
        os.close(descriptor)


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Lock a file without waiting; returns whether no other open file has it locked.

    shared: several may have it like that, so that those who only look do not see each other.
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_deployment(directory: Path) -> bool:
    """Whether a directory is one that `deploy` made."""
    return (directory / BUNDLES).is_dir() or (directory / POINTER).exists()


def check_deployment(directory: Path) -> None:
    """Raise ReleaseError unless `directory` is a deployment directory."""
    if is_deployment(directory):
        return
    what = "is not a deployment directory" if directory.exists() else "does not exist"
    raise ReleaseError(f"`{directory}` {what}; `textloop deploy {directory} BUNDLE` makes one")


def this_user() -> str:
    """Return user and host of this process, as a pointer states them."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = f"uid {os.getuid()}"
    return one_line(f"{user}@{socket.gethostname()}", MAX_WHO)
