"""The application of an HTTP process: all routes and layers, and the OpenAPI document.

Probes and metrics are at home here; whatever classifies is in `serve.http.protocols`.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from serve.engine.metrics import exposition
from serve.http.edge import Edge
from serve.http.keys import ApiKeys
from serve.http.protocols import clouds, kserve, predict
from serve.http.protocols.kserve import LENGTH
from serve.http.schemas import INPUTS
from serve.http.service import Service
from serve.http.wire import PROBES, REF, PlainRoute, error_response, json_response

PROTOCOLS = (predict, kserve, clouds)
"""Modules with `router(service)` and `BODIES`, the models of bodies that they parse."""


def build(app: FastAPI, service: Service, keys: ApiKeys | None) -> ASGIApp:
    """Put the routes on the application, and the layers around it."""
    app.title = "Textloop"
    app.version = version("textloop")
    routers = [operations(service), *(protocol.router(service) for protocol in PROTOCOLS)]
    for router in routers:
        app.include_router(router)
    # One documentation page is enough, and this one's script is kept out by the policy.
    app.router.routes[:] = [
        route for route in app.router.routes if getattr(route, "path", None) != "/redoc"
    ]
    app.exception_handler(HTTPException)(_http_error)
    routes = [
        route for router in routers for route in router.routes if isinstance(route, PlainRoute)
    ]

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, service)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented hook
    edge = Edge(app, service=service, keys=keys, routes=routes)
    return _cors(edge, service.config.cors_origins) if service.config.cors_origins else edge


def _cors(app: ASGIApp, origins: tuple[str, ...]) -> ASGIApp:
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=["GET", "POST"],
        allow_headers=[*"authorization content-type traceparent x-request-id".split(), LENGTH],
        expose_headers=[*"retry-after x-model-version x-request-id".split(), LENGTH],
    )


def operations(service: Service) -> APIRouter:
    """Probes and metrics."""
    router = APIRouter(route_class=PlainRoute)

    @router.get(
        "/health/live",
        summary="200 while the HTTP process answers",
        response_model=dict[str, str],
        tags=PROBES,
    )
    async def live(request: Request) -> Response:
        return json_response({"status": "ok"})

    @router.get(
        "/health/ready",
        summary="200 once every model process has answered a test inference, else 503",
        responses={200: {"model": dict[str, Any]}, 503: {"model": dict[str, Any]}},
        tags=PROBES,
    )
    @router.get(
        "/health", summary="The same as /health/ready", include_in_schema=False, tags=PROBES
    )
    async def ready(request: Request) -> Response:
        return await answer_ready(service)

    @router.get("/metrics", summary="Prometheus metrics", response_class=Response, tags=PROBES)
    async def metrics(request: Request) -> Response:
        content, media_type = exposition()
        return Response(content, media_type=media_type)

    return router


async def answer_ready(service: Service) -> Response:
    """Readiness, with how many model processes there are."""
    ready, wanted = await service.model_processes()
    return json_response(
        {
            "status": "ok" if ready == wanted else "not ready",
            "model_processes_ready": ready,
            "model_processes": wanted,
        },
        200 if ready == wanted else 503,
    )


def _document(app: FastAPI, service: Service) -> dict[str, Any]:
    """The OpenAPI document, with the schemas of the bodies that FastAPI does not parse."""
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    schemas = document["components"]["schemas"]
    for model in (model for protocol in PROTOCOLS for model in protocol.BODIES):
        schema = model.model_json_schema(ref_template=REF)
        schemas |= schema.pop("$defs", {})
        schemas[model.__name__] = schema
    schemas["PredictRequest"]["properties"]["inputs"] = INPUTS[service.manifest.is_pair]
    return document


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = error_response(error.status_code, error.detail, "Validation")
    response.headers.update(error.headers or {})
    return response
