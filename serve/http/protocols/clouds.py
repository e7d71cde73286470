"""SageMaker's `/ping` and `/invocations`, and the routes of Vertex AI.

Vertex AI names its routes in AIP_PREDICT_ROUTE and AIP_HEALTH_ROUTE. They override a route of
the same path, such as `/predict`: of two routes the later one wins, so this module is the last
of the protocols.
"""

from __future__ import annotations

import os
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from serve.http.context import arm_of
from serve.http.protocols import media
from serve.http.protocols.checks import checked_texts
from serve.http.protocols.instances import (
    InstancesRequest,
    Predictions,
    answer_instances,
    read_instances,
)
from serve.http.protocols.predict import json_list, predict_rows, rows_of, timing
from serve.http.protocols.texts import PARTS
from serve.http.schemas import RequestError, Score, Verdict
from serve.http.service import Answer, Service
from serve.http.wire import ERRORS, PROBES, PlainRoute, body_of, classify, json_response, read_body

BODIES = (InstancesRequest,)

VERTEX_PREDICT = "/vertex/predict"
"""Route of predictions for Vertex AI where AIP_PREDICT_ROUTE is not set."""

_LINES = {
    media.TEXT: "One text.",
    media.CSV: "One text a row; two columns for a model of text pairs. A header is announced by "
    "`header=present`, or has the names of the columns or `inputs`.",
    media.LINES: "One text, pair or object with `inputs` or `text` a line.",
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
        responses={
            200: {
                "model": list[Score] | list[list[Score]] | list[Verdict],
                "content": {kind: {"schema": {"type": "string"}} for kind in media.ANSWERS[1:]},
            },
            **ERRORS,
        },
    )
    async def invocations(request: Request) -> Response:
        return await invoke(service, request)

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
    return path.rstrip("/") or "/"  # requests come here without it as well


async def health(request: Request) -> Response:
    """Report readiness by the status code."""
    ready = await arm_of(request).is_ready()
    return json_response({"status": "ok" if ready else "not ready"}, 200 if ready else 503)


async def invoke(service: Service, request: Request) -> Response:
    """Answer a body of any media type that is read, in the media type that `Accept` prefers."""
    kind, header = media.content_kind(request.headers.get("content-type", ""))
    wanted, name = media.answer_kind(", ".join(request.headers.getlist("accept")))
    if kind in _LINES:
        result, rows = await _classify_lines(service, request, kind, header)
        single = kind == media.TEXT
    else:
        try:
            result, rows, single = await predict_rows(service, request)
        except RequestError as error:
            if kind == media.FORM and error.status == 400:
                raise media.not_read(kind) from None
            raise
    if wanted == media.JSON:
        content = rows[0] if single else json_list(rows)
    else:
        content = media.write(rows, wanted)
    return Response(content, headers=timing(arm_of(request), result), media_type=name)


async def _classify_lines(
    service: Service, request: Request, kind: str, header: bool | None
) -> tuple[Answer, list[bytes]]:
    """Classify a body that is one text, or one text a line; also each text's answer in JSON."""
    arm, config = arm_of(request), service.config
    body = await read_body(request, limit=config.max_body_bytes)
    limit = config.max_texts_per_request
    if kind == media.LINES:
        lines = media.read_json_lines(body, limit=limit)
        texts, field = read_instances(arm, config, lines, name="lines")
    elif kind == media.CSV:
        names = [
            (part, column.lower(), *(["inputs"] if len(arm.manifest.text_columns) == 1 else []))
            for part, column in zip(PARTS, arm.manifest.text_columns, strict=False)
        ]
        values = media.read_csv(body, names=names, limit=limit, header=header)
        texts, field = read_instances(arm, config, values, name="rows")
    else:
        field = _body
        texts = checked_texts(arm, config, [media.decode(body)], field=field)
    result = await classify(service, request, texts, field=field)
    return result, rows_of(arm, result, None)


def _body(*_: int) -> str:
    return "body"
