"""OpenTelemetry spans, for servers that ask for them (`tracing: true`, extra `otel`).

One server span per request, child of the caller's by W3C trace context, and under it spans
for the time in the queue and in the model. Where they go is set by the standard variables,
such as OTEL_EXPORTER_OTLP_ENDPOINT; OTEL_TRACES_EXPORTER=console prints them.
"""

from __future__ import annotations

import os
import threading
import time
from importlib.util import find_spec
from typing import Any

from starlette.types import Scope

LAST_SPANS_S = 2.0
"""Seconds that the last spans get to be sent in when the server ends."""


def check_installed() -> None:
    """Raise ValueError unless the `otel` extra is installed and its variables can be heeded."""
    for name in ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"):
        try:
            missing = find_spec(name) is None
        except ModuleNotFoundError:
            missing = True
        if missing:
            raise ValueError(f"tracing is on, but `{name}` is missing; install `textloop[otel]`")
    for variable, known in (
        ("OTEL_TRACES_EXPORTER", ("otlp", "console")),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", ("http/protobuf",)),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", ("http/protobuf",)),
    ):
        if (value := os.environ.get(variable, known[0])) not in known:
            raise ValueError(f"{variable} is `{value}`; this server knows {' and '.join(known)}")


class Tracer:
    """Makes spans. To be made in the process that uses it: it has a thread that sends."""

    def __init__(self, model_name: str) -> None:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        ours = Resource.create({"service.name": "textloop", "textloop.model": model_name})
        # What OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say comes last and counts.
        provider = TracerProvider(resource=ours.merge(OTELResourceDetector().detect()))
        exporter: Any
        if os.environ.get("OTEL_TRACES_EXPORTER") == "console":
            exporter = ConsoleSpanExporter()
        else:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            exporter = OTLPSpanExporter()
        provider.add_span_processor(BatchSpanProcessor(exporter))
        self.provider = provider
        self.kind = trace.SpanKind.SERVER
        self.failed = trace.StatusCode.ERROR
        self.tracer = provider.get_tracer("textloop.serve")
        self.in_span = trace.set_span_in_context
        self.extract = TraceContextTextMapPropagator().extract

    def start(self, scope: Scope, traceparent: str) -> RequestSpan:
        """Open the span of a request."""
        span = self.tracer.start_span(
            scope["method"],  # and the route, as soon as it is known
            context=self.extract({"traceparent": traceparent}),
            kind=self.kind,
            attributes={"http.request.method": scope["method"], "url.path": scope["path"]},
        )
        return RequestSpan(self, span, scope["method"])

    def close(self) -> None:
        """Send the last spans; a collector that does not answer must not hold up the end."""
        # What the provider itself registers for the end is not called in a forked process.
        last = threading.Thread(target=self.provider.shutdown, daemon=True)
        last.start()
        last.join(LAST_SPANS_S)


class RequestSpan:
    """The open span of one request."""

    def __init__(self, tracer: Tracer, span: Any, method: str) -> None:
        self.tracer = tracer
        self.span = span
        self.method = method
        self.trace_id = f"{span.get_span_context().trace_id:032x}"

    def end(self, exchange: Any, route: str) -> None:
        """Close the span with what `exchange` (of `serve.http.edge`) says."""
        self.span.update_name(f"{self.method} {route}")
        self.span.set_attributes(
            {
                "http.route": route,
                "http.response.status_code": exchange.status,
                "textloop.request_id": exchange.request_id,
                "textloop.texts": exchange.texts,
                "textloop.tokens": exchange.tokens,
            }
        )
        if exchange.status >= 500:
            self.span.set_status(self.tracer.failed)
        if exchange.compute_s:
            now = time.time_ns()
            started = now - int(exchange.compute_s * 1e9)
            context = self.tracer.in_span(self.span)
            for name, begin, end in (
                ("queue", started - int(exchange.queue_s * 1e9), started),
                ("model", started, now),
            ):
                self.tracer.tracer.start_span(name, context=context, start_time=begin).end(end)
        self.span.end()
