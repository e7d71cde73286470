"""What a client may send: limits of the head, ambiguous heads, offers to upgrade.

A real uvicorn on a real socket, around an application that answers with what it was sent.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from contextlib import suppress

import pytest
from processes import wait_for
from standin import listening

HEAD = b"POST /x HTTP/1.1\r\nhost: x\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
PLAIN = HEAD + b"content-length: 3\r\n\r\nabc"
LAST = HEAD + b"connection: close\r\ncontent-length: 4\r\n\r\nlast"
H2C = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAA\r\n"


def test_equal_requests_on_one_connection_are_no_flood() -> None:
    with listening(max_head_bytes=1024) as server, server.connect() as client:
        for _ in range(100):  # 43 bytes of head each
            client.sendall(PLAIN)
            assert client.answer()[0] == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (HEAD + b"a: " + b"a" * 5000 + b"\r\n\r\n", 431),
        (HEAD + b"a" * 5000 + b": a\r\n\r\n", 431),
        (b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", 431),
        (b"GET /?" + b"a" * 5000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", 431),
        (HEAD + b"a: b\r\n" * 101 + b"\r\n", 431),
        (HEAD + b"".join(b"a%d: %s\r\n" % (n, b"b" * 99) for n in range(50)) + b"\r\n", 431),
        (CHUNKED + b"1\r\na\r\n0\r\na: " + b"a" * 9000 + b"\r\n\r\n", 431),
        (CHUNKED + b"1\r\na\r\n0\r\n" + b"a: b\r\n" * 2000 + b"\r\n", 431),
    ],
    ids=["value", "name", "path", "query", "number", "sum", "trailer", "trailers"],
)
def test_a_head_over_a_limit_is_refused(sent: bytes, status: int) -> None:
    with listening(max_head_bytes=4096) as server, server.connect() as client:
        client.sendall(sent)
        answer = client.until_closed()

        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert b"connection: close\r\n" in answer
        assert b"max_head" in answer
        assert server.closed("head_bytes") + server.closed("headers") == 1


@pytest.mark.parametrize(
    ("begin", "endless"),
    [
        (HEAD + b"a: ", b"a"),
        (HEAD, b"a"),
        (b"GET /", b"a"),
        (b"", b"\r\n"),
        (CHUNKED + b"1\r\na\r\n0\r\na: ", b"a"),
        (CHUNKED + b"1;", b"a"),
    ],
    ids=["value", "name", "path", "lines", "trailer", "extension"],
)
def test_what_never_ends_is_refused_early(begin: bytes, endless: bytes) -> None:
    with listening(max_head_bytes=4096) as server, server.connect() as client:
        client.sendall(begin)
        sent = 0
        with suppress(BrokenPipeError, ConnectionResetError):
            while sent < 200_000_000:
                sent += client.send(endless * (65536 // len(endless)))

        assert sent < 20_000_000  # what the sockets' buffers hold, and what is dropped
        assert server.closed("head_bytes") == 1


def test_a_refused_client_can_read_why_although_it_is_still_sending() -> None:
    with listening() as server, server.connect() as client:
        client.sendall(HEAD + b"a: " + b"a" * 500_000)

        assert client.until_closed().startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    "name",
    "host authorization content-type content-length origin inference-header-content-length".split(),
)
def test_a_header_that_must_be_single_is_refused_twice(name: str) -> None:
    line = f"{name}: 3\r\n".encode()
    head = b"POST /x HTTP/1.1\r\n" + (b"" if name == "host" else b"host: x\r\n")
    with listening() as server, server.connect() as client:
        client.sendall(head + line + b"accept: */*\r\n" + line.upper() + b"\r\nabc")

        assert client.until_closed().startswith(b"HTTP/1.1 400 ")
        assert server.closed("malformed") == 1


def test_a_request_without_host_is_refused_since_http_1_1() -> None:
    with listening() as server:
        with server.connect() as client:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert client.until_closed().startswith(b"HTTP/1.1 400 ")
        with server.connect() as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert client.until_closed().startswith(b"HTTP/1.1 200 ")


def test_a_trailer_does_not_pass_for_a_header() -> None:
    with listening() as server, server.connect() as client:
        client.sendall(CHUNKED + b"3\r\nabc\r\n0\r\nauthorization: Bearer x\r\n\r\n")

        assert client.answer() == (
            200,
            {"bytes": 3, "headers": [["host", "x"], ["transfer-encoding", "chunked"]]},
        )


@pytest.mark.parametrize("step", [1, 7, 10_000], ids="{} bytes at a time".format)
@pytest.mark.parametrize(
    "offer",
    [
        H2C + b"content-length: 3\r\n\r\nabc",
        H2C + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"connection: keep-alive, upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-version: 13\r\ncontent-length: 3\r\n\r\nabc",
        b"Connection: Upgrade\r\nUpgrade: TLS/1.2\r\ncontent-length: 3\r\n\r\nabc",
    ],
    ids=["h2c", "h2c, chunked", "websocket", "tls"],
)
def test_an_offer_to_upgrade_is_ignored_and_the_request_answered(offer: bytes, step: int) -> None:
    with listening() as server, server.connect() as client:
        sent = HEAD + offer + LAST
        for start in range(0, len(sent), step):
            client.sendall(sent[start : start + step])

        status, content = client.answer()
        assert (status, content["bytes"]) == (200, 3)
        assert not {"upgrade", "http2-settings"} & {name for name, _ in content["headers"]}
        assert client.answer()[1]["bytes"] == 4
        assert client.until_closed() == b""


def test_curl_with_http2_is_answered() -> None:
    curl = shutil.which("curl")
    if curl is None or b"HTTP2" not in subprocess.check_output([curl, "--version"]):
        pytest.skip("no curl with HTTP/2 on this machine")
    with listening() as server:
        command = [curl, "-s", "--http2", f"http://127.0.0.1:{server.port}/x", "-d", "abc"]

        assert b'"bytes":3' in subprocess.check_output(command)


def test_requests_before_a_malformed_one_are_answered_first() -> None:
    with listening() as server, server.connect() as client:
        client.sendall(PLAIN.replace(b"/x", b"/slow") + PLAIN + b"nonsense\r\n\r\n")

        assert client.answer()[1]["bytes"] == 3
        assert client.answer()[1]["bytes"] == 3
        status, content = client.answer()
        assert (status, content["error_type"]) == (400, "Validation")
        assert "invalid HTTP request" in content["error"]
        assert client.until_closed() == b""


@pytest.mark.parametrize("before", [b"", PLAIN.replace(b"/x", b"/slow")], ids=["first", "waiting"])
def test_a_body_that_becomes_malformed_ends_its_request(before: bytes) -> None:
    with listening() as server, server.connect() as client:
        client.sendall(before + CHUNKED + b"3\r\nabc\r\n")
        client.sendall(b"zz\r\n")
        if before:
            assert client.answer()[0] == 200

        assert client.until_closed().startswith(b"HTTP/1.1 400 ")
        wait_for(lambda: server.ended == ([] if before else [400]))


def test_a_body_over_the_limit_is_refused_before_it_is_sent() -> None:
    with listening(max_body_bytes=100) as server, server.connect() as client:
        client.sendall(HEAD + b"expect: 100-continue\r\ncontent-length: 101\r\n\r\n")

        answer = client.until_closed()
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"the limit of 100 bytes" in answer


def test_a_body_within_the_limit_is_asked_for() -> None:
    with listening(max_body_bytes=100) as server, server.connect() as client:
        client.sendall(HEAD + b"expect: 100-continue\r\ncontent-length: 100\r\n\r\n")
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"x" * 100)

        assert client.answer()[1]["bytes"] == 100


def test_large_bodies_are_limited_together_and_counted_until_they_are_answered() -> None:
    size = 40_000
    half = HEAD + b"content-length: %d\r\n\r\n" % size + b"x" * (size - 1)

    with (
        listening(max_body_bytes=size, max_pending_body_bytes=100_000) as server,
        server.connect() as first,
        server.connect() as second,
        server.connect() as third,
    ):
        for client in (first, second, third):
            client.sendall(half)
            time.sleep(0.1)
        assert third.until_closed().startswith(b"HTTP/1.1 503 ")
        assert server.ended == [503]
        wait_for(lambda: server.connections.pending_body_bytes == 2 * (size - 1))
        first.sendall(b"x")
        assert first.answer()[0] == 200
        second.close()

        wait_for(lambda: server.connections.pending_body_bytes == 0)
        assert server.closed("pending_body_bytes") == 1


def test_malformed_requests_are_logged_with_client_and_cause_at_a_bounded_rate(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening() as server:
        monkeypatch.setattr("serve.http.connection.registry.LOG_S", 60.0)
        for _ in range(20):
            with server.connect() as client:
                client.sendall(b"nonsense\r\n\r\n")
                client.until_closed()

        assert server.closed("malformed") == 20
        (line,) = [each for each in caplog.messages if "invalid HTTP" in each]
        assert line.startswith("closed the connection of 127.0.0.1:")
