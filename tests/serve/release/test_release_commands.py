"""The commands: what they print, how they end, and how long they wait for servers."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from processes import run
from releases import Made, champion, promoted, states

from serve.release import directory as locking
from serve.release.directory import locked
from serve.release.pointer import Pointer, bundle_path, read_pointer
from serve.release.servers import HttpProcess, RefusedVersion, Registration, ServerStatus
from textloop.__main__ import main

Follow = Callable[[ServerStatus, Pointer], ServerStatus]


def switch(status: ServerStatus, pointer: Pointer) -> ServerStatus:
    """Answer by the pointer."""
    http = (HttpProcess(pid=11, generation=pointer.generation),)
    new = {"generation": pointer.generation, "version": pointer.champion, "http": http}
    return status.model_copy(update=new)


def refuse(version: str) -> Follow:
    """Answer by the pointer, but for one version."""

    def follow(status: ServerStatus, pointer: Pointer) -> ServerStatus:
        if pointer.champion != version:
            return switch(status, pointer)
        refused = RefusedVersion(
            generation=pointer.generation, version=version, reason="no memory", time=""
        )
        return status.model_copy(update={"refused": refused})

    return follow


@contextmanager
def server(directory: Path, follow: Follow) -> Iterator[None]:
    """A stand-in for a server's main process, that looks at the pointer every 10 ms."""
    status = ServerStatus(
        host=socket.gethostname(), pid=os.getpid(), url="http://127.0.0.1:8000", started="",
        updated="", generation=None, version=None,
    )  # fmt: skip
    registration = Registration(directory, status)
    ended = threading.Event()

    def watch() -> None:
        seen, now = None, status
        while not ended.wait(0.01):
            pointer = read_pointer(directory)
            if pointer is not None and pointer != seen:
                now, seen = follow(now, pointer), pointer
                registration.write(now)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        registration.close()


def command(*words: object) -> int:
    return main([str(word) for word in words])


def test_life_of_a_deployment_at_the_command_line(
    three: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "deployment"
    for path, version in zip(three.paths[:2], three.versions[:2], strict=True):
        assert command("deploy", directory, path) == 0
        assert capsys.readouterr().out.splitlines()[-1] == version
        assert command("promote", directory, version[:5], "--why", "better") == 0
        assert "no server of this directory runs on this machine" in capsys.readouterr().out
    assert command("rollback", directory, "--generation", 2) == 0
    assert command("promote", directory, three.versions[0]) == 0
    assert "was the champion already, generation 3" in capsys.readouterr().out

    assert command("history", directory) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2:4] for line in lines] == [
        ["promote", three.versions[0]],
        ["promote", three.versions[1]],
        ["rollback", three.versions[0]],
    ]
    assert command("history", directory, "--json") == 0
    values = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["base"] for each in values] == [0, 1, 2]
    assert [each["why"] for each in values] == ["better", "better", ""]

    assert command("status", directory, "--json") == 0
    state = json.loads(capsys.readouterr().out)
    assert state["pointer"]["champion"] == three.versions[0]
    assert {each["version"] for each in state["bundles"]} == set(three.versions[:2])
    assert command("status", directory) == 0
    assert f"champion: {three.versions[0]}, generation 3" in capsys.readouterr().out


