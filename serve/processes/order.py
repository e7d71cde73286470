"""What a model process is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from serve.inference.predictor import Throughput
from serve.settings import ServeConfig


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a model process is to run."""

    bundle: Path
    """A verified bundle."""
    config: ServeConfig
    device: str
    number: int
    """Of the process in its group."""
    slot: int
    """Names its files of metrics, which the next process in this slot goes on with."""
    socket: Path
    """Where it listens once its model is loaded."""
    is_beside: bool
    """Whether others answer requests while it loads."""
    pace: Throughput | None
    """Speed to begin with; None: measured, which is right only while nothing else runs."""


def failure_file(socket: Path) -> Path:
    """Where a model process that cannot load writes the reason, one line."""
    return socket.with_suffix(".failed")
