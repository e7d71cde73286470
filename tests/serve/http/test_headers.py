"""Headers of every response: security, request id, trace context.

Real servers and real sockets. What is only in a log or in metrics is waited for: it is written
when the last byte of the response is sent.
"""

from __future__ import annotations

import socket

import httpx
import pytest
from guarded import Guarded, http

ALWAYS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
POLICY = "default-src 'none'; frame-ancestors 'none'"


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/predict", '{"inputs": "my parcel"}', 200),
        ("GET", "/metrics", "", 200),
        ("GET", "/openapi.json", "", 200),
        ("POST", "/predict", "{", 400),
        ("GET", "/nothing", "", 404),
        ("GET", "/predict", "", 405),
        ("POST", "/predict", "x" * 2_000_001, 413),
        ("POST", "/predict", '{"inputs": ""}', 422),
    ],
)
def test_every_answer_has_the_security_headers(
    guarded: Guarded, method: str, path: str, body: str, status: int
) -> None:
    response = guarded.ask(method, path, content=body)

    assert response.status_code == status
    assert ALWAYS.items() <= response.headers.items()
    assert response.headers["content-security-policy"] == POLICY
    assert "server" not in response.headers
    assert {"x-request-id", "x-model-version"} <= set(response.headers)


def test_a_refusal_has_the_security_headers(guarded: Guarded) -> None:
    response = http().get(f"{guarded.server.url}/info")

    assert response.status_code == 401
    assert ALWAYS.items() <= response.headers.items()
    assert response.headers["content-security-policy"] == POLICY
    assert "server" not in response.headers


def test_documentation_may_load_its_script(guarded: Guarded) -> None:
    response = http().get(f"{guarded.server.url}/docs")

    assert "<script" in response.text
    assert "content-security-policy" not in response.headers
    assert ALWAYS.items() <= response.headers.items()


@pytest.mark.parametrize("id_", ["7", "order-7/a~!", "x" * 128])
def test_request_id_of_the_client_is_kept(guarded: Guarded, id_: str) -> None:
    response = guarded.predict("my parcel", x_request_id=id_)

    assert response.headers.get_list("x-request-id") == [id_]
    assert guarded.logged(response)["request_id"] == id_


@pytest.mark.parametrize("id_", ["", "x" * 129, "a b", "a\tb", b"caf\xc3\xa9", b"caf\xe9"])
def test_request_id_that_could_do_harm_is_replaced(guarded: Guarded, id_: str | bytes) -> None:
    given = guarded.predict("my parcel", x_request_id=id_).headers["x-request-id"]

    assert len(given) == 32
    assert set(given) <= set("0123456789abcdef")


def test_control_characters_of_a_request_id_go_nowhere(guarded: Guarded) -> None:
    with socket.create_connection(("127.0.0.1", guarded.server.port)) as connection:
        connection.sendall(
            b"GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
            b"x-request-id: evil\x1b[2J\x00\x7f\r\n\r\n"
        )
        answer = b"".join(iter(lambda: connection.recv(65536), b""))

    assert answer.startswith(b"HTTP/1.1 ")
    assert b"evil" not in answer
    assert "evil" not in guarded.server.log.read_text()


def test_request_ids_are_unique(guarded: Guarded) -> None:
    with httpx.Client(base_url=guarded.server.url) as client:
        ids = {client.get("/health/live").headers["x-request-id"] for _ in range(50)}

    assert len(ids) == 50


@pytest.mark.parametrize("path", ["/info/", "/predict/", "/docs/", "/docs/oauth2-redirect"])
def test_nothing_is_redirected_to_a_host_of_the_clients_choosing(
    guarded: Guarded, path: str
) -> None:
    response = guarded.ask("GET", path, headers={"host": "evil.example"})

    assert not response.is_redirect
    assert "location" not in response.headers


@pytest.mark.parametrize(
    "path", ["/health/live", "/v1/models/textloop", "/v2/models/textloop/ready", "/v2/health/ready"]
)
def test_every_probe_answers_head_without_a_key(guarded: Guarded, path: str) -> None:
    response = http().head(f"{guarded.server.url}{path}")

    assert (response.status_code, response.content) == (200, b"")
