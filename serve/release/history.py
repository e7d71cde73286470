"""Every change of a deployment directory, in order: one line each, which nothing rewrites.

A change is appended and synced before the pointer is replaced, so a change that took effect is in
the history. After a kill, or a full disk, between the two, the line is a change that did not take
effect. Nothing is written to say so: each line has the generation that it replaces (`base`), so
the lines tell it among themselves, together with the pointer.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from serve.bundle.manifest import digest_of
from serve.config import FrozenModel
from serve.files import sync_directory
from serve.release.pointer import Pointer, ReleaseError, read_pointer, read_regular

HISTORY = "history.jsonl"

MAX_READ_BYTES = 4_000_000
"""Bytes at the end of a history that are read, some 6,000 changes; older ones stay in the file."""

MAX_LINE_BYTES = 16_000
"""Bytes of a line; those written here have up to 6 kB."""

Action = Literal["promote", "rollback", "undo", "repair", "restore"]
State = Literal["done", "interrupted", "unknown", "damaged"]


class Change(FrozenModel):
    """A line of the history."""

    action: Action
    """What was asked for. undo: a server refused the version, so the pointer went back. repair:
    the pointer before it was damaged. restore: the line of the pointer was lost, and is here
    again."""

    base: int | None
    """The generation that it replaces; 0 if there was none, null if it is unknown."""

    pointer: Pointer
    """The pointer that it writes."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A change and what became of it."""

    change: Change | None
    """None for a line that is damaged."""

    state: State
    """done: it took effect. interrupted: it did not, the command ended before. unknown: the
    pointer or a line that would tell is damaged. damaged: the line itself is."""


def read_history(directory: Path) -> list[Entry]:
    """Return the changes, oldest first, as far as MAX_READ_BYTES reach."""
    lines = _read_lines(directory)
    try:
        pointer = read_pointer(directory)
        current = pointer.generation if pointer else 0
        in_doubt = pointer is not None and all(
            change is None or change.pointer != pointer for change in lines
        )
    except ReleaseError:
        current, in_doubt = 0, True
    entries: list[Entry] = []
    for change in reversed(lines):
        if change is None:
            entries.append(Entry(change=None, state="damaged"))
            in_doubt = True
            continue
        if change.pointer.generation == current:
            state: State = "done"
        else:
            state = "unknown" if in_doubt else "interrupted"
        entries.append(Entry(change=change, state=state))
        current, in_doubt = change.base or 0, change.base is None
    return entries[::-1]


def append(directory: Path, change: Change) -> None:
    """Append a line and sync it; a last line that is incomplete is removed before.

    A line is incomplete if the process or the machine ended while it was written, so it is one of
    a change that did not take effect. Raises OSError, with the file as it was, on a full disk.
    """
    path = directory / HISTORY
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o666)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ReleaseError(f"`{path}` is not a regular file; remove it")
        end = _mend_end(descriptor)
        try:
            _write_all(descriptor, line_of(change))
            os.fsync(descriptor)
        except OSError as error:
            os.ftruncate(descriptor, end)
            error.filename = str(path)
            raise
    finally:
        os.close(descriptor)
    sync_directory(directory)


def line_of(change: Change) -> bytes:
    """Return a change as a line, with the SHA-256 of what it says."""
    values = change.model_dump(mode="json")
    text = json.dumps(values | {"sha256": digest_of(values)}, ensure_ascii=False)
    return f"{text}\n".encode()


def _read_lines(directory: Path) -> list[Change | None]:
    """Return the changes of the history's lines, None for a damaged one.

    An incomplete last line is left out, which the next change will remove.
    """
    try:
        data = read_regular(directory / HISTORY, MAX_READ_BYTES, tail=True)
    except FileNotFoundError:
        return []
    lines = data.split(b"\n")
    if len(data) == MAX_READ_BYTES:
        del lines[0]  # the end of a line
    last = lines.pop() if lines else b""
    found = [_parse(line) for line in lines]
    if (complete := _parse(last)) is not None:  # only its line break is missing
        found.append(complete)
    return found


def _parse(line: bytes) -> Change | None:
    if len(line) > MAX_LINE_BYTES:
        return None
    try:
        values = json.loads(line)
        del values["sha256"]
        change = Change.model_validate(values)
        return change if line_of(change) == line + b"\n" else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _mend_end(descriptor: int) -> int:
    """Make the file end with a line break; returns its size."""
    size = os.fstat(descriptor).st_size
    start = max(0, size - MAX_LINE_BYTES - 1)
    tail = os.pread(descriptor, size - start, start)
    if not tail or tail.endswith(b"\n"):
        return size
    before, _, last = tail.rpartition(b"\n")
    if _parse(last) is None and (len(last) < len(tail) or start == 0):
        size = start + len(before) + (1 if len(last) < len(tail) else 0)
        os.ftruncate(descriptor, size)
        return size
    _write_all(descriptor, b"\n")
    return size + 1


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