def test_promote_returns_when_every_http_process_answers(
    deployment: Path, versions: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    promoted(deployment, versions[0])
    with server(deployment, switch), server(deployment, switch):
        assert command("promote", deployment, versions[1]) == 0
        assert "answered by 2 HTTP processes of 2 servers after" in capsys.readouterr().out
        assert command("rollback", deployment) == 0
        assert command("status", deployment) == 0
        assert f"version {versions[0]}, HTTP processes at generation 3" in capsys.readouterr().out


def test_version_that_a_server_refuses_is_undone_with_the_reason(
    deployment: Path, versions: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    promoted(deployment, versions[0])
    promoted(deployment, versions[1])
    with server(deployment, switch), server(deployment, refuse(versions[2])):
        assert command("promote", deployment, versions[2]) == 1
        said = capsys.readouterr().out
        assert "no memory" in said
        assert f"{versions[1]} is the champion again, generation 4" in said
        assert command("rollback", deployment) == 0
        assert champion(deployment) == versions[0]

    assert command("history", deployment) == 0
    assert "undo" in (said := capsys.readouterr().out)
    assert "no memory" in said


def test_first_version_that_a_server_refuses_has_nothing_to_go_back_to(
    deployment: Path, versions: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with server(deployment, refuse(versions[0])):
        for _ in range(2):
            assert command("promote", deployment, versions[0]) == 1
            assert "the pointer stays" in capsys.readouterr().out

    assert states(deployment) == ["done"]


def test_server_that_does_not_follow_in_time_is_shown_with_code_3(
    deployment: Path, versions: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    promoted(deployment, versions[0])

    def load(status: ServerStatus, pointer: Pointer) -> ServerStatus:
        if pointer.generation == 1:
            return switch(status, pointer)
        return status.model_copy(update={"loading": pointer.champion})

    with server(deployment, load):
        assert command("promote", deployment, versions[1], "--timeout", "0.2") == 3
        said = capsys.readouterr().out
        assert "not every server answers by generation 2" in said
        assert f"loads {versions[1]}" in said
        assert command("status", deployment) == 0
        assert "not at 2 yet" in capsys.readouterr().out

    assert champion(deployment) == versions[1]


def test_server_that_ends_meanwhile_is_no_success(
    deployment: Path, versions: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    promoted(deployment, versions[0])
    ended = threading.Event()

    def serve_a_while() -> None:
        with server(deployment, lambda status, _: status):
            ended.wait()

    thread = threading.Thread(target=serve_a_while)
    thread.start()
    time.sleep(0.05)
    threading.Timer(0.3, ended.set).start()

    assert command("promote", deployment, versions[1]) == 3
    thread.join()

    assert "ended before they answered by generation 2" in capsys.readouterr().out


def test_refusals_end_with_1_and_mistakes_with_2(
    deployment: Path,
    versions: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    promoted(deployment, versions[0])
    assert command("promote", deployment, versions[1], "--generation", 7) == 1
    assert "refused: " in capsys.readouterr().out
    for words in (
        ("promote", deployment, "../x"),
        ("promote", deployment, "0" * 12),
        ("promote", deployment, versions[1], "--generation", "-1"),
        ("promote", deployment, versions[1], "--timeout", "nan"),
        ("promote", deployment, versions[1], "--keep", "many"),
        ("promote", tmp_path / "nowhere", versions[1]),
        ("rollback", tmp_path, "--why", "x"),
        ("rollback", deployment),
        ("status", tmp_path),
        ("history", tmp_path / "nowhere"),
        ("deploy", deployment, tmp_path),
    ):
        assert command(*words) == 2, words
        assert capsys.readouterr().err.startswith("error: ")
    monkeypatch.setattr(locking, "LOCK_WAIT_S", 0.05)
    with locked(deployment):
        assert command("promote", deployment, versions[1]) == 3
    assert states(deployment) == ["done"]


def test_damaged_pointer_makes_status_end_with_3_and_say_the_remedy(
    deployment: Path, versions: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    promoted(deployment, versions[0])
    (deployment / "pointer.json").write_text("{}")

    assert command("status", deployment) == 3
    said = capsys.readouterr().out
    assert "champion: unknown" in said
    assert f"textloop promote {deployment} VERSION --repair" in said
    assert command("promote", deployment, versions[1]) == 2
    assert command("promote", deployment, versions[1], "--repair") == 0
    assert command("history", deployment) == 0
    assert "(unknown)" in capsys.readouterr().out


def test_keep_removes_the_others_afterwards(
    deployment: Path, versions: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    promoted(deployment, versions[0])
    assert command("promote", deployment, versions[1], "--keep", 0) == 0
    assert f"removed {versions[2]}" in capsys.readouterr().out
    away = {"host": "x", "pid": 1, "url": "", "started": "", "generation": None, "version": None}
    text = ServerStatus.model_validate({**away, "updated": "", "boot": "other"}).model_dump_json()
    (deployment / "servers" / "x-1.json").write_text(text)
    assert command("promote", deployment, versions[1], "--keep", 0) == 3
    assert "no bundle was removed: the server of process 1 on x" in capsys.readouterr().out
    assert bundle_path(deployment, versions[0]).is_dir()
    assert not bundle_path(deployment, versions[2]).exists()


def test_commands_import_no_pytorch(deployment: Path, versions: list[str]) -> None:
    hide = "import sys; sys.modules.update(torch=None, transformers=None, pandas=None); "
    start = "from textloop.__main__ import main; sys.exit(main(sys.argv[1:]))"

    done = run("-c", hide + start, "promote", deployment, versions[0])

    assert done.returncode == 0, done.stderr


def test_stopped_while_waiting_says_what_is_in_effect(
    deployment: Path, versions: list[str], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("serve.release.waiting.wait_for", stop)

    assert command("promote", deployment, versions[0]) == 130
    assert "stopped; the pointer is at generation 1" in capsys.readouterr().err
    shutil.rmtree(deployment)
