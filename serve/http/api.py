"""The application of an HTTP process: all routes and layers, and the OpenAPI document.

Probes, metrics and documentation are here; routes that classify are in `serve.http.protocols`.
"""

from __future__ import annotations

import copy
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import pydantic_core
from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from serve.engine.metrics import exposition
from serve.http.arms.arm import Arm
from serve.http.arms.report import ArmMetrics
from serve.http.context import arm_of, context_of
from serve.http.edge import RequestMiddleware
from serve.http.errors import http_error
from serve.http.keys import ApiKeys
from serve.http.paths import PathMiddleware, check_root_path
from serve.http.protocols import clouds, kserve, predict
from serve.http.protocols.kserve import LENGTH
from serve.http.schemas import INPUTS
from serve.http.service import Service
from serve.http.wire import PROBES, REF, PlainRoute, json_response

PROTOCOLS = (predict, kserve, clouds)
"""Modules with `router(service)`, and `BODIES`: the models of the bodies that they parse."""


_EXPOSED = "retry-after x-model-generation x-model-version x-request-id".split()
"""Headers that a page of another origin may read."""


def build(app: FastAPI, service: Service, keys: ApiKeys | None) -> ASGIApp:
    """Add the routes to the application and wrap it in its middleware."""
    app.title = "Textloop"
    app.version = version("textloop")
    routers = [operations(app, service), *(protocol.router(service) for protocol in PROTOCOLS)]
    for router in routers:
        app.include_router(router)
    # One documentation page is enough, and the policy blocks the script of the other.
    app.swagger_ui_oauth2_redirect_url = None
    unused = {"/redoc", "/docs/oauth2-redirect"}
    app.router.routes[:] = [
        route for route in app.router.routes if getattr(route, "path", None) not in unused
    ]
    # A redirect would go to a host of the client's choosing, and lose a proxy's prefix.
    app.router.redirect_slashes = False
    app.exception_handler(HTTPException)(_http_error)
    routes = [
        route for router in routers for route in router.routes if isinstance(route, PlainRoute)
    ]
    app.root_path = service.config.root_path  # where the page looks for the document
    check_root_path(service.config.root_path, (route.path for route in routes))
    edge: ASGIApp = RequestMiddleware(app, service=service, keys=keys, routes=routes)
    edge = PathMiddleware(edge, root_path=service.config.root_path)
    return _cors(edge, service.config.cors_origins) if service.config.cors_origins else edge


def _cors(app: ASGIApp, origins: tuple[str, ...]) -> ASGIApp:
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=["GET", "POST"],
        allow_headers=[*"authorization content-type traceparent x-request-id".split(), LENGTH],
        expose_headers=[*_EXPOSED, LENGTH],
    )


def operations(app: FastAPI, service: Service) -> APIRouter:
    """Build probes, metrics and the OpenAPI document."""
    router = APIRouter(route_class=PlainRoute)

    @router.get("/openapi.json", include_in_schema=False)
    async def openapi(request: Request) -> Response:
        document = _document(app, arm_of(request))
        return Response(document, media_type="application/json")

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
        return await answer_ready(request)

    @router.get("/metrics", summary="Prometheus metrics", response_class=Response, tags=PROBES)
    async def metrics(request: Request) -> Response:
        own = ArmMetrics(context_of(request).arms, service.config.model_name)
        content, media_type = exposition(own)
        return Response(content, media_type=media_type)

    return router


async def answer_ready(request: Request) -> Response:
    """Report readiness and the number of model processes."""
    ready, wanted = await arm_of(request).model_processes()
    return json_response(
        {
            "status": "ok" if ready == wanted else "not ready",
            "model_processes_ready": ready,
            "model_processes": wanted,
        },
        200 if ready == wanted else 503,
    )


@lru_cache(maxsize=2)
def _document(app: FastAPI, arm: Arm) -> bytes:
    """The OpenAPI document for an arm, with the schemas of bodies that FastAPI does not parse."""
    document = copy.deepcopy(app.openapi())
    for methods in document["paths"].values():
        for operation in methods.values():
            for parameter in operation.get("parameters", ()):
                if (parameter["in"], parameter["name"]) == ("path", "version"):
                    parameter["schema"]["examples"] = [arm.version]
    schemas = document["components"]["schemas"]
    for model in (model for protocol in PROTOCOLS for model in protocol.BODIES):
        schema = model.model_json_schema(ref_template=REF)
        schemas |= schema.pop("$defs", {})
        schemas[model.__name__] = schema
    schemas["PredictRequest"]["properties"]["inputs"] = INPUTS[arm.manifest.is_pair]
    if app.root_path:
        document["servers"] = [{"url": app.root_path}]
    return pydantic_core.to_json(document)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return http_error(error)
