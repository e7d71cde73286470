"""Tuning of Python's garbage collector for a server process."""

from __future__ import annotations

import gc


def tune_gc() -> None:
    """Freeze the loaded objects and raise the collection thresholds.

    Call it once a process has loaded everything it keeps. A response with many labels
    allocates thousands of small dictionaries, none of them in a cycle: with the default
    thresholds, looking for cycles took a seventh of an HTTP process's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
