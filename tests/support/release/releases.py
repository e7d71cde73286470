"""Deployment directories for tests: what is in one, and changes that are killed at any point."""

from __future__ import annotations

import io
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve.release.change import Changed, promote, rollback
from serve.release.history import read_history
from serve.release.pointer import Pointer, read_pointer


@dataclass(frozen=True)
class Made:
    """Bundles that differ in their version alone."""

    paths: list[Path]
    versions: list[str]


WHO = "somebody@here"


def promoted(directory: Path, version: str, **options: Any) -> Changed:
    return promote(directory, version, who=WHO, **options)


def rolled_back(directory: Path, **options: Any) -> Changed:
    return rollback(directory, who=WHO, **options)


def champion(directory: Path) -> str | None:
    pointer = read_pointer(directory)
    return pointer.champion if pointer else None


def states(directory: Path) -> list[str]:
    """State of each line of the history."""
    return [entry.state for entry in read_history(directory)]


def done(directory: Path) -> list[Pointer]:
    """Pointers of the changes that took effect, in order."""
    return [
        entry.change.pointer
        for entry in read_history(directory)
        if entry.state == "done" and entry.change
    ]


def count_points(action: Callable[[], Any]) -> list[str]:
    """Run an action in a forked process; returns what it asked of the operating system."""
    reading, writing = os.pipe()
    pid = _fork()
    if pid == 0:
        os.close(reading)
        points: list[str] = []
        _watch(lambda name: points.append(name))
        _quiet(action)
        found = list(points)
        with os.fdopen(writing, "w") as pipe:
            pipe.write("\n".join(found))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        found = pipe.read().split("\n")
    os.waitpid(pid, 0)
    return found


def kill_at(point: int, action: Callable[[], Any]) -> bool:
    """Run an action in a forked process that is killed at its point number `point`, from 0.

    A write is half done when it is killed. Returns whether it came that far.
    """
    pid = _fork()
    if pid == 0:
        left = [point]

        def die(name: str) -> None:
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1

        _watch(die, half=lambda: left[0] == 0)
        _quiet(action)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)


def fork_all(actions: Sequence[Callable[[], Any]]) -> list[int]:
    """Run actions at once, each in a forked process; returns their exit codes, 9 if it raised."""
    pids = [fork(action) for action in actions]
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def fork(action: Callable[[], Any]) -> int:
    """Run an action in a forked process; returns its process id."""
    pid = _fork()
    if pid == 0:
        os._exit(_quiet(action))
    return pid


def _fork() -> int:
    with warnings.catch_warnings():  # of threads of PyTorch, which the child does not use
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _quiet(action: Callable[[], Any]) -> int:
    """Call an action without output; returns its exit code."""
    sys.stdout = sys.stderr = io.StringIO()
    try:
        code = action()
    except BaseException:
        return 9
    return code if isinstance(code, int) else 0


CALLS = ("fsync", "ftruncate", "close", "replace", "rename", "unlink", "mkdir", "rmdir")


def _watch(see: Callable[[str], None], half: Callable[[], bool] = lambda: False) -> None:
    """Call `see` before each request of this process that opens, locks or changes a file."""
    own_kill, own_write = os.kill, os.write

    def before(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **options: Any) -> Any:
            see(name)
            return call(*arguments, **options)

        return watched

    def write(descriptor: int, data: bytes) -> int:
        if half():
            own_write(descriptor, bytes(data)[: len(data) // 2])
            own_kill(os.getpid(), signal.SIGKILL)
        see("write")
        return own_write(descriptor, data)

    for name in CALLS:
        setattr(os, name, before(name, getattr(os, name)))
    os.write = write

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("open", "fcntl.flock", "shutil.rmtree", "shutil.copyfile"):
            see(event)

    sys.addaudithook(audit)
