"""From what a route raises to a response, in the one form that all protocols share."""

from __future__ import annotations

import logging

from starlette.exceptions import HTTPException
from starlette.responses import Response

from serve.engine.admission import Unavailable
from serve.http.schemas import ErrorBody, RequestError
from serve.http.wire import json_response
from serve.inference.text import TextError
from serve.language.spelling import shown

logger = logging.getLogger(__name__)

LONGEST = 1000
"""Characters of a message, which may repeat what the client sent."""


def error_response(status: int, message: str, kind: str, *, field: str | None = None) -> Response:
    """An error response.

    kind: one of the error types of text-embeddings-inference, or Unauthorized.
    """
    field = None if field is None else shown(field)
    body = ErrorBody(error=shown(message, LONGEST), error_type=kind, field=field)
    return json_response(body.model_dump(exclude_none=True), status)


def unauthorized() -> Response:
    """The response to a request without a valid API key."""
    message = "missing or invalid API key; send `Authorization: Bearer KEY`"
    response = error_response(401, message, "Unauthorized")
    response.headers["www-authenticate"] = "Bearer"
    return response


def http_error(error: HTTPException) -> Response:
    """The response to an exception of Starlette's, such as 404 and 405."""
    response = error_response(error.status_code, error.detail, "Validation")
    response.headers.update(error.headers or {})
    return response


def explain(error: Exception, request_id: str) -> tuple[str, Response]:
    """The reason that is counted for an exception, and the response.

    An exception that is none of the expected ones is logged and answered with 500.
    """
    if isinstance(error, RequestError):
        return "invalid", error_response(error.status, str(error), error.kind, field=error.field)
    if isinstance(error, Unavailable):
        kind = {413: "Validation", 429: "Overloaded"}.get(error.status, "Unhealthy")
        response = error_response(error.status, str(error), kind)
        if error.retry_after_s is not None:
            response.headers["retry-after"] = str(error.retry_after_s)
        return error.reason, response
    if isinstance(error, HTTPException):
        return "invalid", http_error(error)
    assert not isinstance(error, TextError), "routes name the field of the text"
    logger.error("request %s failed", request_id, exc_info=error)
    return "failed", error_response(500, "internal error; see the server's log", "Backend")
