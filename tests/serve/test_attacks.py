"""A whole server under attack, with logs that nobody reads, goes on and ends in time."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from processes import children_of, left_after, run, wait_for

from scripts.local_server import LocalServer
from serve.server import make_runtime

Bundles = Callable[[str], Path]

HEAD = b"POST /predict HTTP/1.1\r\nhost: x\r\n"


@contextmanager
def logging_to(output: int, bundle: Path, *overrides: str) -> Iterator[LocalServer]:
    """A server with an access log whose standard streams are a file descriptor."""
    command = ("-m", "serve", "run", "--bundle", bundle, "access_log=true", *overrides)
    with os.fdopen(output, "w") as file:
        server = LocalServer(*command, output=file)
    try:
        yield server
    finally:
        server.kill()


def stalled_pipe() -> tuple[int, int]:
    """A pipe that is full from the start."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    with suppress(BlockingIOError):
        while True:
            os.write(write, b"x" * 4096)
    os.set_blocking(write, True)
    return read, write


def statuses(server: LocalServer, number: int) -> set[int]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        return {
            client.post("/predict", json={"inputs": "my parcel"}).status_code for _ in range(number)
        }


def probes(client: socket.socket, number: int) -> int:
    """Send so many probes, pipelined, and return how many were answered 200."""
    client.settimeout(30)
    answered = 0
    for _ in range(number // 100):
        client.sendall(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n" * 100)
        received = b""
        while received.count(b'{"status":"ok"}') < 100:
            received += client.recv(65_536)
        answered += received.count(b"HTTP/1.1 200 ")
    return answered


def metric(server: LocalServer, name: str) -> float:
    text = httpx.get(f"{server.url}/metrics").text
    return sum(map(float, re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE)))


@pytest.mark.slow
def test_server_with_a_stalled_log_goes_on_under_attack_and_ends_in_time(bundles: Bundles) -> None:
    read, write = stalled_pipe()
    limits = "max_connections=32 idle_timeout_s=600 head_timeout_s=600 grace_s=4".split()
    with logging_to(write, bundles("single"), *limits) as server, ExitStack() as stack:
        group = server.process.pid

        def connect() -> socket.socket:
            return stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))

        os.killpg(group, signal.SIGHUP)
        for _ in range(40):  # half a head, half a body, many heads, more than may be
            connect().sendall(HEAD + b"a: ")
        connect().sendall(HEAD + b"content-length: 9\r\n\r\n")
        with suppress(OSError), socket.create_connection(("127.0.0.1", server.port)) as flood:
            flood.sendall(HEAD + b"a: " + b"a" * 5_000_000)
        time.sleep(2)  # after which they make room

        assert statuses(server, 100) == {200}
        assert probes(connect(), 5000) == 5000  # more lines than wait for a reader
        wait_for(lambda: metric(server, "textloop_access_log_dropped_total") > 0)
        assert metric(server, "textloop_connections_closed_total") > 0
        # All connections in use: a probe is still answered, and a request is told to wait.
        busy = [connect() for _ in range(34)]
        for each in busy:
            each.sendall(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        found = {each.recv(4096).split(b" ")[1] for each in busy}
        assert found == {b"200"}
        extra = connect()
        extra.sendall(HEAD + b"content-length: 2\r\n\r\n{}")
        answer = b"".join(iter(lambda: extra.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"more than 32 connections" in answer

        for _ in range(8):
            connect().sendall(HEAD + b"content-length: 9\r\n\r\n")
        started = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - started < 4
        assert left_after(group) == []
    os.close(read)


@pytest.mark.slow
def test_server_with_its_log_on_a_full_disk_serves(bundles: Bundles) -> None:
    with logging_to(os.open("/dev/full", os.O_WRONLY), bundles("single")) as server:
        assert statuses(server, 100) == {200}
        wait_for(lambda: metric(server, "textloop_access_log_dropped_total") >= 100)
        assert server.stop() == 0


@pytest.mark.slow
def test_server_whose_temporary_directory_fills_up_serves(bundles: Bundles, tmp_path: Path) -> None:
    mount = f"mount -t tmpfs -o size=2m none {tmp_path} && chmod 1777 {tmp_path}"
    if subprocess.run(["unshare", "-Urm", "sh", "-c", mount], check=False).returncode:
        pytest.skip("this machine does not let a test mount a file system")
    fill = f"(sleep 6; dd if=/dev/zero of={tmp_path}/fill bs=1k 2>/dev/null) &"
    command = f'{mount} && {fill} exec {sys.executable} "$@"'
    arguments = ["-m", "serve", "run", "--bundle", str(bundles("single"))]
    script = (
        "import os, sys; os.environ['TMPDIR'] = sys.argv[1];"
        "os.execvp('unshare', ['unshare', '-Urm', 'sh', '-c', sys.argv[2], 'sh', *sys.argv[3:]])"
    )
    with (tmp_path.parent / "full.log").open("w") as log:
        server = LocalServer("-c", script, tmp_path, command, *arguments, output=log)
        try:
            started = time.monotonic()
            assert statuses(server, 20) == {200}
            time.sleep(max(0.0, started + 7 - time.monotonic()))
            assert httpx.get(f"{server.url}/metrics").status_code == 200
            assert statuses(server, 20) == {200}
        finally:
            server.kill()


def test_address_is_printed_once_the_server_serves(bundles: Bundles, tmp_path: Path) -> None:
    """Not where the port is taken."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = run("-m", "serve", "run", "--bundle", bundles("single"), "--port", port)

    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: cannot bind 127.0.0.1:{port}: address already in use")
    assert len(result.stderr.splitlines()) == 1


def test_address_is_printed_by_a_server(serve: Callable[..., LocalServer]) -> None:
    server = serve("single")
    log: Path = server.log  # type: ignore[attr-defined]

    line = wait_for(lambda: [each for each in log.read_text().splitlines() if "serving " in each])
    assert f" on {server.url}; docs at /docs" in line[0]
    assert len(children_of(server.process.pid)) > 2


def test_no_room_for_the_temporary_directory_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(prefix: str) -> str:
        raise OSError(28, "No space left on device", "/tmp/textloop-x")

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with pytest.raises(ValueError, match="`/tmp/textloop-x`: No space left on device; free space"):
        make_runtime()


def test_a_temporary_directory_too_deep_for_sockets_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))

    with pytest.raises(ValueError, match="too long a path for sockets"):
        make_runtime()
    assert list(deep.iterdir()) == []
