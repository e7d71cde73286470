"""How long a client may take, and how many there may be.

A real uvicorn on a real socket, around an application that answers with what it was sent.
"""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack

import pytest
from processes import wait_for
from standin import Client, StandIn, listening

from serve.http.connection import registry, timed
from serve.settings import ServeConfig

HEAD = b"POST /x HTTP/1.1\r\nhost: x\r\n"
PLAIN = HEAD + b"content-length: 3\r\n\r\nabc"
FAST = {"head_timeout_s": 0.2, "body_timeout_s": 0.2, "idle_timeout_s": 0.2, "send_timeout_s": 0.2}


@pytest.mark.parametrize(
    ("sent", "status", "reason"),
    [
        (b"", b"", "idle"),
        (b"\r\n", b"", "idle"),
        (b"P", b"408", "head_time"),
        (HEAD + b"a: ", b"408", "head_time"),
        (HEAD + b"content-length: 9\r\n\r\n", b"408", "body_time"),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", b"408", "body_time"),
    ],
    ids=["nothing", "line", "byte", "head", "body", "chunk"],
)
def test_a_client_that_stops_sending_is_given_up(sent: bytes, status: bytes, reason: str) -> None:
    with listening(**FAST) as server, server.connect() as client:
        client.sendall(sent)

        answer = client.until_closed()
        assert answer.split(b" ")[1:2] == ([status] if status else [])
        assert server.closed(reason) == 1
        wait_for(lambda: not server.connections.open)


@pytest.mark.parametrize(
    ("begin", "drop"),
    [
        (HEAD + b"a: ", b"a"),
        (HEAD + b"content-length: 999\r\n\r\n", b"a"),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
    ],
    ids=["head", "body", "chunks"],
)
def test_dripping_does_not_extend_the_time(begin: bytes, drop: bytes) -> None:
    with listening(**FAST) as server, server.connect() as client:
        client.sendall(begin)
        started = time.monotonic()
        while not server.closed("head_time") + server.closed("body_time"):
            client.sendall(drop)
            time.sleep(0.01)
            assert time.monotonic() - started < 2

        assert client.until_closed().startswith(b"HTTP/1.1 408 ")


def test_a_connection_may_be_idle_for_as_long_as_stated() -> None:
    with listening(**FAST | {"idle_timeout_s": 0.6}) as server, server.connect() as client:
        client.sendall(PLAIN)
        client.answer()
        time.sleep(0.4)
        client.sendall(PLAIN)
        client.answer()
        started = time.monotonic()

        assert client.until_closed() == b""
        assert 0.4 < time.monotonic() - started < 1.2


@pytest.mark.parametrize("path", [b"/slow", b"/block"])
def test_time_that_the_server_takes_is_not_the_clients(path: bytes) -> None:
    with listening(**FAST) as server, server.connect() as client, server.connect() as other:
        other.sendall(HEAD + b"a: ")
        client.sendall(PLAIN.replace(b"/x", path))
        time.sleep(0.1)
        other.sendall(b"a\r\n\r\n" if path == b"/block" else b"")

        assert client.answer()[0] == 200
        if path == b"/block":  # nobody read the rest of its head in the meantime
            assert other.answer()[0] == 200


def test_a_client_that_does_not_read_its_response_is_closed() -> None:
    with listening(**FAST) as server, server.connect(receive_bytes=4096) as client:
        client.sendall(PLAIN.replace(b"/x", b"/large"))

        wait_for(lambda: server.closed("send_time") == 1)
        wait_for(lambda: not server.connections.open)


def test_a_client_that_reads_slowly_gets_its_response() -> None:
    with listening(**FAST | {"send_timeout_s": 5.0}) as server, server.connect() as client:
        client.sendall(PLAIN.replace(b"/x", b"/large"))
        time.sleep(0.5)

        assert client.answer()[0] == 200


def ask(server: StandIn) -> tuple[Client, int]:
    client = server.connect()
    client.sendall(PLAIN)
    return client, client.answer()[0]


def test_more_connections_than_may_be_are_503_if_all_are_in_use() -> None:
    with listening(most=5) as server, ExitStack() as stack:
        for _ in range(5):
            client, status = ask(server)
            stack.enter_context(client)
            assert status == 200
        surplus, status = ask(server)

        assert status == 503
        assert surplus.until_closed() == b""
        surplus.close()


def test_a_flood_is_reset_without_an_answer_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timed, "EVICT_AFTER_S", 60.0)
    with listening(most=4) as server, ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(30)]

        wait_for(lambda: server.closed("connections") == 30 - 4 - 4)
        assert len(server.connections.open) == 8
        for client in clients:
            client.close()
        wait_for(lambda: not server.connections.open)
        client, status = ask(server)
        stack.enter_context(client)
        assert status == 200


@pytest.mark.parametrize("sent", [b"", HEAD], ids=["silent", "half a head"])
def test_connections_that_wait_for_their_client_make_room(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timed, "EVICT_AFTER_S", 0.2)
    with listening(most=6) as server, ExitStack() as stack:
        idle = stack.enter_context(ask(server)[0])
        for _ in range(5):
            stack.enter_context(server.connect()).sendall(sent)
        time.sleep(0.5)
        for _ in range(3):
            client, status = ask(server)
            stack.enter_context(client)
            assert status == 200

        assert server.closed("evicted") == 3
        idle.sendall(PLAIN)  # it had sent a request, so the others went first
        assert idle.answer()[0] == 200


def test_connections_follow_from_the_limit_of_open_files(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert registry.max_connections(ServeConfig(), 65_536) == 8192
    assert registry.max_connections(ServeConfig(max_connections=500), 1024) == 500
    with caplog.at_level(logging.WARNING):
        assert registry.max_connections(ServeConfig(), 64) == 20
    assert "at most 20 connections per HTTP process: the limit of open files is 64" in caplog.text
    with pytest.raises(ValueError, match="no room for connections"):
        registry.max_connections(ServeConfig(), 45)
    with pytest.raises(ValueError, match="max_connections = 2000 needs more than"):
        registry.max_connections(ServeConfig(max_connections=2000), 1024)
