"""API keys: checked, rotated while the server runs, gone when their file is.

Real servers and real sockets. What is only in a log or in metrics is waited for: it is written
when the last byte of the response is sent.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from guarded import Bundles, Guarded, bearer, http, http_processes, put
from processes import Server, free_port, run, wait_for

from serve.http.keys import GAP_S, ApiKeys, new_key


def test_key_from_the_command_line_opens_the_server(guarded: Guarded) -> None:
    assert guarded.predict("my parcel").status_code == 200
    assert guarded.predict("my parcel", authorization=f"bearer  {guarded.alice}").is_success
    assert guarded.ask("GET", "/info").status_code == 200
    assert guarded.alice not in guarded.lines


@pytest.mark.parametrize("presented", [None, "", "Bearer", "Bearer wrong", "Basic KEY", "KEY"])
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/predict"), ("POST", "/"), ("GET", "/info"), ("GET", "/no")]
)
def test_without_a_right_key_the_answer_is_401(
    guarded: Guarded, method: str, path: str, presented: str | None
) -> None:
    headers = {} if presented is None else {"authorization": presented.replace("KEY", guarded.bob)}

    response = http().request(method, f"{guarded.server.url}{path}", headers=headers)

    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json() == {
        "error": "missing or invalid API key; send `Authorization: Bearer KEY`",
        "error_type": "Unauthorized",
    }


def test_a_client_that_sends_a_large_body_first_still_gets_its_401(guarded: Guarded) -> None:
    body = b'{"inputs": "' + b"x" * 1_900_000 + b'"}'

    assert http().post(f"{guarded.server.url}/predict", content=body).status_code == 401


@pytest.mark.parametrize(
    "path",
    "/ /health /health/live /health/ready /metrics /docs /openapi.json /ping "
    "/v2 /v2/health/live /v2/health/ready".split(),
)
def test_probes_metrics_and_documentation_ask_for_no_key(guarded: Guarded, path: str) -> None:
    assert http().get(f"{guarded.server.url}{path}").status_code == 200


def test_keys_are_rotated_while_the_server_runs(guarded: Guarded) -> None:
    key, line = new_key("alice")

    def statuses(key: str) -> set[int]:
        return {guarded.predict("x", **bearer(key)).status_code for _ in range(10)}

    try:
        put(guarded.file, f"{line}\n")
        wait_for(lambda: statuses(key) == {200}, seconds=5)
        wait_for(lambda: statuses(guarded.alice) == {401}, seconds=5)
        assert statuses(key) == {200}
    finally:
        put(guarded.file, guarded.lines)
        wait_for(lambda: statuses(guarded.alice) == {200}, seconds=5)
    assert statuses(key) == {401}
    assert "API keys from" in guarded.server.log.read_text()


def replace(file: Path, by: str | None) -> None:
    """Put something else in the place of the file of keys; None for a FIFO, "" for nothing."""
    if by is None:
        new = file.with_suffix(".new")
        os.mkfifo(new)
        new.rename(file)
    elif by:
        put(file, by)
    else:
        file.unlink()


@pytest.mark.parametrize(
    ("by", "message"),
    [
        (" \n", "has no key, so nobody gets in"),
        ("# sha256:... alice\n# all of them\n", "has no key, so nobody gets in"),
        ("nonsense\n", "ignored invalid lines (1); expected `sha256:HEX NAME`"),
        ("", "(No such file or directory); nobody gets in until it is readable"),
        (None, "not a regular file; nobody gets in until it is readable"),
    ],
    ids=["empty", "comments", "invalid", "missing", "fifo"],
)
def test_a_file_without_a_key_that_can_be_read_lets_nobody_in(
    guarded: Guarded, by: str | None, message: str
) -> None:
    before = len(guarded.server.log.read_text())
    replace(guarded.file, by)
    try:
        for key in (guarded.alice, guarded.bob):
            wait_for(
                lambda key=key: all(
                    guarded.predict("x", **bearer(key)).status_code == 401 for _ in range(10)
                ),
                seconds=5,
            )
        assert http().get(f"{guarded.server.url}/health/live").status_code == 200
        assert message in guarded.server.log.read_text()[before:]
    finally:
        put(guarded.file, guarded.lines)
    wait_for(lambda: all(guarded.predict("x").is_success for _ in range(10)), seconds=5)


def test_a_removed_key_ends_though_another_line_is_invalid(tmp_path: Path) -> None:
    (alice, alices), (bob, bobs) = new_key("alice"), new_key("bob")
    file = tmp_path / "keys.txt"
    file.write_text(f"{alices}\n{bobs}\n")
    keys = ApiKeys(file)
    put(file, f"\ufeff{bobs}\nsha256:cut-off carol\n\xff\n")

    assert keys.check()

    assert (keys.name_of(alice), keys.name_of(bob)) == (None, "bob")
    assert keys.invalid == [2, 3]
    assert not keys.check()


def test_a_file_that_is_gone_for_a_moment_keeps_its_keys(tmp_path: Path) -> None:
    key, line = new_key("alice")
    file = tmp_path / "keys.txt"
    file.write_text(line)
    keys = ApiKeys(file)
    file.unlink()
    again = threading.Timer(GAP_S / 2, file.write_text, [f"{line}\n"])

    again.start()
    keys.check()
    again.join()

    assert keys.name_of(key) == "alice"


def test_a_lookup_takes_as_long_among_a_hundred_thousand_keys(tmp_path: Path) -> None:
    key, line = new_key("last")
    file = tmp_path / "keys.txt"
    file.write_text("".join(f"sha256:{n:064x} key{n}\n" for n in range(100_000)) + line)
    keys = ApiKeys(file)

    started = time.process_time()
    assert all(keys.name_of(key) == "last" for _ in range(1000))

    assert time.process_time() - started < 0.2  # 20 s by comparing with each


def test_a_server_starts_with_a_file_that_is_empty(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    file.write_text("# none yet\n")

    assert ApiKeys(file).name_of("") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no API keys at `{file}` (No such file or directory)"),
        ("tl-secret alice\n", "`{file}`, line 1: expected `sha256:HEX NAME`; make one with"),
    ],
)
def test_server_does_not_start_without_keys_it_can_read(
    bundles: Bundles, tmp_path: Path, content: str | None, message: str
) -> None:
    file = tmp_path / "keys.txt"
    if content is not None:
        file.write_text(content)
    command = ("-m", "serve", "run", "--bundle", bundles("single"), "--port", free_port())

    result = run(*command, f"api_keys_file={file}")

    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {message.format(file=file)}")
    assert "secret" not in result.stderr


def test_a_websocket_gets_in_neither_with_a_key_nor_without(
    called_by_pages: tuple[Server, str],
) -> None:
    """There is none to be had, so nothing of it may reach keys, metrics or traces."""
    server, key = called_by_pages
    handshake = {
        "connection": "upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    (pid,) = http_processes(server)
    before = len(list(Path(f"/proc/{pid}/task").iterdir()))

    answers = [
        http().get(f"{server.url}/predict", headers=handshake | headers)
        for headers in ({}, bearer(key))
        for _ in range(5)
    ]

    assert {answer.status_code for answer in answers} <= {401, 403, 404, 405}
    assert len(list(Path(f"/proc/{pid}/task").iterdir())) <= before + 1


def test_every_line_of_the_file_is_a_key_with_its_name(tmp_path: Path) -> None:
    made = {name: new_key(name) for name in ("first", "middle", "last")}
    file = tmp_path / "keys.txt"
    unnamed, line = new_key("x")
    lines = [line for _, line in made.values()] + [line.partition(" ")[0]]
    file.write_text("\n".join(lines))

    keys = ApiKeys(file)

    assert {name: keys.name_of(key) for name, (key, _) in made.items()} == {
        name: name for name in made
    }
    assert keys.name_of(unnamed) == "line 4"
    for wrong in ("", "x", "é\udcff", made["first"][1], made["first"][0][:-1]):
        assert keys.name_of(wrong) is None
