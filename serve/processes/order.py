"""What a model process is given. Light to import: the parent makes orders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from serve.settings import ServeConfig


@dataclass(frozen=True, kw_only=True)
class Pace:
    """The measured speed of a model of the same shape, on the same backend and device."""

    max_batch_tokens: int
    overhead_tokens: float
    tokens_per_s: float


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
    pace: Pace | None
    """Speed to begin with; None: measured, which is right only while nothing else runs."""


def failure_file(socket: Path) -> Path:
    """Where a model process that cannot load writes the reason, one line."""
    return socket.with_suffix(".failed")
