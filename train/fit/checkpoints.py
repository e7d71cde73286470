"""Which checkpoints are complete.

The Trainer writes a checkpoint file by file under its final name and resumes from the highest
step, even if the process died while writing it (transformers#35782). Here a checkpoint counts
only if it has a marker, which lists every file with its size and is written last, after all
files are synced.
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


def is_complete(checkpoint: Path) -> bool:
    """Return whether the marker exists and every file it lists has the recorded size."""
    try:
        sizes = json.loads((checkpoint / MARKER).read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    return all(
        (checkpoint / name).is_file() and (checkpoint / name).stat().st_size == size
        for name, size in sizes.items()
    )


def checkpoints(directory: Path) -> list[Path]:
    """Return all checkpoint directories, complete or not, in order of their steps."""
    if not directory.is_dir():
        return []
    found = [path for path in directory.iterdir() if path.is_dir() and _NAME.fullmatch(path.name)]
    return sorted(found, key=_step_of)


def latest_complete(directory: Path) -> Path | None:
    """Return the complete checkpoint with the highest step, or None."""
    return next((path for path in reversed(checkpoints(directory)) if is_complete(path)), None)


def remove_partial(directory: Path) -> list[Path]:
    """Delete incomplete checkpoints, which the Trainer would count when it rotates them."""
    partial = [path for path in checkpoints(directory) if not is_complete(path)]
    for path in partial:
        shutil.rmtree(path)
    return partial


def _step_of(checkpoint: Path) -> int:
    match = _NAME.fullmatch(checkpoint.name)
    assert match is not None, checkpoint
    return int(match[1])
