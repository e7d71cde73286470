"""Bodies in, answers out: what all protocols share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import pydantic_core
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from serve.http.schemas import ErrorBody, RequestError
from serve.http.service import Answer, Service
from serve.inference.text import Text, TextError

REF = "#/components/schemas/{model}"
"""Where OpenAPI keeps the schema of a model."""

ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorBody} for code in (400, 401, 413, 415, 422, 429, 500, 503, 504)
}
"""What any route that classifies may answer in place of 200."""

PROBES: list[str | Enum] = ["probes"]
"""Tag of the routes that are open to those without a key."""

DRAIN = 16
"""How many times the limit of an oversized body is read and dropped before giving up."""


class PlainRoute(APIRoute):
    """A route whose function takes the request and gives the response.

    FastAPI documents it; nothing of FastAPI stands between request and function.
    """

    def get_route_handler(self) -> Callable[[Request], Any]:
        """The function itself."""
        return self.endpoint


def body_of(model: str) -> dict[str, Any]:
    """The part of a route's OpenAPI entry that says what its body is."""
    schema = {"$ref": REF.format(model=model)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def json_response(
    content: Any, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """An answer in JSON."""
    return Response(pydantic_core.to_json(content), status, headers, media_type="application/json")


def error_response(status: int, message: str, kind: str, *, field: str | None = None) -> Response:
    """An answer that says what is wrong, in the one form that all protocols share.

    kind: one of the error types of text-embeddings-inference, or Unauthorized.
    """
    body = ErrorBody(error=message, error_type=kind, field=field)
    return json_response(body.model_dump(exclude_none=True), status)


async def read_body(request: Request, *, limit: int) -> bytes:
    """The request's body; RequestError 413 if it is over `limit` bytes, 415 if compressed.

    The rest of a body that is too large is read and dropped, up to a point, so that a client
    that sends before it listens gets its answer.
    """
    for name, value in request.scope["headers"]:
        if name == b"content-encoding" and value.lower() != b"identity":
            raise RequestError(
                415, f"bodies in {value.decode('latin-1')!r} are not read; send plain"
            )
    size = 0
    chunks = []
    async for chunk in request.stream():
        size += len(chunk)
        if size <= limit:
            chunks.append(chunk)
        elif size > DRAIN * limit:
            break
    if size > limit:
        raise RequestError(413, f"the body is over the limit of {limit} bytes")
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def classify(
    service: Service,
    request: Request,
    texts: Sequence[Text],
    *,
    field: Callable[[int], str],
    **options: Any,
) -> Answer:
    """`Service.classify`, with a text that is refused named by `field` of its number."""
    try:
        return await service.classify(request, texts, **options)
    except TextError as error:
        name = field(error.index)
        remedy = "shorten the text or let it be cut"
        raise RequestError(
            422, f"field `{name}`: {error}; {remedy}", field=name, kind="Tokenizer"
        ) from error
