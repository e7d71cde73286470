"""What happens to every request whatever its route: arm, identity, keys, headers, counts.

One ASGI middleware around the routes. It gives the request its context, checks the API key,
turns exceptions into responses, adds the headers that every response has, and measures and
logs the request when the last byte is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.engine.workers import ClientGone
from serve.http.connection.refusal import ENDED, REFUSED
from serve.http.context import RequestContext, log_access, open_context
from serve.http.errors import error_response, explain, unauthorized
from serve.http.keys import ApiKeys
from serve.http.service import Service
from serve.http.tracing import Tracer
from serve.http.wire import PROBES, PlainRoute

logger = logging.getLogger(__name__)

DOCUMENTATION = frozenset({"/docs", "/openapi.json"})
"""Open without a key, as are the routes tagged as probes."""

_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]
_POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")


def answers_head(route: PlainRoute) -> bool:
    """Whether a route also answers HEAD, as load balancers send to probes."""
    return route.tags == PROBES or route.path in DOCUMENTATION


class RequestMiddleware:
    """The middleware. `app` is what it surrounds.

    routes: dispatched here, past the application's own layers and routing, which take a third
    of the time that a request of one text may take and have error formats of their own. The
    application serves its documentation, and paths that no route matches.
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
            # uvicorn leaves out the body of the response to HEAD.
            for method in (*(route.methods or ()), *(["HEAD"] if answers_head(route) else []))
        }
        self.patterns = [
            ({*(route.methods or ()), *(["HEAD"] if answers_head(route) else [])}, route)
            for route in routes
            if route.param_convertors
        ]
        self.service = service
        self.keys = keys
        self.tracer: Tracer | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; other kinds of ASGI events pass through."""
        if scope["type"] != "http":
            # Start-up, in the process that will serve: a tracer has a thread of its own.
            if scope["type"] == "lifespan" and self.service.config.tracing:
                self.tracer = Tracer(self.service.config.model_name)
            if scope["type"] == "lifespan" and self.keys:
                self.keys.watch(self.service.metrics)
            await self.app(scope, receive, self._flush_spans_before(send))
            return
        started_s = time.perf_counter()
        route = self._route(scope)
        context = open_context(scope, self.service.arms)
        role = context.role
        headers = [(b"x-request-id", context.request_id.encode()), *role.headers, *_HEADERS]
        if scope["path"] != "/docs":  # the page loads its script from elsewhere
            headers.append(_POLICY)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                context.status = message["status"]
                context.answered = True
                message["headers"] = [*message["headers"], *headers]
            await send(message)

        span = self.tracer.start(scope, context.traceparent) if self.tracer else None
        if span:
            context.trace_id = span.trace_id
        role.arm.pool.users += 1
        try:
            await self._serve(route, scope, receive, send_with_headers, context)
        finally:
            role.arm.pool.users -= 1
            seconds = time.perf_counter() - started_s
            path = "other" if route is None else route.path
            durations = self.service.metrics.request_seconds
            durations.labels(path, context.status, role.name).observe(seconds)
            if span:
                span.end(context, path)
            if self.service.config.access_log:
                log_access(scope, context, seconds)

    def _flush_spans_before(self, send: Send) -> Send:
        """`send`, with the last spans sent before the process reports its shutdown."""

        async def send_after_spans(message: Message) -> None:
            if self.tracer and message["type"].startswith("lifespan.shutdown"):
                self.tracer.close()
            await send(message)

        return send_after_spans

    def _route(self, scope: Scope) -> PlainRoute | None:
        """The route of a request, with its path's parameters put into the scope."""
        method, path = scope["method"], scope["path"]
        if route := self.exact.get((method, path)):
            return route
        for methods, route in self.patterns:
            if method in methods and (match := route.path_regex.match(path)):
                scope["path_params"] = match.groupdict()
                return route
        return None

    async def _serve(
        self,
        route: PlainRoute | None,
        scope: Scope,
        receive: Receive,
        send: Send,
        context: RequestContext,
    ) -> None:
        try:
            if not self._authorize(route, scope, context):
                self._count_error("unauthorized")
                await unauthorized()(scope, receive, send)
            elif (refused := scope.get(REFUSED)) and (route is None or route.tags != PROBES):
                raise refused
            elif route is None:
                await self.app(scope, receive, send)
            else:
                response = await route.endpoint(Request(scope, receive))
                await response(scope, receive, send)
        except (ClientGone, ClientDisconnect):
            if ended := scope.get(ENDED):  # by the connection, which has answered
                context.status = ended.status
            self._count_error("invalid" if ended else "client_gone")
        except asyncio.CancelledError:
            # The grace period after SIGTERM is over and the server cancels its tasks: not an
            # error, and uvicorn would log one if it were raised again. If even this response
            # is cancelled, its client does not read.
            self._count_error("shutdown")
            if not context.answered:
                response = error_response(503, "the server is shutting down", "Unhealthy")
                with contextlib.suppress(asyncio.CancelledError):
                    await response(scope, receive, send)
        except Exception as error:
            if context.answered:
                logger.exception(
                    "request %s failed after the response had started", context.request_id
                )
                return
            reason, response = explain(error, context.request_id)
            self._count_error(reason)
            await response(scope, receive, send)

    def _authorize(self, route: PlainRoute | None, scope: Scope, context: RequestContext) -> bool:
        """Whether the request may be served; names its key in the context."""
        if self.keys is None or (route is not None and route.tags == PROBES):
            return True
        if scope["method"] == "GET" and scope["path"] in DOCUMENTATION:
            return True
        scheme, _, key = context.authorization.partition(" ")
        context.key = self.keys.name_of(key.strip()) if scheme.lower() == "bearer" else None
        return context.key is not None

    def _count_error(self, reason: str) -> None:
        self.service.metrics.request_errors.labels(reason).inc()
