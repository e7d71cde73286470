"""Addresses and ports that a server listens on, and what it says of them."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from processes import Server, free_port, run, running

from serve.settings import ServeConfig


@pytest.fixture
def low_port() -> int:
    """A free port under 1024."""
    for port in range(1023, 600, -1):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except PermissionError:
                pytest.skip("ports under 1024 need privileges here")
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


def test_all_addresses_of_both_kinds_are_served(serve: Callable[..., Server]) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    server = serve("single", "host=::")

    for host in ("127.0.0.1", "[::1]"):
        response = httpx.get(f"http://{host}:{server.port}/health/ready")
        assert response.status_code == 200


def test_vertex_may_ask_for_a_port_under_1024(
    bundles: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, low_port: int
) -> None:
    monkeypatch.setattr("processes.free_port", lambda: low_port)

    with running(bundles("single"), "host=localhost", AIP_HTTP_PORT="9") as server:
        assert server.port == low_port
        assert server.post({"inputs": "my parcel"}).status_code == 200


@pytest.mark.parametrize(
    ("overrides", "url"),
    [
        ({}, "http://127.0.0.1:8000"),
        ({"host": "0.0.0.0"}, "http://127.0.0.1:8000"),
        ({"host": "::"}, "http://[::1]:8000"),
        ({"host": "fe80::1", "port": 80}, "http://[fe80::1]:80"),
        ({"host": "pod.local", "root_path": "/models/bank"}, "http://pod.local:8000/models/bank"),
    ],
)
def test_address_that_is_shown_is_one_for_a_browser(overrides: dict[str, str], url: str) -> None:
    assert ServeConfig.model_validate(overrides).url == url


def test_name_that_has_no_address_is_named(bundles: Callable[[str], Path]) -> None:
    command = ("-m", "serve", "run", "--bundle", bundles("single"), "--port", free_port())

    result = run(*command, "host=no-such-host.invalid")

    assert result.returncode == 2
    assert "cannot bind no-such-host.invalid:" in result.stderr
