"""The servers of a deployment directory: each states here what it serves.

A server replaces its status file as a whole, and holds a lock on a file beside it for as long as
its main process lives. So a server that was killed is known to be gone by its lock alone, also
where its process id has been given to another process.
"""

from __future__ import annotations

import os
import re
import socket
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationError

from serve.config import FrozenModel
from serve.language.lines import one_line
from serve.release.directory import try_lock
from serve.release.pointer import Pointer, ReleaseError, read_regular, timestamp

SERVERS = "servers"

MAX_STATUS_BYTES = 1_000_000
"""Size of a status file; one of eight HTTP processes has 1 kB."""

MAX_ON_ONE_NAME = 100
"""Servers of one host with one process id, which containers with the host's name have."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class HttpProcess(FrozenModel):
    """An HTTP process of a server."""

    pid: int
    generation: int | None
    """Generation by which it answers; null before its first."""


class RefusedVersion(FrozenModel):
    """A version that a server did not take."""

    generation: int
    version: str
    reason: Annotated[str, BeforeValidator(one_line)]
    """In one line that can be printed."""
    time: str
    """ISO 8601, UTC."""

    @classmethod
    def of(cls, pointer: Pointer, reason: str) -> RefusedVersion:
        """The refusal, now, of a pointer's champion."""
        return cls(
            generation=pointer.generation,
            version=pointer.champion,
            reason=reason,
            time=timestamp(),
        )


class ServerStatus(FrozenModel):
    """What a server says of itself."""

    host: str
    pid: int
    url: str
    started: str
    generation: int | None
    """Generation of the pointer that it serves; null before its first."""
    version: str | None
    """Version that it serves."""
    loading: str | None = None
    """Version that it loads."""
    refused: RefusedVersion | None = None
    """The last version that it did not take."""
    retired: str | None = None
    """Version that is kept loaded for a rollback."""
    http: tuple[HttpProcess, ...] = Field(default=(), max_length=4096)
    updated: str
    boot: str | None = None
    """Id of the running kernel, by which a server in a container is known to be of this machine;
    filled in by `Registration`."""

    @property
    def name(self) -> str:
        """The server, in messages."""
        return f"the server of process {self.pid} on {self.host} ({self.url})"


class Registration:
    """The entry of this process among the servers of a deployment directory."""

    def __init__(self, directory: Path, status: ServerStatus) -> None:
        """Write the status and hold its lock. Raises OSError, or ReleaseError."""
        folder = directory / SERVERS
        folder.mkdir(exist_ok=True)
        stem = f"{re.sub(r'[^A-Za-z0-9.-]', '_', status.host)[:100]}-{status.pid}"
        for number in range(MAX_ON_ONE_NAME):
            self.path = folder / f"{stem}{f'.{number}' if number else ''}.json"
            if (descriptor := _locked_file(self.path.with_suffix(".lock"))) is not None:
                break
        else:
            raise ReleaseError(f"`{folder}` has {MAX_ON_ONE_NAME} servers named {stem}")
        self._descriptor: int | None = descriptor
        _close_in_children(self)
        if not self.write(status):
            self.close()
            raise ReleaseError(f"`{self.path}` cannot be written")

    def write(self, status: ServerStatus) -> bool:
        """Replace the status; False if it could not be written, which stops no server."""
        temporary = self.path.with_suffix(".tmp")
        try:
            text = status.model_copy(update={"boot": _boot_id()}).model_dump_json(indent=2)
            temporary.write_text(f"{text}\n", encoding="utf-8")
            temporary.replace(self.path)
        except (OSError, ValueError):
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            return False
        return True

    def close(self) -> None:
        """Remove the entry, and free the lock."""
        if self._descriptor is None:
            return
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
            self.path.with_suffix(".lock").unlink(missing_ok=True)
        self.leave()

    def leave(self) -> None:
        """Close this process's hold of the lock and leave the entry to the process that made it."""
        _open.discard(self)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def live_servers(directory: Path) -> list[ServerStatus]:
    """Return the status of each live server of this machine, in the order of their files.

    What dead ones left is removed. A live one whose status cannot be read has no generation.
    """
    return [status for path in _status_files(directory) if (status := _if_live(path))]


def other_servers(directory: Path) -> list[ServerStatus]:
    """Return the last status of servers of other machines, which may be gone."""
    found = [_read_status(path) for path in _status_files(directory)]
    return [status for status in found if status and not _is_here(status)]


def _status_files(directory: Path) -> list[Path]:
    return sorted((directory / SERVERS).glob("*.json"))


def _if_live(path: Path) -> ServerStatus | None:
    """Return a server's status if it lives here; remove it if it lived here."""
    status = _read_status(path)
    if status is not None and not _is_here(status):
        return None
    lock = path.with_suffix(".lock")
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    try:
        if not try_lock(descriptor, shared=True):
            return status or _unreadable(path)
        with suppress(OSError):  # locked here, so no new server has these files
            path.with_suffix(".tmp").unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            lock.unlink(missing_ok=True)
        return None
    finally:
        os.close(descriptor)


def _read_status(path: Path) -> ServerStatus | None:
    try:
        return ServerStatus.model_validate_json(read_regular(path, MAX_STATUS_BYTES))
    except (OSError, ReleaseError, ValidationError, RecursionError):
        return None


def _unreadable(path: Path) -> ServerStatus:
    """A server that lives, and whose status is damaged."""
    return ServerStatus(
        host=socket.gethostname(),
        pid=0,
        url=f"`{path}` cannot be read",
        started="",
        generation=None,
        version=None,
        updated="",
    )


def _locked_file(path: Path) -> int | None:
    """Make and lock a file; None if a live process has it locked."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        if not try_lock(descriptor):
            os.close(descriptor)
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        os.close(descriptor)  # a reader has just removed it, as one of a dead server


def _is_here(status: ServerStatus) -> bool:
    """Whether a server runs on this machine: the same kernel, or without one, the same name."""
    return status.host == socket.gethostname() or (
        status.boot is not None and status.boot == _boot_id()
    )


def _boot_id() -> str | None:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:  # not Linux
        return None


_open: set[Registration] = set()
_hooked = False


def _close_in_children(registration: Registration) -> None:
    """Keep forked processes from holding the lock, which would outlive the main process."""
    global _hooked
    _open.add(registration)
    if not _hooked:
        _hooked = True
        os.register_at_fork(after_in_child=_leave_all)


def _leave_all() -> None:
    for registration in list(_open):
        registration.leave()
