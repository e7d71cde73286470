"""Why a connection is refused, the response that says so, and what it tells its request's app.

A refusal is written by the connection itself where no request exists yet that a route could
answer; a request that is complete up to its body is answered by the application.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, cast

import pydantic_core
from uvicorn._types import HTTPScope

from serve.http.connection.registry import Connections
from serve.settings import ServeConfig

REFUSED = "textloop.refused"
"""In a request's scope: the exception to answer it with, instead of serving it."""

ENDED = "textloop.ended"
"""In a request's scope: the `Refusal` that ended it before its body was complete."""

BODY = "textloop.body"
"""In a request's scope: its `PendingBody`."""

HEADERS = (
    b"content-type: application/json\r\nx-content-type-options: nosniff\r\n"
    b"x-frame-options: DENY\r\nreferrer-policy: no-referrer\r\ncache-control: no-store\r\n"
    b"content-security-policy: default-src 'none'; frame-ancestors 'none'\r\n"
    b"connection: close\r\n"
)


class Refusal(Exception):
    """Why a connection is closed. reason: the label in metrics."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason

    def response(self) -> bytes:
        """The complete HTTP response."""
        kind = "Unhealthy" if self.status == 503 else "Validation"
        body = pydantic_core.to_json({"error": str(self), "error_type": kind})
        phrase = HTTPStatus(self.status).phrase
        head = f"HTTP/1.1 {self.status} {phrase}\r\ncontent-length: {len(body)}\r\n"
        if self.status == 503:
            head += "retry-after: 1\r\n"
        return head.encode() + HEADERS + b"\r\n" + body


@dataclass
class PendingBody:
    """Bytes of one body that count against `max_pending_body_bytes`."""

    connections: Connections = field(repr=False)
    num_bytes: int = 0

    def add(self, num_bytes: int) -> None:
        """Count more bytes; Refusal 503 if the process holds too many."""
        self.num_bytes += num_bytes
        self.connections.pending_body_bytes += num_bytes
        limit = self.connections.config.max_pending_body_bytes
        if self.connections.pending_body_bytes > limit:
            raise Refusal(
                503,
                "pending_body_bytes",
                f"bodies of pending requests exceed max_pending_body_bytes = {limit}; retry later",
            )

    def release(self) -> None:
        """Count no more of it; again without effect."""
        self.connections.pending_body_bytes -= self.num_bytes
        self.num_bytes = 0


def note(scope: HTTPScope, key: str, value: Any) -> None:
    """Put a note for the application into a request's scope."""
    cast(dict[str, Any], scope)[key] = value


def release(scope: Mapping[str, Any]) -> None:
    """The request is over: it holds no body."""
    if body := scope.get(BODY):
        body.release()


def malformed(reason: str) -> Refusal:
    """The client does not speak HTTP, or not clearly."""
    return Refusal(400, "malformed", f"invalid HTTP request: {reason}")


def too_slow(part: str, limit_s: float) -> Refusal:
    """The client has not sent the head, or the body, in time."""
    return Refusal(
        408, f"{part}_time", f"the {part} was not complete within {part}_timeout_s = {limit_s:g} s"
    )


def head_too_large(config: ServeConfig) -> Refusal:
    """The line and headers of a request are too long."""
    return Refusal(
        431,
        "head_bytes",
        f"line and headers are over max_head_bytes = {config.max_head_bytes}; send less",
    )
