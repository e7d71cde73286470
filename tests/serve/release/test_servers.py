"""Servers state what they serve, and are known to be gone by their lock."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import wait_for
from releases import fork

from serve.release.servers import (
    HttpProcess,
    RefusedVersion,
    Registration,
    ServerStatus,
    live_servers,
    other_servers,
)

VERSION = "0123456789ab"


def status(**fields: Any) -> ServerStatus:
    values: dict[str, Any] = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "url": "http://127.0.0.1:8000",
        "started": "2026-01-01T00:00:00+00:00",
        "updated": "2026-01-01T00:00:00+00:00",
        "generation": 3,
        "version": VERSION,
    }
    return ServerStatus(**values | fields)


def files(directory: Path) -> list[str]:
    return sorted(each.name for each in (directory / "servers").iterdir())


def test_status_is_read_as_it_was_written(tmp_path: Path) -> None:
    full = status(
        loading=VERSION,
        retired=VERSION,
        refused=RefusedVersion(generation=2, version=VERSION, reason="no\n\udc80 room", time="now"),
        http=(HttpProcess(pid=7, generation=3), HttpProcess(pid=8, generation=None)),
    )
    registration = Registration(tmp_path, status())

    assert registration.write(full)

    (found,) = live_servers(tmp_path)
    assert found.model_copy(update={"boot": None}) == full
    assert found.refused is not None
    assert found.refused.reason == "no ? room"
    registration.close()
    registration.close()
    assert live_servers(tmp_path) == []
    assert files(tmp_path) == []


@pytest.fixture
def killed(tmp_path: Path) -> Callable[[], int]:
    """Start a server's main process that registers, forks a child, and is killed."""

    def run() -> int:
        def main() -> None:
            Registration(tmp_path, status())
            child = os.fork()
            if child == 0:
                (tmp_path / "child").touch()
                time.sleep(3)  # outlives the main process
                os._exit(0)
            signal.pause()

        pid = fork(main)
        wait_for((tmp_path / "child").exists)
        assert len(live_servers(tmp_path)) == 1
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return pid

    return run


def test_killed_server_is_known_to_be_gone_though_its_children_live(
    tmp_path: Path, killed: Callable[[], int]
) -> None:
    killed()
    assert len(files(tmp_path)) == 2

    assert live_servers(tmp_path) == []
    assert files(tmp_path) == []


def test_two_servers_of_one_name_have_a_file_each(tmp_path: Path) -> None:
    first, second = (Registration(tmp_path, status(url=f"http://h:{port}")) for port in (1, 2))

    assert [each.url for each in live_servers(tmp_path)] == ["http://h:2", "http://h:1"]
    first.close()
    assert [each.url for each in live_servers(tmp_path)] == ["http://h:2"]
    second.close()


def test_new_server_takes_the_place_of_a_dead_one_of_its_name(tmp_path: Path) -> None:
    stem = f"{socket.gethostname()}-{os.getpid()}"
    (tmp_path / "servers").mkdir()
    (tmp_path / "servers" / f"{stem}.json").write_text(status(generation=1).model_dump_json())
    (tmp_path / "servers" / f"{stem}.lock").touch()

    registration = Registration(tmp_path, status(generation=9))

    assert [each.generation for each in live_servers(tmp_path)] == [9]
    assert files(tmp_path) == [f"{stem}.json", f"{stem}.lock"]
    registration.close()


@pytest.mark.parametrize("content", [b"", b"{", b"x" * 2_000_000, b'{"host": 1}', b"[" * 90_000])
def test_live_server_with_a_damaged_status_counts_and_has_no_generation(
    tmp_path: Path, content: bytes
) -> None:
    registration = Registration(tmp_path, status())
    registration.path.write_bytes(content)

    (found,) = live_servers(tmp_path)
    assert (found.generation, found.http) == (None, ())
    registration.close()


def test_host_name_is_no_path(tmp_path: Path) -> None:
    registration = Registration(tmp_path, status(host="../../a b/é"))

    assert registration.path.parent == tmp_path / "servers"
    registration.close()


def test_server_in_a_container_of_another_name_is_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registration = Registration(tmp_path, status(host="container-7"))
    assert len(live_servers(tmp_path)) == 1
    assert other_servers(tmp_path) == []

    monkeypatch.setattr("serve.release.servers._BOOT_ID", tmp_path / "none")
    assert live_servers(tmp_path) == []
    assert len(other_servers(tmp_path)) == 1
    registration.close()


def test_status_that_cannot_be_written_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registration = Registration(tmp_path, status())
    assert not registration.write(status(url="\udc80"))

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        assert not registration.write(status(generation=4))

    assert [each.generation for each in live_servers(tmp_path)] == [3]
    assert len(files(tmp_path)) == 2
    registration.close()
