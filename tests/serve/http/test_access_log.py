"""The access log has one line per request.

Real servers and real sockets. What is only in a log or in metrics is waited for: it is written
when the last byte of the response is sent.
"""

from __future__ import annotations

import select
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from guarded import PARENT, TEXTS, TRACE, TRACEPARENT, Guarded, bearer, gained, scrape
from processes import wait_for


def test_access_log_has_one_line_that_tells_all_of_a_request(guarded: Guarded) -> None:
    before = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    response = guarded.predict(
        TEXTS[:3], **bearer(guarded.carol), x_request_id="tell-all", traceparent=TRACEPARENT
    )

    line = guarded.logged(response)

    assert before <= line.pop("time") <= time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    times_ms = {name: line.pop(name) for name in ("queue_ms", "compute_ms")}
    assert times_ms["compute_ms"] > 0
    assert sum(times_ms.values()) <= line.pop("ms") < 60_000
    assert line == {
        "request_id": "tell-all",
        "trace_id": TRACE,
        "client": "127.0.0.1",
        "key": "carol@example.org",
        "method": "POST",
        "path": "/predict",
        "status": 200,
        "texts": 3,
        "tokens": int(response.headers["x-compute-tokens"]),
    }


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "00",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-zz",
    ],
)
def test_invalid_traceparent_is_ignored(guarded: Guarded, traceparent: str) -> None:
    response = guarded.predict("my parcel", traceparent=traceparent)

    assert response.status_code == 200
    assert guarded.logged(response)["trace_id"] is None


def test_access_log_tells_of_refused_requests(guarded: Guarded) -> None:
    answers = [
        guarded.predict("x", authorization="Bearer wrong"),
        guarded.ask("GET", "/nothing?secret=1"),
        guarded.predict("", **bearer(guarded.bob)),
    ]

    lines = [guarded.logged(answer) for answer in answers]

    assert [(line["status"], line["path"], line["key"], line["texts"]) for line in lines] == [
        (401, "/predict", None, 0),
        (404, "/nothing", "alice", 0),
        (422, "/predict", "bob", 0),
    ]


def test_lines_of_two_processes_do_not_mix(guarded: Guarded) -> None:
    """A line that is over PIPE_BUF may be cut by another process's where stdout is a pipe."""
    texts = [text for text in TEXTS for _ in range(5)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(guarded.predict, texts))
        long = list(pool.map(lambda _: guarded.ask("GET", "/" + "%F0%9F%98%80" * 2500), range(4)))
    ids = {answer.headers["x-request-id"] for answer in answers + long}

    assert len(ids) == len(answers) + len(long)
    wait_for(lambda: ids <= {line["request_id"] for line in guarded.log_lines()})
    counts = Counter(line["request_id"] for line in guarded.log_lines())
    assert {counts[id_] for id_ in ids} == {1}
    assert max(map(len, guarded.server.log.read_bytes().splitlines())) < select.PIPE_BUF
    assert guarded.logged(long[0])["path"].startswith("/\N{GRINNING FACE}")


def test_client_that_leaves_in_the_middle_of_its_body_is_no_failure(guarded: Guarded) -> None:
    before = scrape(guarded.server)
    head = f"POST /predict HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {guarded.bob}\r\n"
    with socket.create_connection(("127.0.0.1", guarded.server.port)) as connection:
        connection.sendall(f'{head}x-request-id: left\r\ncontent-length: 99\r\n\r\n{{"in'.encode())

    (line,) = wait_for(
        lambda: [line for line in guarded.log_lines() if line["request_id"] == "left"]
    )

    assert line["status"] == 499
    after = scrape(guarded.server)
    assert gained(before, after, "textloop_request_errors_total", reason="client_gone") == 1
    assert gained(before, after, "textloop_request_errors_total") == 1
    assert "Traceback" not in guarded.server.log.read_text()
