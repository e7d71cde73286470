"""Watch the server's processes: restart model processes that die or hang, notice HTTP processes
that die.

Knows processes, not what they run.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable
from multiprocessing import connection as mp_connection
from multiprocessing.process import BaseProcess

logger = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0
"""Pauses before a model process is restarted: doubled from the first to the longest."""

STEADY_S = 30.0
"""A model process that lived this long is restarted after the first pause."""

END_S = 5.0
"""Seconds from SIGTERM to SIGKILL when processes are ended."""

LOOK_S = 0.2
"""Seconds between two looks at processes that may hang."""


class Supervisor:
    """Keeps the model processes of one group running.

    workers: the model processes by number; a restarted one replaces the entry. launch: starts
    the model process of a number. hangs: why that process must be replaced, None if it lives.
    name: of the group, for the log.
    """

    def __init__(
        self,
        workers: list[BaseProcess],
        launch: Callable[[int], BaseProcess],
        hangs: Callable[[int], str | None],
        name: str = "model process",
    ) -> None:
        self.workers = workers
        self.launch = launch
        self.hangs = hangs
        self.name = name
        self._pauses_s = dict.fromkeys(range(len(workers)), FIRST_PAUSE_S)
        self._started_s = dict.fromkeys(range(len(workers)), time.monotonic())
        self._due_s: dict[int, float] = {}

    @property
    def sentinels(self) -> list[int]:
        """Become readable when a process ends that is not due to be restarted anyway."""
        return [
            process.sentinel
            for number, process in enumerate(self.workers)
            if number not in self._due_s
        ]

    def look(self) -> None:
        """Kill processes that hang, and restart dead ones after their pause."""
        for number, process in enumerate(self.workers):
            if process.is_alive() and (problem := self.hangs(number)):
                logger.error("%s %d: %s; killing it", self.name, number, problem)
                process.kill()
                process.join(timeout=END_S)
            self._restart_if_dead(number, process)

    def _restart_if_dead(self, number: int, process: BaseProcess) -> None:
        now = time.monotonic()
        if number not in self._due_s and not process.is_alive():
            if now - self._started_s[number] > STEADY_S:
                self._pauses_s[number] = FIRST_PAUSE_S
            pause_s = self._pauses_s[number]
            logger.error(
                "%s %d exited with code %s; restarting in %.1f s",
                self.name,
                number,
                process.exitcode,
                pause_s,
            )
            self._due_s[number] = now + pause_s
            self._pauses_s[number] = min(2 * pause_s, LONGEST_PAUSE_S)
        elif self._due_s.get(number, now + 1) <= now:
            del self._due_s[number]
            self._started_s[number] = now
            self.workers[number] = self.launch(number)


class Watch:
    """The supervisors of all groups that answer, which come and go."""

    def __init__(self) -> None:
        self.ending = False
        """Set to end `until_over` without a restart."""
        self._supervisors: list[Supervisor] = []
        self._lock = threading.Lock()

    def add(self, supervisor: Supervisor) -> None:
        """Watch a group from now on."""
        with self._lock:
            self._supervisors.append(supervisor)

    def remove(self, supervisor: Supervisor) -> None:
        """Watch a group no longer: none of its processes is restarted once this returns."""
        with self._lock:
            self._supervisors.remove(supervisor)

    def until_over(self, http: Collection[BaseProcess]) -> bool:
        """Watch until `ending` is set; True if an HTTP process exited before."""
        while not self.ending:
            with self._lock:
                alive = [each for group in self._supervisors for each in group.sentinels]
            mp_connection.wait([*alive, *(each.sentinel for each in http)], timeout=LOOK_S)
            if self.ending:
                break
            if dead := [each for each in http if not each.is_alive()]:
                logger.error("HTTP process %d exited unexpectedly; shutting down", dead[0].pid)
                return True
            with self._lock:
                for group in self._supervisors:
                    if not self.ending:
                        group.look()
        return False


def end_processes(processes: Iterable[BaseProcess]) -> None:
    """Send SIGTERM to all processes, and SIGKILL to those that are alive after END_S."""
    processes = list(processes)
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + END_S
    for process in processes:
        process.join(timeout=max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
