"""Run Textloop as its users do: as processes, over HTTP."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from scripts.local_server import LocalServer, free_port

ROOT = Path(__file__).parent.parent.parent


def run(*arguments: object, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
    """Run this Python with the arguments until it exits; capture stdout and stderr as text."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONWARNINGS": "default"} | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


class Server(LocalServer):
    """`python -m serve run` on a bundle, beside which its output is in the file `log`.

    option: what names the bundle, or the directory that is served in its place.
    """

    def __init__(self, bundle: Path, *overrides: str, option: str = "--bundle") -> None:
        port = free_port()
        self.log = bundle.parent / f"server-{port}.log"
        with self.log.open("w") as log:
            command = ("-m", "serve", "run", option, bundle, *overrides)
            try:
                super().__init__(*command, port=port, output=log)
            except RuntimeError as error:
                raise RuntimeError(f"{error}:\n{self.log.read_text()}") from None

    def post(self, body: Any) -> httpx.Response:
        return httpx.post(f"{self.url}/predict", json=body, timeout=60)


def children_of(pid: int) -> list[int]:
    """Running processes of the process group of leader `pid`, from /proc."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[2]) == pid and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def workers_of(group: int) -> list[int]:
    """Model processes of a process group."""
    found = []
    for pid in children_of(group):
        try:
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@contextmanager
def paused(pids: Iterable[int]) -> Iterator[None]:
    """Stop processes by SIGSTOP for the duration of a `with` block."""
    pids = list(pids)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def left_after(group: int) -> list[int]:
    """Wait up to 10 s until all processes of a group have exited; return those that have not."""
    deadline = time.monotonic() + 10
    while children_of(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    return children_of(group)


def wait_for(condition: Callable[[], Any], *, seconds: float = 10.0) -> Any:
    """Wait until the condition is true; return its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not true after {seconds} s"
        time.sleep(0.02)
    return value


@contextmanager
def running(bundle: Path, *overrides: str, **environment: str) -> Iterator[Server]:
    """Run a server of its own for the duration of a `with` block."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        server = Server(bundle, *overrides)
    try:
        yield server
    finally:
        server.kill()
