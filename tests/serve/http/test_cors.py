"""Pages may call the server only from configured origins.

Real servers and real sockets. What is only in a log or in metrics is waited for: it is written
when the last byte of the response is sent.
"""

from __future__ import annotations

import httpx
import pytest
from guarded import PAGE, Guarded, bearer, http
from processes import Server


def preflight(url: str, origin: str) -> httpx.Response:
    headers = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-request-id",
    }
    return http().options(f"{url}/predict", headers=headers)


def cors_headers(response: httpx.Response) -> set[str]:
    return {name for name in response.headers if name.startswith("access-control-")}


def test_no_page_may_call_a_server_that_names_no_origins(guarded: Guarded) -> None:
    asked = preflight(guarded.server.url, PAGE)
    called = guarded.predict("my parcel", origin=PAGE)

    assert asked.is_client_error
    assert called.status_code == 200
    assert cors_headers(asked) | cors_headers(called) == set()


def test_pages_of_a_named_origin_may_call(called_by_pages: tuple[Server, str]) -> None:
    server, key = called_by_pages
    headers = {"origin": PAGE, **bearer(key)}

    asked = preflight(server.url, PAGE)  # without a key: browsers send none here
    called = http().post(f"{server.url}/predict", json={"inputs": "x"}, headers=headers)
    refused = http().post(f"{server.url}/predict", json={"inputs": "x"}, headers={"origin": PAGE})

    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == PAGE
    assert "POST" in asked.headers["access-control-allow-methods"]
    assert "authorization" in asked.headers["access-control-allow-headers"].lower()
    assert (called.status_code, refused.status_code) == (200, 401)
    for response in (called, refused):  # a page may read an error as well
        assert response.headers["access-control-allow-origin"] == PAGE
        assert "x-request-id" in response.headers["access-control-expose-headers"]


@pytest.mark.parametrize(
    "origin", ["https://b.example", "http://a.example", f"{PAGE}.evil", "null"]
)
def test_pages_of_other_origins_may_not(called_by_pages: tuple[Server, str], origin: str) -> None:
    server, key = called_by_pages
    headers = {"origin": origin, **bearer(key)}

    asked = preflight(server.url, origin)
    called = http().post(f"{server.url}/predict", json={"inputs": "x"}, headers=headers)

    assert asked.status_code == 400
    assert "access-control-allow-origin" not in asked.headers
    assert "access-control-allow-origin" not in called.headers
