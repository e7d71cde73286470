"""What operators rely on: keys, CORS, headers, the access log, metrics and traces.

Real servers and real sockets. Whatever is only in a server's log or metrics is waited for:
it is written when the answer's last byte is sent, by which time the client has it.
"""

from __future__ import annotations

import gzip
import json
import os
import select
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from processes import Server, children_of, free_port, run, running, wait_for, workers_of
from prometheus_client.parser import text_string_to_metric_families
from rows import make_rows

from serve.http.keys import ApiKeys, new_key

Bundles = Callable[[str], Path]

TEXTS = [row["text"] for row in make_rows(60, seed=31)]

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
"""The example of the W3C's recommendation on trace context."""

PAGE = "https://a.example"


@cache
def http() -> httpx.Client:
    """A client that connects anew for every request."""
    return httpx.Client(limits=httpx.Limits(max_keepalive_connections=0), timeout=60)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def put(file: Path, content: str) -> None:
    """Replace a file in one step, as `mv` does and Kubernetes with a mounted secret."""
    new = file.with_suffix(".new")
    new.write_text(content)
    new.rename(file)


@dataclass
class Guarded:
    """A server that asks for keys, and the keys that it takes."""

    server: Server
    file: Path
    lines: str
    alice: str
    """Made by the command line; those of the others by `new_key`."""
    bob: str
    carol: str

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request, by default with Alice's key."""
        options["headers"] = bearer(self.alice) | options.get("headers", {})
        return http().request(method, f"{self.server.url}{path}", **options)

    def predict(self, inputs: Any, **headers: Any) -> httpx.Response:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.ask("POST", "/predict", json={"inputs": inputs}, headers=names)

    def log_lines(self) -> list[dict[str, Any]]:
        """The access log; a line that is not whole fails the test."""
        lines = self.server.log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith('{"time"')]

    def logged(self, response: httpx.Response) -> dict[str, Any]:
        """The one line of the access log for a request."""
        id_ = response.headers["x-request-id"]
        (line,) = wait_for(lambda: [each for each in self.log_lines() if each["request_id"] == id_])
        return line


