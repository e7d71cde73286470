"""Progress of long passes: a bar on a terminal, else a line now and then with the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Self

from tqdm import tqdm

FIRST_S = 10.0
INTERVAL_S = 30.0
"""Seconds until the first line, and between lines; of a long pass a twentieth of its time."""


class Pace:
    """When a line is due, and how long the rest takes."""

    def __init__(
        self, total: int, done: int = 0, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """done: of `total`, what was done before."""
        self.total, self.before = total, done
        self.clock, self.start = clock, clock()
        self.due = FIRST_S

    def time_left(self, done: int) -> str | None:
        """Return how long the rest takes, as `about 3 min left`; None if no line is due."""
        passed = self.clock() - self.start
        if passed < self.due or not self.before < done < self.total:
            return None
        self.due = passed + max(INTERVAL_S, passed / 20)
        return f"about {duration(passed * (self.total - done) / (done - self.before))} left"


def duration(seconds: float) -> str:
    """Format seconds to two digits, in the unit that suits them."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5970 else f"{seconds / 3600:.1f} h"


class Progress:
    """Shows how many texts of a pass are done, on stderr."""

    def __init__(self, description: str, total: int, *, shown: bool = True) -> None:
        """shown: False for all but one of several processes."""
        self.description, self.shown = description, shown
        self.bar: tqdm[Any] = tqdm(
            total=total, unit="texts", desc=description, disable=None if shown else True
        )
        self.pace, self.done = Pace(total), 0

    def update(self, texts: int) -> None:
        """Count texts that are done."""
        self.done += texts
        self.bar.update(texts)
        if self.shown and self.bar.disable and (left := self.pace.time_left(self.done)):
            line = f"{self.description}: {self.done:,} of {self.pace.total:,} texts, {left}"
            print(line, file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
