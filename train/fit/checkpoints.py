"""Which checkpoint is whole.

The Trainer writes a checkpoint file by file under its final name and resumes from the
highest number, even when the process died half-way through writing it
(transformers#35782). Here a checkpoint counts only once its last act is done: a marker
that lists every file with its size, written after all files are synced.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

from serve.files import sync_directory, write_atomic

MARKER = "complete.json"
_NAME = re.compile(r"checkpoint-(\d+)")


def mark_complete(checkpoint: Path) -> None:
    """Sync every file of a checkpoint and write its marker."""
    sizes = {}
    for file in sorted(checkpoint.rglob("*")):
        if file.is_file() and file.name != MARKER:
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
            sizes[str(file.relative_to(checkpoint))] = file.stat().st_size
    sync_directory(checkpoint)
    write_atomic(checkpoint / MARKER, json.dumps(sizes, indent=2).encode())


def is_whole(checkpoint: Path) -> bool:
    """Whether the marker is there and every file it lists has its size."""
    try:
        sizes = json.loads((checkpoint / MARKER).read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    return all(
        (checkpoint / name).is_file() and (checkpoint / name).stat().st_size == size
        for name, size in sizes.items()
    )


def checkpoints(directory: Path) -> list[Path]:
    """All checkpoint directories, whole or not, oldest step first."""
    if not directory.is_dir():
        return []
    found = [path for path in directory.iterdir() if path.is_dir() and _NAME.fullmatch(path.name)]
    return sorted(found, key=step_of)


def latest_complete(directory: Path) -> Path | None:
    """The whole checkpoint with the highest step, or None."""
    return next((path for path in reversed(checkpoints(directory)) if is_whole(path)), None)


def remove_partial(directory: Path) -> list[Path]:
    """Delete checkpoints that are not whole; they would mislead the Trainer's rotation."""
    partial = [path for path in checkpoints(directory) if not is_whole(path)]
    for path in partial:
        shutil.rmtree(path)
    return partial


def step_of(checkpoint: Path) -> int:
    """The global step in a checkpoint's name."""
    match = _NAME.fullmatch(checkpoint.name)
    assert match is not None, checkpoint
    return int(match[1])
