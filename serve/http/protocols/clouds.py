"""SageMaker's `/ping` and `/invocations`, and the routes of Vertex AI.

Vertex AI names its routes in AIP_PREDICT_ROUTE and AIP_HEALTH_ROUTE. They override a route of
the same path, such as `/predict`: of two routes the later one wins, so this module is the last
of the protocols.
"""

from __future__ import annotations

import csv
import io
import os
import sys
from typing import Any

import pydantic_core
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from serve.http.context import arm_of
from serve.http.protocols.checks import check_count, checked_texts
from serve.http.protocols.instances import (
    InstancesRequest,
    Predictions,
    answer_instances,
    read_instances,
)
from serve.http.protocols.predict import answer, json_list, rows_of, timing
from serve.http.schemas import RequestError, Score, Verdict
from serve.http.service import Service
from serve.http.wire import ERRORS, PROBES, PlainRoute, body_of, classify, json_response, read_body

BODIES = (InstancesRequest,)

VERTEX_PREDICT = "/vertex/predict"
"""Route of predictions for Vertex AI where AIP_PREDICT_ROUTE is not set."""

_LINES = {
    "text/plain": "One text.",
    "text/csv": "One text a row, without a header; two columns for a model of text pairs.",
    "application/jsonlines": "One text, pair or object with `inputs` a line.",
}


def router(service: Service) -> APIRouter:
    """Build `/ping`, `/invocations` and the routes of Vertex AI.

    Raises ValueError for an invalid AIP_*_ROUTE.
    """
    routes = APIRouter(route_class=PlainRoute)
    bodies = body_of("PredictRequest")
    bodies["requestBody"]["content"] |= {
        kind: {"schema": {"type": "string", "minLength": 1, "description": text}}
        for kind, text in _LINES.items()
    }
    states: dict[int | str, dict[str, Any]] = {
        code: {"model": dict[str, str]} for code in (200, 503)
    }

    @routes.get(
        "/ping", summary="200 if the server is ready, else 503", responses=states, tags=PROBES
    )
    async def ping(request: Request) -> Response:
        return await health(request)

    @routes.post(
        "/invocations",
        summary="Classify what SageMaker sends: JSON as for /predict, text, CSV or JSON lines",
        openapi_extra=bodies,
        responses={200: {"model": list[Score] | list[list[Score]] | list[Verdict]}, **ERRORS},
    )
    async def invocations(request: Request) -> Response:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in _LINES:
            return await answer(service, request)
        return await answer_lines(service, request, kind)

    @routes.post(
        _path("AIP_PREDICT_ROUTE", VERTEX_PREDICT),
        summary="Classify the instances that Vertex AI sends",
        openapi_extra=body_of("InstancesRequest"),
        responses={200: {"model": Predictions}, **ERRORS},
    )
    async def vertex(request: Request) -> Response:
        return await answer_instances(service, request)

    if "AIP_HEALTH_ROUTE" in os.environ:

        @routes.get(
            _path("AIP_HEALTH_ROUTE", ""),
            summary="The same as /ping",
            responses=states,
            tags=PROBES,
        )
        async def vertex_health(request: Request) -> Response:
            return await health(request)

    return routes


def _path(variable: str, default: str) -> str:
    path = os.environ.get(variable, default)
    if not path.startswith("/") or "{" in path:
        raise ValueError(f"{variable} is `{path}`, expected a path such as `{VERTEX_PREDICT}`")
    return path


async def health(request: Request) -> Response:
    """Report readiness by the status code."""
    ready = await arm_of(request).is_ready()
    return json_response({"status": "ok" if ready else "not ready"}, 200 if ready else 503)


async def answer_lines(service: Service, request: Request, kind: str) -> Response:
    """Answer a body that is one text, or one text a line, with the JSON of /predict."""
    arm, config = arm_of(request), service.config
    body = await read_body(request, limit=config.max_body_bytes)
    limit = config.max_texts_per_request
    if kind == "application/jsonlines":
        lines = read_json_lines(body, limit=limit)
        texts, field = read_instances(arm, config, lines, name="lines")
    elif kind == "text/csv":
        rows = read_csv(body, columns=len(arm.manifest.text_columns), limit=limit)
        texts, field = read_instances(arm, config, rows, name="rows")
    else:
        field = _body
        texts = checked_texts(arm, config, [_decode(body)], field=field)
    result = await classify(service, request, texts, field=field)
    rows = rows_of(arm, result, None)
    content = rows[0] if kind == "text/plain" else json_list(rows)
    return Response(content, headers=timing(arm, result), media_type="application/json")


def _body(*_: int) -> str:
    return "body"


def read_json_lines(body: bytes, *, limit: int) -> list[Any]:
    """Read the value of each line.

    Raises RequestError 400 if a line is not JSON, 422 if there are too many lines.
    """
    lines = body.removesuffix(b"\n").split(b"\n")
    check_count(len(lines), "lines", limit=limit)
    values = []
    for number, line in enumerate(lines):
        try:
            values.append(pydantic_core.from_json(line))
        except ValueError as error:
            name = f"lines.{number}"
            raise RequestError(400, f"`{name}` is not valid JSON: {error}", field=name) from None
    return values


def read_csv(body: bytes, *, columns: int, limit: int) -> list[Any]:
    """Read the text of each row, or the list of its two texts.

    Raises RequestError 400 if the body is not CSV, 422 if a row has another number of columns
    or if there are more rows than `limit`.
    """
    csv.field_size_limit(sys.maxsize)  # the default refuses texts over 131,072 characters
    values: list[Any] = []
    reader = csv.reader(io.StringIO(_decode(body), newline=""), strict=True)
    try:
        for row in reader:
            name = f"rows.{len(values)}"
            if len(row) != columns:
                raise RequestError(
                    422,
                    f"field `{name}`: {len(row)} columns, expected {columns}; quote texts that "
                    "contain a comma, a quote or a line break",
                    field=name,
                )
            values.append(row if columns > 1 else row[0])
            check_count(len(values), "rows", limit=limit)
    except csv.Error as error:
        name = f"rows.{len(values)}"
        raise RequestError(400, f"`{name}` is not valid CSV: {error}", field=name) from None
    return values


def _decode(body: bytes) -> str:
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(400, f"the body is not UTF-8: {error}") from None
