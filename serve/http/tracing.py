"""OpenTelemetry spans of requests (`tracing: true`, extra `otel`).

One server span per request, a child of the caller's by W3C trace context, with child spans for
the time in the queue and in the model. The standard variables set the destination, such as
OTEL_EXPORTER_OTLP_ENDPOINT; OTEL_TRACES_EXPORTER=console prints the spans.
"""

from __future__ import annotations

import os
import threading
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from starlette.types import Scope

if TYPE_CHECKING:  # `check_installed` runs before PROMETHEUS_MULTIPROC_DIR is set
    from serve.http.context import RequestContext

LAST_SPANS_S = 2.0
"""Seconds to send the last spans at shutdown."""


def check_installed() -> None:
    """Raise ValueError unless the `otel` extra is installed and its variables are supported."""
    for name in ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"):
        try:
            missing = find_spec(name) is None
        except ModuleNotFoundError:
            missing = True
        if missing:
            raise ValueError(
                f"tracing is on, but `{name}` is missing: pip install 'textloop[otel]'"
            )
    for variable, known in (
        ("OTEL_TRACES_EXPORTER", ("otlp", "console")),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", ("http/protobuf",)),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", ("http/protobuf",)),
    ):
        if (value := os.environ.get(variable, known[0])) not in known:
            raise ValueError(f"{variable} is `{value}`; supported: {' and '.join(known)}")


class Tracer:
    """Makes spans. Create it in the process that uses it: it has a sending thread."""

    def __init__(self, model_name: str) -> None:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        ours = Resource.create({"service.name": "textloop", "textloop.model": model_name})
        # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES take precedence, so they come last.
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
            scope["method"],  # and the route, once it is known
            context=self.extract({"traceparent": traceparent}),
            kind=self.kind,
            attributes={"http.request.method": scope["method"], "url.path": scope["path"]},
        )
        return RequestSpan(self, span, scope["method"])

    def close(self) -> None:
        """Send the last spans, without waiting long for a collector that does not respond."""
        # The provider's own exit handler is not called in a forked process.
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

    def end(self, context: RequestContext, route: str) -> None:
        """Close the span with the figures of the request."""
        self.span.update_name(f"{self.method} {route}")
        self.span.set_attributes(
            {
                "http.route": route,
                "http.response.status_code": context.status,
                "textloop.request_id": context.request_id,
                "textloop.texts": context.texts,
                "textloop.tokens": context.tokens,
            }
        )
        if context.status >= 500:
            self.span.set_status(self.tracer.failed)
        if context.compute_s:
            now = time.time_ns()
            started = now - int(context.compute_s * 1e9)
            parent = self.tracer.in_span(self.span)
            for name, begin, end in (
                ("queue", started - int(context.queue_s * 1e9), started),
                ("model", started, now),
            ):
                self.tracer.tracer.start_span(name, context=parent, start_time=begin).end(end)
        self.span.end()
