"""One request: its arm, its identity, what it cost, and its line in the access log."""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.types import Scope

from serve import lines
from serve.http.arms.arm import Arm
from serve.http.arms.roles import Arms, Role

CLIENT_GONE = 499
"""Status in log and metrics of a request whose client left before the answer."""

LOGGED_PATH = 256
"""Characters of a path in the log. Escaped, each takes up to 12 bytes, and a line within the
4096 bytes of PIPE_BUF is written to a pipe in one piece, whatever other processes write."""

_FIELDS = (
    "time request_id trace_id client key method path status ms texts tokens queue_ms compute_ms"
).split()
"""Of a line in the access log; null where a refused request has none."""

_KEY = "textloop.context"
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}")


@dataclass
class RequestContext:
    """What an HTTP process knows of one request."""

    arms: Arms
    """Those of the server when the request came."""
    role: Role
    """That of the arm that answers; taken before the body is read, and never changed."""
    request_id: str
    trace_id: str | None
    traceparent: str
    authorization: str = field(repr=False)
    key: str | None = None
    """Name of the API key."""
    status: int = CLIENT_GONE
    texts: int = 0
    tokens: int = 0
    queue_s: float = 0.0
    compute_s: float = 0.0
    answered: bool = False
    """Whether the response has started."""


def open_context(scope: Scope, arms: Arms) -> RequestContext:
    """Read a request's identity from its headers and put its context into the scope.

    A version in the path, which must have been matched to its route, chooses the arm.
    """
    requested_id = traceparent = authorization = ""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            requested_id = value.decode("latin-1")
        elif name == b"traceparent":
            traceparent = value.decode("latin-1")
        elif name == b"authorization":
            authorization = value.decode("latin-1")
    traced = _TRACEPARENT.fullmatch(traceparent)
    context = RequestContext(
        arms=arms,
        role=arms.role(scope.get("path_params", {}).get("version")),
        request_id=requested_id if _REQUEST_ID.fullmatch(requested_id) else os.urandom(16).hex(),
        trace_id=traced[1] if traced else None,
        traceparent=traceparent,
        authorization=authorization,
    )
    scope[_KEY] = context
    return context


def context_of(request: Request) -> RequestContext:
    """The context of a request."""
    context: RequestContext = request.scope[_KEY]
    return context


def arm_of(request: Request) -> Arm:
    """The arm that answers a request."""
    return context_of(request).role.arm


def log_access(scope: Scope, context: RequestContext, seconds: float) -> None:
    """Write a request's line, JSON, to standard output."""
    _log(
        scope.get("client"),
        context.status,
        request_id=context.request_id,
        trace_id=context.trace_id,
        key=context.key,
        method=scope["method"],
        path=scope["path"][:LOGGED_PATH],
        ms=round(seconds * 1e3, 2),
        texts=context.texts,
        tokens=context.tokens,
        queue_ms=round(context.queue_s * 1e3, 2),
        compute_ms=round(context.compute_s * 1e3, 2),
    )


def log_refusal(client: tuple[str, int] | None, status: int) -> None:
    """Write the line of a request that was refused before its head was complete."""
    _log(client, status)


def _log(client: tuple[str, int] | None, status: int, **known: Any) -> None:
    entry = dict.fromkeys(_FIELDS) | known
    entry["time"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    entry["client"] = client[0] if client else None
    entry["status"] = status
    lines.stdout.write(json.dumps(entry))