@pytest.fixture(scope="module")
def guarded(bundles: Bundles, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A server with keys, access log, and two processes of either kind."""
    made = run("-m", "serve", "key", "--name", "alice").stdout.splitlines()
    bob, carol = new_key("bob"), new_key("carol@example.org")
    file = tmp_path_factory.mktemp("keys") / "keys.txt"
    lines = f"# who may call\n\n{made[2]}\n{bob[1]}  # the nightly job\n{carol[1]}\n"
    file.write_text(lines)
    overrides = f"api_keys_file={file} access_log=true api_processes=2 workers_per_device=2"
    with running(bundles("single"), *overrides.split()) as server:
        yield Guarded(server, file, lines, alice=made[0], bob=bob[0], carol=carol[0])


# Keys


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


# CORS


@pytest.fixture(scope="module")
def called_by_pages(
    bundles: Bundles, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, str]]:
    """A server that pages of one origin may call with a key, whose collector never answers."""
    key, line = new_key("page")
    file = tmp_path_factory.mktemp("keys") / "keys.txt"
    file.write_text(line)
    with socket.socket() as collector:
        collector.bind(("127.0.0.1", 0))
        collector.listen()
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.getsockname()[1]}",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }
        overrides = (f'cors_origins=["{PAGE}"]', f"api_keys_file={file}", "tracing=true")
        with running(bundles("single"), *overrides, **environment) as server:
            yield server, key


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


# Headers of every answer

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


# Access log


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
        long = list(pool.map(lambda _: guarded.ask("GET", "/" + "%F0%9F%98%80" * 3000), range(4)))
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


# Metrics

Sample = tuple[str, frozenset[tuple[str, str]]]


def scrape(server: Server) -> dict[Sample, float]:
    """Values by name and labels, once nothing but the scrapes themselves is counted any more."""

    def once() -> dict[Sample, float]:
        families = text_string_to_metric_families(http().get(f"{server.url}/metrics").text)
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
            if sample.labels.get("route") != "/metrics"
        }

    values = once()
    while (again := once()) != values:
        values = again
    return values


def gained(
    before: dict[Sample, float], after: dict[Sample, float], name: str, **labels: str
) -> float:
    """By how much a metric has grown, over all samples with these labels."""
    keys = [key for key in after if key[0] == name and labels.items() <= key[1]]
    return sum(after[key] - before.get(key, 0) for key in keys)


@contextmanager
def only(server: Server, pid: int) -> Iterator[None]:
    """Inside, of the HTTP processes only that one takes connections."""
    others = [each for each in http_processes(server) if each != pid]
    for each in others:
        os.kill(each, signal.SIGSTOP)
    try:
        yield
    finally:
        for each in others:
            os.kill(each, signal.SIGCONT)


def http_processes(server: Server) -> list[int]:
    group = server.process.pid
    rest = set(children_of(group)) - set(workers_of(group)) - {group}
    return sorted(
        pid for pid in rest if b"serve" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    )


def test_metrics_are_exact_whichever_process_answers(guarded: Guarded) -> None:
    server = guarded.server
    before = scrape(server)
    first, second = http_processes(server)
    answers = []
    for pid in (first, second):
        with only(server, pid), ThreadPoolExecutor(8) as pool:
            answers += pool.map(guarded.predict, (TEXTS[n : n + 4] for n in range(50)))
            for _ in range(3):
                guarded.predict("x", authorization="Bearer no")
            for _ in range(4):
                guarded.predict("")
            guarded.ask("GET", "/nothing")
            scrape(server)  # answered by this process, after it has counted the rest
    labels = Counter(each[0]["label"] for answer in answers for each in answer.json())
    texts = labels.total()
    tokens = sum(int(answer.headers["x-compute-tokens"]) for answer in answers)
    assert (len(answers), texts) == (100, 400)

    for pid in (first, second, first):
        with only(server, pid):
            grown = partial(gained, before, scrape(server))
        seconds = "textloop_request_duration_seconds_count"
        assert grown(seconds, route="/predict", status="200") == 100
        assert grown(seconds, route="/predict", status="401") == 6
        assert grown(seconds, route="/predict", status="422") == 8
        assert grown(seconds, route="other", status="404") == 2
        assert grown(seconds) == 116
        assert grown("textloop_request_errors_total", reason="unauthorized") == 6
        assert grown("textloop_request_errors_total", reason="invalid") == 8
        assert grown("textloop_request_errors_total") == 14
        assert grown("textloop_texts_total") == texts
        assert {each: grown("textloop_labels_total", label=each) for each in labels} == labels
        assert grown("textloop_labels_total") == texts
        assert grown("textloop_tokenize_duration_seconds_count") == 100
        # No health check was asked for, whose test inference would be in these.
        assert grown("textloop_batch_texts_sum") == texts
        assert grown("textloop_queue_duration_seconds_count") == texts
        assert grown("textloop_tokens_total") == tokens
        padding = grown("textloop_padding_tokens_total")
        assert grown("textloop_batch_tokens_sum") == tokens + padding
        passes = grown("textloop_batch_texts_count")
        assert 0 < passes <= texts
        assert grown("textloop_batch_tokens_count") == passes
        assert grown("textloop_forward_duration_seconds_count", device="cpu") == passes
        assert grown("textloop_forward_duration_seconds_bucket", le="+Inf") == passes
        assert grown("textloop_failed_texts_total") == 0


def test_gauges_tell_the_state_of_now(guarded: Guarded) -> None:
    version = http().get(f"{guarded.server.url}/health/live").headers["x-model-version"]
    values = scrape(guarded.server)
    about = {"model": "textloop", "version": version, "backend": "onnx"}

    assert values["textloop_model_processes_ready", frozenset()] == 2
    assert values["textloop_inflight_tokens", frozenset()] == 0
    assert values["textloop_model_info", frozenset(about.items())] == 1


def test_exposition_is_what_prometheus_reads(guarded: Guarded) -> None:
    response = http().get(f"{guarded.server.url}/metrics")
    families = list(text_string_to_metric_families(response.text))

    assert response.headers["content-type"].startswith("text/plain; version=")
    assert {family.type for family in families} == {"counter", "gauge", "histogram"}
    assert all(family.name.startswith("textloop_") for family in families)
    assert all(family.documentation for family in families)
    assert len({family.name for family in families}) == len(families)
    names = {name for family in families for sample in family.samples for name in sample.labels}
    assert names == {"backend", "device", "label", "le", "model", "reason", "route", "status"} | {
        "version"
    }


# Traces


@dataclass
class Traced:
    """What a server that traces answered, logged and sent until it had ended."""

    answers: dict[str, httpx.Response]
    log: list[dict[str, Any]]
    spans: list[Any]
    resource: dict[str, str]
    exit_code: int

    def span_of(self, name: str) -> Any:
        """The server span of a request."""
        id_ = self.answers[name].headers["x-request-id"]
        (span,) = (
            span for span in self.spans if attributes(span).get("textloop.request_id") == id_
        )
        return span

    def children_of(self, span: Any) -> dict[str, Any]:
        return {each.name: each for each in self.spans if each.parent_span_id == span.span_id}


def attributes(of: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in of.attributes}


@contextmanager
def collecting(received: list[Any]) -> Iterator[str]:
    """An OpenTelemetry collector, as far as OTLP over HTTP goes; its address."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers["content-encoding"] == "gzip":
                body = gzip.decompress(body)
            assert self.path == "/v1/traces"
            received.extend(ExportTraceServiceRequest.FromString(body).resource_spans)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{collector.server_port}"
        collector.shutdown()


@pytest.fixture(scope="module")
def traced(bundles: Bundles) -> Traced:
    """A server that traces, whose spans wait for a minute unless it ends before."""
    received: list[Any] = []
    with collecting(received) as address:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": address,
            "OTEL_RESOURCE_ATTRIBUTES": "service.name=support,deployment.environment.name=test",
            "OTEL_BSP_SCHEDULE_DELAY": "60000",
        }
        overrides = ("tracing=true", "access_log=true", "model_name=topics")
        with running(bundles("single"), *overrides, **environment) as server:
            parent = {"traceparent": TRACEPARENT}
            unsampled = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
            url = f"{server.url}/predict"
            answers = {
                "child": http().post(url, json={"inputs": TEXTS[:3]}, headers=parent),
                "root": http().post(url, json={"inputs": "my parcel"}),
                "invalid": http().post(url, json={"inputs": ""}, headers=parent),
                "unknown": http().get(f"{server.url}/some/thing/7"),
                "unsampled": http().post(url, json={"inputs": "my parcel"}, headers=unsampled),
            }
            exit_code = server.stop()
            lines = server.log.read_text().splitlines()
    return Traced(
        answers=answers,
        log=[json.loads(line) for line in lines if line.startswith("{")],
        spans=[span for each in received for scope in each.scope_spans for span in scope.spans],
        resource=attributes(received[0].resource),
        exit_code=exit_code,
    )


