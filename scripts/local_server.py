"""Start a server on this machine, wait until it is ready, send it requests and stop it.

For the benchmarks, the checks, the quickstart and the tests.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import urlsplit

READY_TIMEOUT_S = 120
STOP_TIMEOUT_S = 60


class LocalServer:
    """A server in a process group of its own, ready for requests."""

    def __init__(
        self,
        *arguments: object,
        port: int | None = None,
        output: TextIO | None = None,
        python: str | Path = sys.executable,
    ):
        """Run Python with the arguments and `--port`, and wait until /health returns 200.

        port: any free one by default. output: file for the server's stdout and stderr, which are
        this process's by default. python: by default the one that runs this.
        Raises RuntimeError if the server exits or is not ready in time.
        """
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = [str(python), *map(str, arguments), "--port", str(self.port)]
        # A group of its own to kill, but the same session: Linux shares the CPU among sessions, so
        # that a server of another one would compete with its load generator as a whole.
        self.process = subprocess.Popen(command, stdout=output, stderr=output, process_group=0)
        try:
            wait_until_ready(f"{self.url}/health", self.process)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> int:
        """Send SIGTERM to the main process, as a container runtime does; return its exit code."""
        self.process.terminate()
        return self.process.wait(timeout=STOP_TIMEOUT_S)

    def kill(self) -> None:
        """Kill what is left of the process group."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def running_server(*arguments: object, **options: Any) -> Iterator[LocalServer]:
    """Run a `LocalServer` for the duration of a `with` block; options: see there."""
    server = LocalServer(*arguments, **options)
    try:
        yield server
    finally:
        try:
            with suppress(subprocess.TimeoutExpired):
                server.stop()
        finally:  # a second signal interrupts the wait
            server.kill()


def free_port(wanted: int = 0) -> int:
    """Return `wanted`, or any free port, after binding it on 127.0.0.1. Raises OSError if taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", wanted))
        return int(probe.getsockname()[1])


def wait_until_ready(url: str, process: subprocess.Popen[Any]) -> None:
    """Wait until a GET of `url` returns 200.

    Raises RuntimeError if `process`, the server's, exits first, or after READY_TIMEOUT_S.
    """
    deadline = time.monotonic() + READY_TIMEOUT_S
    while process.poll() is None:
        with suppress(OSError, HTTPException):  # nothing listens yet
            if _request("GET", url)[0] == 200:
                return
        if time.monotonic() > deadline:
            raise RuntimeError(f"{url} not ready after {READY_TIMEOUT_S} s")
        time.sleep(0.02)
    raise RuntimeError(f"the server exited with code {process.returncode} before it was ready")


def post(url: str, body: Any) -> Any:
    """Send `body` as JSON; return the decoded response. Raises RuntimeError unless it is 200."""
    status, content = _request("POST", url, json.dumps(body).encode())
    if status != 200:
        raise RuntimeError(f"POST {url} returned {status}: {content.decode(errors='replace')}")
    return json.loads(content)


def _request(method: str, url: str, body: bytes | None = None) -> tuple[int, bytes]:
    """Return status and content. Never uses a proxy; the server is on this machine."""
    parts = urlsplit(url)
    with closing(HTTPConnection(parts.netloc, timeout=60)) as connection:
        connection.request(method, parts.path or "/", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
