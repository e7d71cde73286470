"""What the pretended device was asked to do that costs time on a real one."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

SYNC = "sync"
"""The host waits for the device, to read a number."""

TO_HOST = "to host"
"""A copy to the host, which waits for the device."""

TO_DEVICE = "to device"
"""A copy to the device from page-locked memory that the host does not wait for."""

BLOCKING = "to device, blocking"
"""A copy to the device that the host waits for."""

PAGEABLE = "to device, pageable"
"""A copy from pageable memory, which is staged by the driver: `non_blocking` has no effect."""

ROOT = Path(__file__).parent.parent.parent
LIBRARIES = "site-packages/"
SKIPPED = ("/torch/", "/fake_cuda/", "<")


@dataclass(frozen=True)
class Event:
    """One wait or copy."""

    kind: str
    operation: str
    place: str
    """The line of ours that led to it, and the library's line below."""
    num_bytes: int


@dataclass
class Recording:
    """The events of a `with recording()` block, and the operations by name."""

    events: list[Event] = field(default_factory=list)
    operations: Counter[str] = field(default_factory=Counter)

    def count(self, *kinds: str) -> int:
        """Return the number of events of these kinds."""
        return sum(event.kind in kinds for event in self.events)

    def __str__(self) -> str:
        rows = Counter((each.kind, each.operation, each.place) for each in self.events)
        return "\n".join(f"{n} x {' | '.join(row)}" for row, n in sorted(rows.items()))


_open: list[Recording] = []


@contextmanager
def recording() -> Iterator[Recording]:
    """Record the events of all threads of this process."""
    record = Recording()
    _open.append(record)
    try:
        yield record
    finally:
        _open.remove(record)


def note(kind: str, operation: str, tensor: torch.Tensor | None = None) -> None:
    """Record an event."""
    if not _open:
        return
    num_bytes = 0 if tensor is None else tensor.numel() * tensor.element_size()
    event = Event(kind, operation, place(), num_bytes)
    for record in _open:
        record.events.append(event)


def note_operation(name: str) -> None:
    """Count an operation on the device."""
    for record in _open:
        record.operations[name] += 1


def place() -> str:
    """Return the innermost line of this repository, and of the library that it called."""
    frame = sys._getframe(1)
    library = ""
    while frame is not None:
        name = frame.f_code.co_filename
        if any(part in name for part in SKIPPED[:2]) or name.startswith(SKIPPED[2]):
            pass
        elif LIBRARIES in name:
            library = library or f"{name.partition(LIBRARIES)[2]}:{frame.f_lineno}"
        elif name.startswith(str(ROOT)):
            ours = f"{Path(name).relative_to(ROOT)}:{frame.f_lineno}"
            return f"{ours} -> {library}" if library else ours
        frame = frame.f_back
    return library or "unknown"
