"""Run the product as its users do: as processes and over sockets."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parent.parent


def run(*arguments: object, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
    """Run this Python with the arguments to its end; stdout and stderr come as text."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONWARNINGS": "default"} | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_ready(url: str, process: subprocess.Popen[Any]) -> None:
    """Wait for 200 from a URL; RuntimeError if the process ends before, or after 90 s."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError("the server did not start")


class Server:
    """`python -m serve run` as a real process group."""

    def __init__(self, bundle: Path, *overrides: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = bundle.parent / f"server-{self.port}.log"
        command = [sys.executable, "-m", "serve", "run", "--bundle", str(bundle)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port), *overrides],
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            wait_until_ready(f"{self.url}/health", self.process)
        except RuntimeError as error:
            self.kill()
            raise RuntimeError(f"{error}:\n{self.log.read_text()}") from None

    def post(self, body: Any) -> httpx.Response:
        return httpx.post(f"{self.url}/predict", json=body, timeout=60)

    def stop(self) -> int:
        """SIGTERM to the main process alone, as a container runtime does; its exit code."""
        self.process.terminate()
        return self.process.wait(timeout=60)

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def children_of(pid: int) -> list[int]:
    """Processes of the process group that `pid` leads, from /proc."""
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
    """The model processes among the processes of a group."""
    found = []
    for pid in children_of(group):
        try:
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def left_after(group: int) -> list[int]:
    """Processes of a group whose leader has ended, after time for the last to follow."""
    deadline = time.monotonic() + 10
    while children_of(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    return children_of(group)


def wait_for(condition: Callable[[], Any], *, seconds: float = 10.0) -> Any:
    """The condition's value, as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)
    return value


@contextmanager
def running(bundle: Path, *overrides: str, **environment: str) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        server = Server(bundle, *overrides)
    try:
        yield server
    finally:
        server.kill()
