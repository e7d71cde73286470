"""Paths: behind a proxy's prefix, with a slash at the end, never a redirect."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest
from answers import INFER, TEXTS, StartServer, assert_same, native
from processes import free_port, run

PREFIX = "/models/bank"


@pytest.mark.parametrize("path", ["/predict/", "/predict"])
def test_slash_at_the_end_changes_nothing(serve: StartServer, path: str) -> None:
    server = serve("single")

    response = httpx.post(f"{server.url}{path}", json={"inputs": TEXTS})

    assert_same(response.json(), native(server, TEXTS))


@pytest.mark.parametrize(
    "path",
    [
        "/info/",
        "/v2/",
        "/health/ready/",
        "/v2/models/textloop/",
        "/info//",
        "/nothing/",
        "/docs/",
        "//",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_nobody_is_sent_to_another_host(serve: StartServer, method: str, path: str) -> None:
    url = f"{serve('single').url}{path}"

    response = httpx.request(method, url, headers={"host": "evil.example"})

    assert response.status_code in (200, 401, 404, 405, 400)
    assert "location" not in response.headers


@pytest.mark.parametrize("sent", ["", PREFIX])
def test_routes_answer_with_and_without_the_prefix(serve: StartServer, sent: str) -> None:
    server = serve("single", f"root_path={PREFIX}")
    body = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": TEXTS[:1]}]}

    answer = httpx.post(f"{server.url}{sent}/predict/", json={"inputs": TEXTS}).json()
    infer = httpx.post(f"{server.url}{sent}{INFER}", json=body)

    assert_same(answer, native(server, TEXTS))
    assert infer.status_code == 200
    assert httpx.get(f"{server.url}{sent}/health/ready").status_code == 200
    assert httpx.get(f"{server.url}{sent}/").json() == {"status": "alive"}
    assert httpx.get(f"{server.url}{PREFIX}er/info").status_code == 404


@pytest.mark.parametrize("sent", ["", PREFIX])
def test_documentation_finds_its_document_behind_the_prefix(serve: StartServer, sent: str) -> None:
    server = serve("single", f"root_path={PREFIX}")
    outside = f"https://example.org{PREFIX}/docs"

    page = httpx.get(f"{server.url}{sent}/docs").text
    document = httpx.get(f"{server.url}{sent}/openapi.json").json()

    found = re.search(r"url: '([^']+)'", page)
    assert found is not None
    assert urljoin(outside, found[1]) == f"https://example.org{PREFIX}/openapi.json"
    assert document["servers"] == [{"url": PREFIX}]


@pytest.mark.parametrize("prefix", ["/v2", "/predict", "/v1/models", "models", "/models/", "/a b"])
def test_prefix_that_cannot_be_told_from_a_route_is_refused(
    bundles: Callable[[str], Path], prefix: str
) -> None:
    command = ("-m", "serve", "run", "--bundle", bundles("single"), "--port", free_port())

    result = run(*command, f"root_path={prefix}")

    assert result.returncode == 2
    assert f"`root_path` = '{prefix}'" in result.stderr
