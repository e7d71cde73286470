"""Work at the lowest priority, beside others that must not wait for it.

The policy (SCHED_IDLE on Linux) belongs to a thread and those that it starts, and an unprivileged
thread cannot leave it. So it is given to a thread of its own, never to the main thread.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

Result = TypeVar("Result")


def aside(work: Callable[[], Result]) -> Result:
    """Return what `work` returns in a thread of the lowest priority; its exception is raised.

    An interrupt ends the wait, and the thread with the process.
    """
    results: list[Result] = []
    raised: list[BaseException] = []

    def run() -> None:
        _set_idle()
        try:
            results.append(work())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, name="aside", daemon=True)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
    return results[0]


def _set_idle() -> None:
    if hasattr(os, "SCHED_IDLE"):  # Linux
        with suppress(OSError):  # a sandbox that has no priorities
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
