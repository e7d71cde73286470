"""API keys: checked, rotated while the server runs, kept when their file breaks.

Real servers and real sockets. What is only in a log or in metrics is waited for: it is written
when the last byte of the response is sent.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from guarded import Bundles, Guarded, bearer, http, http_processes, put
from processes import Server, free_port, run, wait_for

from serve.http.keys import ApiKeys, new_key


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


@pytest.mark.parametrize(
    ("content", "message"),
    [("sha256:cut-off", "line 1: expected `sha256:HEX NAME`"), ("", "has no key")],
)
def test_a_file_that_is_broken_leaves_the_keys_as_they_were_and_says_so(
    guarded: Guarded, content: str, message: str
) -> None:
    def complains() -> bool:
        assert guarded.predict("x").status_code == 200
        lines = guarded.server.log.read_text().splitlines()
        return any("could not reload API keys" in line and message in line for line in lines)

    put(guarded.file, content)
    try:
        wait_for(complains, seconds=5)
    finally:
        put(guarded.file, guarded.lines)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no API keys at `{file}` (No such file or directory)"),
        ("# none yet\n", "`{file}` has no key; make one with `python -m serve key"),
        ("tl-secret alice\n", "`{file}`, line 1: expected `sha256:HEX NAME`"),
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