def test_a_request_is_a_server_span_under_its_caller(traced: Traced) -> None:
    span = traced.span_of("child")

    assert traced.answers["child"].status_code == 200
    assert span.trace_id.hex() == TRACE
    assert span.parent_span_id.hex() == PARENT
    assert span.name == "POST /predict"
    assert span.kind == span.SPAN_KIND_SERVER
    assert attributes(span) == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/predict",
        "url.path": "/predict",
        "textloop.request_id": traced.answers["child"].headers["x-request-id"],
        "textloop.texts": 3,
        "textloop.tokens": int(traced.answers["child"].headers["x-compute-tokens"]),
    }


def test_time_in_queue_and_model_are_spans_of_their_own(traced: Traced) -> None:
    span = traced.span_of("child")
    children = traced.children_of(span)

    assert set(children) == {"queue", "model"}
    queue, model = children["queue"], children["model"]
    assert queue.trace_id == model.trace_id == span.trace_id
    assert span.start_time_unix_nano <= queue.start_time_unix_nano
    assert queue.start_time_unix_nano <= queue.end_time_unix_nano == model.start_time_unix_nano
    assert model.start_time_unix_nano < model.end_time_unix_nano <= span.end_time_unix_nano


def test_a_request_without_a_caller_begins_a_trace_that_the_log_names(traced: Traced) -> None:
    span = traced.span_of("root")
    id_ = traced.answers["root"].headers["x-request-id"]
    (line,) = (line for line in traced.log if line["request_id"] == id_)

    assert span.parent_span_id == b""
    assert line["trace_id"] == span.trace_id.hex()


