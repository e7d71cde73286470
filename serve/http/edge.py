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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.engine.admission import Unavailable
from serve.engine.workers import ClientGone
from serve.http.keys import ApiKeys
from serve.http.schemas import RequestError
from serve.http.service import Service
from serve.http.tracing import Tracer
from serve.http.wire import PROBES, PlainRoute, error_response
from serve.inference.text import TextError

logger = logging.getLogger(__name__)

DOCUMENTATION = frozenset({"/docs", "/openapi.json"})
"""Open to those without a key, as the routes tagged as probes are."""

CLIENT_GONE = 499
"""Status in log and metrics of a request whose client left before the answer."""

LOGGED_PATH = 256
"""Characters of a path in the log. Escaped they take up to 12 bytes each, and a line within
the 4096 of PIPE_BUF gets into a pipe in one piece, whichever other process writes to it."""

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


class Edge:
    """The layer. `app` is what it surrounds.

    routes: are called here, past the application's own layers and routing, which cost a
    third of what a request of one text may cost and answer errors in forms of their own. The
    application is left with its documentation, and with what no route knows.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        service: Service,
        keys: ApiKeys | None,
        routes: Sequence[PlainRoute],
    ) -> None:
        self.app = app
        self.exact = {
            (method, route.path): route
            for route in routes
            if not route.param_convertors
            # Load balancers ask probes with HEAD; the answer's body is left out by uvicorn.
            for method in (*(route.methods or ()), *(["HEAD"] if route.tags == PROBES else []))
        }
        self.patterns = [route for route in routes if route.param_convertors]
        self.service = service
        self.keys = keys
        self.tracer: Tracer | None = None
        self.version = (b"x-model-version", service.version.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; other kinds of ASGI events pass through."""
        if scope["type"] != "http":
            # The start, in the process that will serve: a tracer has a thread of its own.
            if scope["type"] == "lifespan" and self.service.config.tracing:
                self.tracer = Tracer(self.service.config.model_name)
            await self.app(scope, receive, self._last_spans_before(send))
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

        route = self._route(scope)
        span = self.tracer.start(scope, traceparent) if self.tracer else None
        if span:
            exchange.trace_id = span.trace_id
        try:
            await self._serve(route, scope, receive, send_with_headers, exchange, authorization)
        finally:
            seconds = time.perf_counter() - started_s
            path = "other" if route is None else route.path
            self.service.metrics.request_seconds.labels(path, exchange.status).observe(seconds)
            if span:
                span.end(exchange, path)
            if self.service.config.access_log:
                _log(scope, exchange, seconds)

    def _last_spans_before(self, send: Send) -> Send:
        """`send`, but that the spans are sent before the process says that it may end."""

        async def send_after_spans(message: Message) -> None:
            if self.tracer and message["type"].startswith("lifespan.shutdown"):
                self.tracer.close()
            await send(message)

        return send_after_spans

    def _route(self, scope: Scope) -> PlainRoute | None:
        """The route of a request, its path's parameters put into the scope."""
        method, path = scope["method"], scope["path"]
        if route := self.exact.get((method, path)):
            return route
        for route in self.patterns:
            if method in (route.methods or ()) and (match := route.path_regex.match(path)):
                scope["path_params"] = match.groupdict()
                return route
        return None

    async def _serve(
        self,
        route: PlainRoute | None,
        scope: Scope,
        receive: Receive,
        send: Send,
        exchange: Exchange,
        authorization: str,
    ) -> None:
        try:
            if self.keys is not None and not self._let_in(route, scope, authorization, exchange):
                self._refuse("unauthorized")
                response = error_response(
                    401, "this server asks for a key: Authorization: Bearer KEY", "Unauthorized"
                )
                response.headers["www-authenticate"] = "Bearer"
                await response(scope, receive, send)
                return
            if route is None:
                await self.app(scope, receive, send)
            else:
                response = await route.endpoint(Request(scope, receive))
                await response(scope, receive, send)
        except (ClientGone, ClientDisconnect):
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

    def _let_in(
        self, route: PlainRoute | None, scope: Scope, authorization: str, exchange: Exchange
    ) -> bool:
        if route is not None and route.tags == PROBES:
            return True
        if scope["method"] == "GET" and scope["path"] in DOCUMENTATION:
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
        "path": scope["path"][:LOGGED_PATH],
        "status": exchange.status,
        "ms": round(seconds * 1e3, 2),
        "texts": exchange.texts,
        "tokens": exchange.tokens,
        "queue_ms": round(exchange.queue_s * 1e3, 2),
        "compute_ms": round(exchange.compute_s * 1e3, 2),
    }
    sys.stdout.write(json.dumps(entry) + "\n")
    sys.stdout.flush()
