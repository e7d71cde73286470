"""Python's garbage collector, told what kind of program this is."""

from __future__ import annotations

import gc


def tune_gc() -> None:
    """Let the collector pass over what is there now, and look at the rest less often.

    To be called when a process has loaded all that it keeps. An answer with many labels
    makes thousands of small dictionaries, none of them in a cycle: with the default
    thresholds looking for cycles took a seventh of an HTTP process's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
