"""Reading bodies and writing responses: what all protocols share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import pydantic_core
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from serve.http.compression import WINDOW_BITS, Unpacker
from serve.http.schemas import ErrorBody, RequestError
from serve.http.service import Answer, Service
from serve.inference.text import Text, TextError
from serve.language.spelling import shown

REF = "#/components/schemas/{model}"
"""Reference to a model's schema in the OpenAPI document."""

ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorBody} for code in (400, 401, 406, 413, 415, 422, 429, 500, 503, 504)
}
"""Error responses of any route that classifies, for OpenAPI."""

PROBES: list[str | Enum] = ["probes"]
"""Tag of the routes that need no API key."""

DRAIN = 16
"""An oversized body is read and dropped up to this multiple of the limit."""


class PlainRoute(APIRoute):
    """A route whose function takes the request and returns the response.

    FastAPI documents it but does not run between request and function.
    """

    def get_route_handler(self) -> Callable[[Request], Any]:
        """Return the function itself."""
        return self.endpoint


def body_of(model: str) -> dict[str, Any]:
    """The part of a route's OpenAPI entry that describes its JSON body."""
    schema = {"$ref": REF.format(model=model)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def json_response(
    content: Any, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """A JSON response."""
    return Response(pydantic_core.to_json(content), status, headers, media_type="application/json")


async def read_body(request: Request, *, limit: int) -> bytes:
    """Read the request's body; one in gzip or deflate is decompressed as it comes.

    The rest of a body that is too large is read and dropped, up to `DRAIN` times the limit,
    so that a client that sends before it listens receives the response.
    Raises RequestError 413 if the body is over `limit` bytes, as sent or decompressed, 415 for
    another encoding, 400 if the compressed data are damaged.
    """
    unpacker = _unpacker(request, limit=limit)
    size = 0
    chunks = []
    async for chunk in request.stream():
        size += len(chunk)
        if size > DRAIN * limit:
            break
        if size <= limit and unpacker is not None:
            chunk = unpacker.feed(chunk)
        if size <= limit:
            chunks.append(chunk)
    if size > limit:
        raise RequestError(413, f"the body is over the limit of {limit} bytes; send less text")
    if unpacker is not None:
        unpacker.close()
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _unpacker(request: Request, *, limit: int) -> Unpacker | None:
    """What the headers say to decompress with; RequestError 415 if it is not supported."""
    encodings = [
        encoding
        for name, value in request.scope["headers"]
        if name == b"content-encoding"
        for each in value.decode("latin-1").lower().split(",")
        if (encoding := each.strip()) not in ("", "identity")
    ]
    if not encodings:
        return None
    if len(encodings) == 1 and encodings[0] in WINDOW_BITS:
        return Unpacker(encodings[0], limit=limit)
    raise RequestError(
        415,
        f"Content-Encoding {shown(', '.join(encodings), 40)!r} is not supported; send gzip, "
        "deflate or an uncompressed body",
    )


async def classify(
    service: Service,
    request: Request,
    texts: Sequence[Text],
    *,
    field: Callable[[int], str],
    **options: Any,
) -> Answer:
    """Call `Service.classify`; a text without an encoding is reported under its field's name.

    field: the name of the field of the text at an index.
    """
    try:
        return await service.classify(request, texts, **options)
    except TextError as error:
        name = field(error.index)
        raise RequestError(
            422,
            f"field `{name}`: {error}",
            field=name,
            kind="Tokenizer",
        ) from error
