"""KServe over HTTP: the V1 protocol, and V2, which is the Open Inference Protocol.

The model's name is `model_name` of the configuration, its version that of the bundle. V2
reads and writes tensors in JSON and in the binary extension, which Triton's client uses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import pydantic_core
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from serve.engine.admission import Unavailable
from serve.http.arms.arm import Arm
from serve.http.context import arm_of, context_of
from serve.http.protocols.checks import checked_texts
from serve.http.protocols.instances import InstancesRequest, Predictions, answer_instances
from serve.http.protocols.kserve_schemas import (
    INPUTS,
    OUTPUTS,
    InferParameters,
    InferRequest,
    InferResponse,
    ModelMetadata,
    Readiness,
    ServerMetadata,
)
from serve.http.protocols.predict import timing
from serve.http.protocols.tensors import read_infer, requested_outputs, write_outputs
from serve.http.schemas import ErrorBody, RequestError
from serve.http.service import Service
from serve.http.wire import ERRORS, PROBES, PlainRoute, body_of, classify, json_response, read_body
from serve.language.spelling import shown
from serve.settings import ServeConfig

BODIES = (InstancesRequest, InferRequest)

LENGTH = "inference-header-content-length"
"""Header with the length in bytes of the JSON that precedes the bytes of the tensors."""

_V1 = "/v1/models/{name}"
_V2 = "/v2/models/{name}"
_V2_VERSION = "/v2/models/{name}/versions/{version}"


_UNKNOWN: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorBody, "description": description}
    for code, description in ((401, "Missing or invalid key"), (404, "No such model or version"))
}


def _path(service: Service, *names: str) -> dict[str, Any]:
    """The part of a route's OpenAPI entry that describes the parameters of its path.

    Examples of a version are added when a document is made, by `serve.http.api`.
    """
    schemas: dict[str, Any] = {
        "name": {"type": "string", "enum": [service.config.model_name]},
        "version": {"type": "string"},
    }
    return {
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": schemas[name]}
            for name in names
        ]
    }


def _states(model: Any) -> dict[int | str, dict[str, Any]]:
    return {200: {"model": model}, 503: {"model": model, "description": "Not ready"}}


def router(service: Service) -> APIRouter:
    """Build the routes of both protocols."""
    routes = APIRouter(route_class=PlainRoute)
    _add_v1(routes, service)
    _add_v2(routes, service)
    return routes


def _check_model(service: Service, request: Request) -> None:
    """Raise RequestError 404 unless the path names the model and, if any, its version."""
    served = {
        "name": [service.config.model_name],
        "version": list(context_of(request).arms.by_version),
    }
    for part, value in request.path_params.items():
        if value not in served[part]:
            raise _unknown("model" if part == "name" else "version", value, served[part])


def _unknown(what: str, value: str, served: Sequence[str]) -> RequestError:
    names = " and ".join(f"`{each}`" for each in served)
    return RequestError(404, f"unknown {what} `{shown(value)}`; this server has {names}")


def _outputs(arm: Arm) -> tuple[str, ...]:
    """The outputs of the model: decisions differ from the best score where there are several."""
    return OUTPUTS if arm.manifest.task == "multi_label" else OUTPUTS[:2]


async def _readiness(service: Service, request: Request) -> Response:
    _check_model(service, request)
    ready = await arm_of(request).is_ready()
    content = {"name": service.config.model_name, "ready": ready}
    return json_response(content, 200 if ready else 503)


def _add_v1(routes: APIRouter, service: Service) -> None:
    by_name = _path(service, "name")

    # Hidden, as what Hugging Face clients post there is the same as /predict.
    @routes.get("/", include_in_schema=False, tags=PROBES)
    async def v1_live(request: Request) -> Response:
        return json_response({"status": "alive"})

    @routes.get(
        "/v1/models",
        summary="KServe V1: the names of the models",
        responses={200: {"model": dict[str, list[str]]}, 401: _UNKNOWN[401]},
    )
    async def v1_models(request: Request) -> Response:
        return json_response({"models": [service.config.model_name]})

    # Before the next route, whose model name would match `NAME:predict`.
    @routes.post(
        f"{_V1}:predict",
        summary="KServe V1: classify",
        responses={200: {"model": Predictions}, **ERRORS, **_UNKNOWN},
        openapi_extra=body_of("InstancesRequest") | by_name,
    )
    async def v1_predict(request: Request) -> Response:
        _check_model(service, request)
        return await answer_instances(service, request)

    @routes.get(
        _V1,
        summary="KServe V1: whether the model is ready",
        tags=PROBES,
        responses=_states(Readiness) | _UNKNOWN,
        openapi_extra=by_name,
    )
    async def v1_ready(request: Request) -> Response:
        return await _readiness(service, request)


def _add_v2(routes: APIRouter, service: Service) -> None:
    by_name, by_version = _path(service, "name"), _path(service, "name", "version")

    @routes.get("/v2", summary="KServe V2: the server", response_model=ServerMetadata, tags=PROBES)
    async def v2_server(request: Request) -> Response:
        content = {"name": "textloop", "version": version("textloop")}
        return json_response(content | {"extensions": ["binary_tensor_data"]})

    @routes.get(
        "/v2/health/live",
        summary="KServe V2: the server is alive",
        response_model=dict[str, bool],
        tags=PROBES,
    )
    async def v2_live(request: Request) -> Response:
        return json_response({"live": True})

    @routes.get(
        "/v2/health/ready",
        summary="KServe V2: whether the server is ready",
        tags=PROBES,
        responses=_states(dict[str, bool]),
    )
    async def v2_ready(request: Request) -> Response:
        ready = await arm_of(request).is_ready()
        return json_response({"ready": ready}, 200 if ready else 503)

    metadata: dict[str, Any] = {
        "summary": "KServe V2: the model and its tensors",
        "responses": {200: {"model": ModelMetadata}, **_UNKNOWN},
    }

    @routes.get(_V2, openapi_extra=by_name, **metadata)
    @routes.get(_V2_VERSION, openapi_extra=by_version, **metadata)
    async def v2_model(request: Request) -> Response:
        _check_model(service, request)
        context = context_of(request)
        versions = list(context.arms.by_version)
        return json_response(describe(context.role.arm, versions, service.config))

    readiness: dict[str, Any] = {
        "summary": "KServe V2: whether the model is ready",
        "tags": PROBES,
        "responses": _states(Readiness) | _UNKNOWN,
    }

    @routes.get(f"{_V2}/ready", openapi_extra=by_name, **readiness)
    @routes.get(f"{_V2_VERSION}/ready", openapi_extra=by_version, **readiness)
    async def v2_model_ready(request: Request) -> Response:
        return await _readiness(service, request)

    binary = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    inference: dict[str, Any] = {
        "summary": "KServe V2: classify",
        "description": "Tensors are in JSON or, with the header "
        "Inference-Header-Content-Length, in bytes after it.",
        "responses": {200: {"model": InferResponse, "content": binary}, **ERRORS, **_UNKNOWN},
    }
    body = body_of("InferRequest")

    @routes.post(f"{_V2}/infer", openapi_extra=body | by_name, **inference)
    @routes.post(f"{_V2_VERSION}/infer", openapi_extra=body | by_version, **inference)
    async def v2_infer(request: Request) -> Response:
        _check_model(service, request)
        return await infer(service, request)


def describe(arm: Arm, versions: Sequence[str], config: ServeConfig) -> dict[str, Any]:
    """The model's metadata by the V2 protocol, with the order of the labels in `scores`.

    versions: those that may be addressed.
    """
    labels = list(arm.manifest.labels)
    names = INPUTS[: len(arm.manifest.text_columns)]
    per_label = {"shape": [-1, len(labels)], "parameters": {"labels": labels}}
    outputs: dict[str, dict[str, Any]] = {
        "label": {"datatype": "BYTES", "shape": [-1]},
        "scores": {"datatype": "FP32", **per_label},
        "predicted": {"datatype": "BOOL", **per_label},
    }
    return {
        "name": config.model_name,
        "versions": versions,
        "platform": "textloop",
        "inputs": [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in names],
        "outputs": [{"name": name, **outputs[name]} for name in _outputs(arm)],
    }


async def infer(service: Service, request: Request) -> Response:
    """Answer an inference request of the V2 protocol."""
    arm, config = arm_of(request), service.config
    names = INPUTS[: len(arm.manifest.text_columns)]
    parsed, rows = read_infer(
        await read_body(request, limit=config.max_body_bytes),
        request.headers.get(LENGTH),
        names=names,
        limit=config.max_texts_per_request,
    )
    if parsed.model_version and parsed.model_version != arm.version:
        raise _unknown("version", parsed.model_version, [arm.version])
    requested = requested_outputs(parsed, names=_outputs(arm))

    def field(number: int | None = None, part: int = 0) -> str:
        return names[part] if number is None else f"{names[part]}.{number}"

    options = parsed.parameters or InferParameters()
    asked_s = options.timeout / 1e6 if options.timeout else None
    try:
        async with asyncio.timeout(asked_s):
            result = await classify(
                service,
                request,
                checked_texts(arm, config, rows, field=field),
                field=field,
                activation=options.function_to_apply,
                truncation=options.truncation is not False,
                decide="predicted" in requested,
            )
    except TimeoutError:
        message = f"no response within the request's timeout of {options.timeout} microseconds"
        raise Unavailable(504, "timeout", message) from None
    outputs, raw = write_outputs(
        requested,
        result.scores_NC,
        arm.manifest.labels,
        predicted_NC=result.decision.predicted_NC if result.decision else None,
        first_N=result.first_N,
    )
    content = {"model_name": config.model_name, "model_version": arm.version}
    content |= {"id": parsed.id} if parsed.id is not None else {}
    header = pydantic_core.to_json(content | {"outputs": outputs})
    headers = timing(arm, result)
    if not raw:
        return Response(header, headers=headers, media_type="application/json")
    headers[LENGTH] = str(len(header))
    return Response(header + raw, headers=headers, media_type="application/octet-stream")
