"""What happens to every request whatever its route: identity, keys, headers, errors, counts.

One ASGI layer around the routes. It gives the request an id, lets it in or refuses it,
turns what a route raises into an answer, adds the headers that every answer has, and
measures and logs the exchange when its last byte is sent.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.keys import ApiKeys
from serve.schemas import RequestError
from serve.service import Service
from serve.text import TextError
from serve.tracing import Tracer
from serve.wire import error_response
from serve.workers import ClientGone, Unavailable

logger = logging.getLogger(__name__)

OPEN = frozenset(
    "/ /health /health/live /health/ready /ping /metrics /docs /openapi.json "
    "/v2 /v2/health/live /v2/health/ready".split()
)
"""Paths that GET without a key: probes, metrics and documentation."""

CLIENT_GONE = 499
"""Status in log and metrics of a request whose client left before the answer."""

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}")

_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]
_POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")


@dataclass
class Exchange:
    """One request and its answer, as the log and the traces tell it."""

    request_id: str
    trace_id: str | None
    key: str | None = None
    status: int = CLIENT_GONE
    texts: int = 0
    tokens: int = 0
    queue_s: float = 0.0
    compute_s: float = 0.0
    answered: bool = False


Endpoint = Callable[[Request], Awaitable[Response]]


class Edge:
    """The layer. `app` is what it surrounds.

    direct: endpoints by method and path that are called here, past the application's own
    layers and routing, which cost a third of what a request of one text may cost.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        service: Service,
        keys: ApiKeys | None,
        direct: dict[tuple[str, str], Endpoint],
    ) -> None:
        self.app = app
        self.direct = direct
        self.service = service
        self.keys = keys
        self.tracer = Tracer(service.config.model_name) if service.config.tracing else None
        self.version = (b"x-model-version", service.version.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; other kinds of ASGI events pass through."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started_s = time.perf_counter()
        asked = traceparent = authorization = ""
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                asked = value.decode("latin-1")
            elif name == b"traceparent":
                traceparent = value.decode("latin-1")
            elif name == b"authorization":
                authorization = value.decode("latin-1")
        traced = _TRACEPARENT.fullmatch(traceparent)
        exchange = Exchange(
            request_id=asked if _REQUEST_ID.fullmatch(asked) else os.urandom(16).hex(),
            trace_id=traced[1] if traced else None,
        )
        scope["textloop.exchange"] = exchange
        always = [(b"x-request-id", exchange.request_id.encode()), self.version, *_HEADERS]
        if scope["path"] != "/docs":  # the page loads its script from elsewhere
            always.append(_POLICY)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                exchange.answered = True
                message["headers"] = [*message["headers"], *always]
            await send(message)

        span = self.tracer.start(scope, traceparent) if self.tracer else None
        try:
            await self._serve(scope, receive, send_with_headers, exchange, authorization)
        finally:
            seconds = time.perf_counter() - started_s
            path = self._route(scope)
            self.service.metrics.request_seconds.labels(path, exchange.status).observe(seconds)
            if span:
                span.end(exchange, path)
            if self.service.config.access_log:
                _log(scope, exchange, seconds)

    def _route(self, scope: Scope) -> str:
        """The route's path with its parameters' names, for metrics and traces."""
        if (scope["method"], scope["path"]) in self.direct:
            return str(scope["path"])
        route = scope.get("route")
        return "other" if route is None else str(route.path)

    async def _serve(
        self, scope: Scope, receive: Receive, send: Send, exchange: Exchange, authorization: str
    ) -> None:
        try:
            if self.keys is not None and not self._let_in(scope, authorization, exchange):
                self._refuse("unauthorized")
                response = error_response(
                    401, "this server asks for a key: Authorization: Bearer KEY", "Unauthorized"
                )
                response.headers["www-authenticate"] = "Bearer"
                await response(scope, receive, send)
                return
            endpoint = self.direct.get((scope["method"], scope["path"]))
            if endpoint is None:
                await self.app(scope, receive, send)
            else:
                response = await endpoint(Request(scope, receive))
                await response(scope, receive, send)
        except ClientGone:
            self._refuse("client_gone")
        except asyncio.CancelledError:
            # The grace period after SIGTERM is over and the server takes its tasks down.
            self._refuse("shutdown")
            if not exchange.answered:
                response = error_response(503, "the server is shutting down", "Unhealthy")
                await response(scope, receive, send)
            raise
        except Exception as error:
            if exchange.answered:
                logger.exception("answer of request %s was cut off", exchange.request_id)
                return
            await self._explain(error, exchange)(scope, receive, send)

    def _let_in(self, scope: Scope, authorization: str, exchange: Exchange) -> bool:
        if scope["method"] == "OPTIONS" or (scope["method"] == "GET" and scope["path"] in OPEN):
            return True
        assert self.keys is not None
        scheme, _, key = authorization.partition(" ")
        exchange.key = self.keys.name_of(key.strip()) if scheme.lower() == "bearer" else None
        return exchange.key is not None

    def _explain(self, error: Exception, exchange: Exchange) -> ASGIApp:
        """The answer to what a route raised."""
        if isinstance(error, RequestError):
            self._refuse("invalid")
            return error_response(error.status, str(error), error.kind, field=error.field)
        if isinstance(error, Unavailable):
            self._refuse(error.reason)
            kind = "Overloaded" if error.status == 429 else "Unhealthy"
            response = error_response(error.status, str(error), kind)
            if error.retry_after_s is not None:
                response.headers["retry-after"] = str(error.retry_after_s)
            return response
        if isinstance(error, HTTPException):
            self._refuse("invalid")
            response = error_response(error.status_code, error.detail, "Validation")
            response.headers.update(error.headers or {})
            return response
        assert not isinstance(error, TextError), "routes say which field the text was in"
        self._refuse("failed")
        logger.error("request %s failed", exchange.request_id, exc_info=error)
        return error_response(500, "internal error; see the server's log", "Backend")

    def _refuse(self, reason: str) -> None:
        self.service.metrics.refused.labels(reason).inc()


def _log(scope: Scope, exchange: Exchange, seconds: float) -> None:
    client = scope.get("client")
    entry: dict[str, Any] = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "request_id": exchange.request_id,
        "trace_id": exchange.trace_id,
        "client": client[0] if client else None,
        "key": exchange.key,
        "method": scope["method"],
        "path": scope["path"],
        "status": exchange.status,
        "ms": round(seconds * 1e3, 2),
        "texts": exchange.texts,
        "tokens": exchange.tokens,
        "queue_ms": round(exchange.queue_s * 1e3, 2),
        "compute_ms": round(exchange.compute_s * 1e3, 2),
    }
    sys.stdout.write(json.dumps(entry) + "\n")
    sys.stdout.flush()
