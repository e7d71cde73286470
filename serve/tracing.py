"""OpenTelemetry spans, for servers that ask for them (`tracing: true`, extra `otel`).

One server span per request, child of the caller's by W3C trace context, and under it spans
for the time in the queue and in the model. Where they go is set by the standard variables,
such as OTEL_EXPORTER_OTLP_ENDPOINT; OTEL_TRACES_EXPORTER=console prints them.
"""

from __future__ import annotations

import os
import time
from importlib.util import find_spec
from typing import Any

from starlette.types import Scope


def check_installed() -> None:
    """Raise ValueError unless the `otel` extra is installed."""
    for name in ("opentelemetry.sdk", "opentelemetry.exporter"):
        try:
            missing = find_spec(name) is None
        except ModuleNotFoundError:
            missing = True
        if missing:
            raise ValueError(f"tracing is on, but `{name}` is missing; install `textloop[otel]`")


class Tracer:
    """Makes spans. To be made in the process that uses it: it has a thread that sends."""

    def __init__(self, model_name: str) -> None:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        name = os.environ.get("OTEL_SERVICE_NAME", "textloop")
        provider = TracerProvider(
            resource=Resource.create({"service.name": name, "textloop.model": model_name})
        )
        exporter: Any
        if os.environ.get("OTEL_TRACES_EXPORTER") == "console":
            exporter = ConsoleSpanExporter()
        else:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            exporter = OTLPSpanExporter()
        provider.add_span_processor(BatchSpanProcessor(exporter))
        self.provider = provider
        self.kind = trace.SpanKind.SERVER
        self.tracer = provider.get_tracer("textloop.serve")
        self.in_span = trace.set_span_in_context
        self.extract = TraceContextTextMapPropagator().extract

    def start(self, scope: Scope, traceparent: str) -> RequestSpan:
        """Open the span of a request."""
        span = self.tracer.start_span(
            f"{scope['method']} {scope['path']}",
            context=self.extract({"traceparent": traceparent}),
            kind=self.kind,
            attributes={"http.request.method": scope["method"], "url.path": scope["path"]},
        )
        return RequestSpan(self, span)


class RequestSpan:
    """The open span of one request."""

    def __init__(self, tracer: Tracer, span: Any) -> None:
        self.tracer = tracer
        self.span = span

    def end(self, exchange: Any, route: str) -> None:
        """Close the span with what `exchange` (of `serve.edge`) says."""
        self.span.set_attributes(
            {
                "http.route": route,
                "http.response.status_code": exchange.status,
                "textloop.request_id": exchange.request_id,
                "textloop.texts": exchange.texts,
                "textloop.tokens": exchange.tokens,
            }
        )
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
