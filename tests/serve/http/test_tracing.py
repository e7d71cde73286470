"""OpenTelemetry spans of requests.

Real servers and real sockets. What is only in a log or in metrics is waited for: it is written
when the last byte of the response is sent.
"""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from guarded import PARENT, TEXTS, TRACE, TRACEPARENT, Bundles, bearer, http, scrape
from processes import Server, free_port, run, running


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


def test_a_server_that_traces_counts_its_requests(called_by_pages: tuple[Server, str]) -> None:
    server, key = called_by_pages

    http().post(f"{server.url}/predict", json={"inputs": TEXTS[:3]}, headers=bearer(key))

    assert scrape(server)["textloop_texts_total", frozenset({("arm", "champion")})] >= 3


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
    assert "pip install 'textloop[otel]'" in result.stderr
