"""Files that appear whole or not at all.

Every artefact of Textloop is written under a temporary name, synced to the disk and then
renamed, so that a reader, or a rerun after a power cut, sees a whole file or none.
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
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` by `data`; after a crash the file holds the old bytes or the new ones."""
    with open_atomic(path) as file:
        file.write(data)


@contextmanager
def open_atomic(path: Path) -> Iterator[BinaryIO]:
    """A file that replaces `path` when the block ends; an exception leaves `path` as it was."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


def replace_directory(source: Path, destination: Path) -> None:
    """Sync everything in `source` and rename it to `destination`.

    Files get the mode that the umask asks for: safetensors leaves them readable by their
    owner alone, so that a server under another user could not read a model.

    Where `destination` exists it is moved aside first and deleted last: a reader sees the
    old directory, none for an instant, or the new one, and never a mixture.
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
    """Make the names in a directory durable (POSIX: a rename is safe only after this)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
