"""The pointer of a deployment directory: which version is to answer.

A deployment directory has its own copies of bundles and one small file that says which of them is
the champion. That file is replaced as a whole, so a reader sees the old or the new champion, and
it holds its own SHA-256, so that a damaged one is noticed instead of followed.

    DIR/bundles/VERSION/            copies of bundles       serve.release.bundles
    DIR/bundles/VERSION.gate.json   why it may replace another, if that was given
    DIR/pointer.json                the champion            here
    DIR/history.jsonl               every change            serve.release.history
    DIR/lock                        one change at a time    serve.release.directory
    DIR/servers/                    who serves it           serve.release.servers
"""

from __future__ import annotations

import json
import os
import re
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import Field

from serve.bundle.manifest import digest_of
from serve.config import FrozenModel

POINTER = "pointer.json"
BUNDLES = "bundles"
SCHEMA_VERSION = 1

MAX_POINTER_BYTES = 64_000
"""Size of a pointer; those written here have under 2 kB."""

MAX_WHO, MAX_WHY = 200, 1000
"""Characters of who made a change, and why."""

VERSION = r"^[0-9a-f]{12}$"
"""Versions of bundles; nothing else becomes part of a path."""


class ReleaseError(ValueError):
    """A deployment directory, or a request to change it, that is wrong; says what to do."""


class Pointer(FrozenModel):
    """Which version answers, since which change."""

    generation: int = Field(ge=1)
    """Number of the change; a later change has a higher number."""

    champion: str = Field(pattern=VERSION)
    """Version that answers."""

    previous: str | None = Field(pattern=VERSION)
    """Version that `rollback` returns to; null before the second promotion."""

    mode: Literal["single"] = "single"
    """All requests go to the champion."""

    fraction: float = Field(default=0.0, ge=0.0, le=0.0)
    """Fraction of the requests that another version answers."""

    salt: str = Field(pattern=r"^[0-9a-f]{16}$")
    """Random value of this generation."""

    who: str = Field(max_length=MAX_WHO)
    """Who made the change: user and host."""

    why: str = Field(max_length=MAX_WHY)
    """The reason that was given; empty without one."""

    time: str = Field(max_length=40)
    """When, ISO 8601, UTC."""


def read_pointer(directory: Path) -> Pointer | None:
    """Return the pointer; None if there is no file, because nothing was promoted yet.

    Raises ReleaseError for one that is damaged.
    """
    path = directory / POINTER
    try:
        data = read_regular(path, MAX_POINTER_BYTES)
    except FileNotFoundError:
        return None
    if (pointer := _parse(data)) is None:
        raise ReleaseError(
            f"`{path}` is damaged, so which version is to answer is unknown; `textloop history "
            f"{directory}` shows the last changes, and `textloop promote {directory} VERSION "
            "--repair` writes a new pointer"
        )
    return pointer


def pointer_bytes(pointer: Pointer) -> bytes:
    """Return the content of the file of a pointer."""
    values = {"schema_version": SCHEMA_VERSION, **pointer.model_dump(mode="json")}
    text = json.dumps(values | {"sha256": digest_of(values)}, indent=2, ensure_ascii=False)
    return f"{text}\n".encode()


def bundle_path(directory: Path, version: str) -> Path:
    """Return the path of a version's bundle. Raises ReleaseError unless it is 12 hex digits."""
    if not re.fullmatch(VERSION, version):
        raise ReleaseError(
            f"{version[:60]!r} is no version of a bundle, which has 12 hex digits; `textloop "
            f"status {directory}` lists those that are deployed"
        )
    return directory / BUNDLES / version


def read_regular(path: Path, limit: int, *, tail: bool = False) -> bytes:
    """Read a file of at most `limit` bytes; with `tail` the last ones of a larger file.

    Raises OSError, and ReleaseError for what is no regular file or too large.
    """
    # Without O_NONBLOCK, opening a FIFO would block for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ReleaseError(f"`{path}` is not a regular file; remove it")
        if status.st_size > limit and not tail:
            raise ReleaseError(f"`{path}` has more than {limit:,} bytes; remove it")
        os.lseek(descriptor, max(0, status.st_size - limit), os.SEEK_SET)
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(limit)
    finally:
        os.close(descriptor)


def timestamp() -> str:
    """Return the present time, ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _parse(data: bytes) -> Pointer | None:
    """Return a pointer that every byte of `data` agrees with, or None."""
    try:
        values = json.loads(data)
        del values["schema_version"], values["sha256"]
        pointer = Pointer.model_validate(values)
        return pointer if pointer_bytes(pointer) == data else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
