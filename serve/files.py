"""Atomic writes of files and directories.

Every artifact of Textloop is written under a temporary name, synced to disk and then
renamed, so a reader, or a rerun after a power failure, sees a complete file or none.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def sha256_of(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: Path, data: bytes) -> None:
    """Replace the content of `path`; after a crash it is either the old content or `data`."""
    with open_atomic(path) as file:
        file.write(data)


@contextmanager
def open_atomic(path: Path) -> Iterator[BinaryIO]:
    """Open a file that replaces `path` when the block ends; on an exception `path` is unchanged."""
    with replacement(path) as temporary, temporary.open("wb") as file:
        yield file


@contextmanager
def replacement(path: Path) -> Iterator[Path]:
    """Give a path with the same suffix, at which the block makes a file that then replaces `path`.

    On an exception `path` is unchanged, and what was made is removed.
    """
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.tmp{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


def replace_directory(source: Path, destination: Path) -> None:
    """Sync everything in `source` and rename it to `destination`.

    Files get the mode given by the umask: safetensors makes them readable by their owner
    only, so a server running as another user could not read a model.

    An existing `destination` is moved aside first and deleted last: a reader sees the old
    directory, none for an instant, or the new one, never a mixture.
    """
    os.umask(umask := os.umask(0))
    for folder, _, names in os.walk(source):
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:
                os.fchmod(file.fileno(), 0o666 & ~umask)
                os.fsync(file.fileno())
        sync_directory(Path(folder))
    retired = None
    if destination.exists():
        retired = destination.with_name(f".{destination.name}.{uuid.uuid4().hex}.old")
        destination.rename(retired)
    source.rename(destination)
    sync_directory(destination.parent)
    if retired is not None:
        shutil.rmtree(retired)


def sync_directory(path: Path) -> None:
    """Sync a directory's entries to disk (on POSIX a rename is durable only after this)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