def test_refused_requests_have_spans_without_children(traced: Traced) -> None:
    invalid, unknown = traced.span_of("invalid"), traced.span_of("unknown")

    assert attributes(invalid)["http.response.status_code"] == 422
    assert attributes(unknown)["http.response.status_code"] == 404
    # The name groups spans, so it must not have what clients make up in it.
    assert (unknown.name, attributes(unknown)["url.path"]) == ("GET other", "/some/thing/7")
    assert traced.children_of(invalid) == traced.children_of(unknown) == {}
    # By the conventions for HTTP a 4xx is the client's error, not the server's.
    assert {invalid.status.code, unknown.status.code} == {0}


def test_a_caller_that_does_not_sample_is_heeded(traced: Traced) -> None:
    id_ = traced.answers["unsampled"].headers["x-request-id"]

    assert traced.answers["unsampled"].status_code == 200
    assert id_ not in {attributes(span).get("textloop.request_id") for span in traced.spans}


def test_the_last_spans_are_sent_when_the_server_ends(traced: Traced) -> None:
    assert traced.exit_code == 0
    assert len(traced.spans) >= 6  # four requests, and two children for each that was classified


def test_standard_variables_name_the_service(traced: Traced) -> None:
    assert traced.resource["service.name"] == "support"
    assert traced.resource["deployment.environment.name"] == "test"
    assert traced.resource["textloop.model"] == "topics"


def test_a_collector_that_does_not_answer_holds_up_neither_answers_nor_the_end(
    called_by_pages: tuple[Server, str],
) -> None:
    """The last test of this server."""
    server, key = called_by_pages
    headers = bearer(key)

    started_s = time.monotonic()
    for _ in range(20):
        answer = http().post(f"{server.url}/predict", json={"inputs": "x"}, headers=headers)
        assert answer.status_code == 200
    assert time.monotonic() - started_s < 5
    started_s = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - started_s < 8


@pytest.mark.parametrize("missing", ["sdk", "exporter"])
def test_tracing_without_the_extra_is_refused_with_the_remedy(
    bundles: Bundles, tmp_path: Path, missing: str
) -> None:
    """A package of this name comes before the namespace; it shows all but the missing part."""
    import opentelemetry

    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").touch()
    for part in (part for path in opentelemetry.__path__ for part in Path(path).iterdir()):
        if part.name not in (missing, "__init__.py", "__pycache__"):
            (tmp_path / "opentelemetry" / part.name).symlink_to(part)
    command = ("-m", "serve", "run", "--bundle", bundles("single"), "--port", free_port())

    result = run(*command, "tracing=true", PYTHONPATH=str(tmp_path))

    assert result.returncode == 2
    assert result.stderr.startswith(f"error: tracing is on, but `opentelemetry.{missing}")
    assert "install `textloop[otel]`" in result.stderr
