"""`POST /predict` and `GET /info`, as Hugging Face and text-embeddings-inference clients know them.

One text gets a flat list of labels, as from a pipeline and from text-embeddings-inference.
A list gets one such list per text, and so does any request of a client library of Hugging Face:
these take the first element of the answer for the list. They are known by `parameters`, which
the Python client sends, or by the name in their User-Agent; JavaScript's sends `parameters`
only if its caller does. With `"parameters": {"decide": true}` each list is part of an object that
states what is predicted and, if the bundle can abstain, whether the model does.
The labels are sorted by score, but for a binary model with a decision threshold: there the
predicted label comes first, since clients take the first one for the prediction.
A flat list of strings is a batch for a model of single texts; for a model of pairs, two
strings are one pair.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
import pydantic_core
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from serve.engine.status import read_status
from serve.http.arms.arm import Arm
from serve.http.arms.report import describe_arms
from serve.http.arms.roles import Arms
from serve.http.context import arm_of, context_of
from serve.http.parsing import parse
from serve.http.protocols.checks import check_parameters
from serve.http.protocols.texts import inputs_field, to_texts
from serve.http.schemas import ErrorBody, PredictRequest, Score, Verdict
from serve.http.service import Answer, Service
from serve.http.wire import (
    ERRORS,
    PlainRoute,
    body_of,
    classify,
    json_response,
    read_body,
)
from serve.inference.decision import Decision, Rules
from serve.inference.scores import ranked_json
from serve.settings import ServeConfig

BODIES = (PredictRequest,)

HUGGING_FACE = ("@huggingface/inference/", "hf_hub/")
"""What client libraries of Hugging Face call themselves, in JavaScript and in Python."""


def router(service: Service) -> APIRouter:
    """Build `/predict`, the same at `/` (where Hugging Face clients post), and `/info`."""
    routes = APIRouter(route_class=PlainRoute)

    @routes.post(
        "/predict",
        summary="Classify one text, or a list",
        openapi_extra=body_of("PredictRequest"),
        responses={200: {"model": list[Score] | list[list[Score]] | list[Verdict]}, **ERRORS},
    )
    @routes.post("/", summary="The same as /predict", include_in_schema=False)
    async def predict(request: Request) -> Response:
        return await answer(service, request)

    @routes.get(
        "/info",
        summary="The model and the limits of this server",
        responses={200: {"model": dict[str, Any]}, 401: {"model": ErrorBody}},
    )
    async def info(request: Request) -> Response:
        context = context_of(request)
        return json_response(describe(context.role.arm, context.arms, service.config))

    return routes


async def answer(service: Service, request: Request) -> Response:
    """Answer `{"inputs": ..., "parameters": {...}}` with labels and scores, or verdicts."""
    arm = arm_of(request)
    result, rows, single = await predict_rows(service, request)
    content = rows[0] if single else json_list(rows)
    return Response(content, headers=timing(arm, result), media_type="application/json")


async def predict_rows(service: Service, request: Request) -> tuple[Answer, list[bytes], bool]:
    """Read and classify a body of /predict: the answer, each text's in JSON, and whether the
    one text's is to stand alone."""
    arm, config = arm_of(request), service.config
    parsed = parse(PredictRequest, await read_body(request, limit=config.max_body_bytes))
    texts, single = to_texts(
        parsed.inputs, is_pair=arm.manifest.is_pair, limit=config.max_texts_per_request
    )
    check_parameters(arm, parsed.parameters)
    result = await classify(
        service,
        request,
        texts,
        field=lambda index: inputs_field() if single else inputs_field(index),
        activation=parsed.activation,
        truncation=parsed.truncation,
        side=parsed.truncation_side,
        decide=parsed.decides,
    )
    nested = parsed.parameters is not None or _is_hugging_face(request)
    return result, rows_of(arm, result, parsed.top_k), single and not nested


def _is_hugging_face(request: Request) -> bool:
    agent = request.headers.get("user-agent", "")
    return any(name in agent for name in HUGGING_FACE)


def rows_of(arm: Arm, result: Answer, top_k: int | None) -> list[bytes]:
    """Each text's labels in JSON; within a verdict where the answer has decisions."""
    rows = ranked_json(result.scores_NC, arm.json_heads, top_k, result.first_N)
    if result.decision is None:
        return rows
    return [
        pydantic_core.to_json(verdict)[:-1] + b',"labels":' + row + b"}"
        for verdict, row in zip(_verdicts(arm, result.decision), rows, strict=True)
    ]


def json_list(rows: list[bytes]) -> bytes:
    """A JSON list of items that are JSON already."""
    return b"[" + b",".join(rows) + b"]"


def _verdicts(arm: Arm, decision: Decision) -> list[dict[str, Any]]:
    """For each text what is predicted and with what confidence, and whether the model abstains."""
    labels = arm.manifest.labels
    verdicts: list[dict[str, Any]] = [
        {
            "confidence": confidence,
            "predicted": [labels[c] for c in np.flatnonzero(predicted_C)],
        }
        for confidence, predicted_C in zip(
            decision.confidence_N.tolist(), decision.predicted_NC, strict=True
        )
    ]
    if decision.abstain_N is None:
        return verdicts
    return [
        {"abstain": abstain, **verdict}
        for abstain, verdict in zip(decision.abstain_N.tolist(), verdicts, strict=True)
    ]


def timing(arm: Arm, result: Answer) -> dict[str, str]:
    """The timing headers of text-embeddings-inference, in whole milliseconds."""
    total_s = result.tokenize_s + result.queue_s + result.compute_s
    times = {
        "x-compute-time": total_s,
        "x-total-time": total_s,
        "x-tokenization-time": result.tokenize_s,
        "x-queue-time": result.queue_s,
        "x-inference-time": result.compute_s,
    }
    return {
        "x-compute-type": f"{arm.device}+{arm.backend}",
        "x-compute-characters": str(result.characters),
        "x-compute-tokens": str(result.tokens),
        **{name: str(round(seconds * 1e3)) for name, seconds in times.items()},
    }


def _decision(rules: Rules) -> dict[str, Any] | None:
    """How the served backend decides between the two labels of a binary model with a threshold."""
    if rules.binary is None:
        return None
    return {
        "positive_label": rules.binary.positive_label,
        "threshold": 0.5 if rules.threshold is None else rules.threshold,
        "reason": rules.binary.reason,
    }


def describe(arm: Arm, arms: Arms, config: ServeConfig) -> dict[str, Any]:
    """The body of /info: the model, its backend, and the limits; Textloop's own fields first."""
    manifest = arm.manifest
    labels = manifest.labels
    status = read_status(arm.pool.paths) or {}
    return {
        "model_version": arm.version,
        **describe_arms(arms),
        "base_model": manifest.base_model,
        "task": manifest.task,
        "labels": labels,
        "text_columns": manifest.text_columns,
        "max_length": manifest.max_length,
        "metrics": {
            split: {name: metric.model_dump() for name, metric in metrics.items()}
            for split, metrics in manifest.metrics.items()
        },
        "int8": manifest.int8.model_dump() if manifest.int8 else None,
        "calibration": manifest.calibration.model_dump() if manifest.calibration else None,
        "decision": _decision(arm.rules),
        "created": manifest.created,
        "backend": arm.backend,
        "backend_reason": arm.backend_reason,
        "device": arm.device,
        "model_processes": len(arm.pool.paths),
        "packed": status.get("packed"),
        "packed_reason": status.get("packed_reason"),
        "limits": {
            "max_body_bytes": config.max_body_bytes,
            "max_texts_per_request": config.max_texts_per_request,
            "max_text_characters": config.max_text_characters,
            "max_queue_tokens": arm.pool.admission.limit * config.api_processes,
            "timeout_s": config.timeout_s,
        },
        "textloop_version": version("textloop"),
        # The names of text-embeddings-inference.
        "model_id": config.model_name,
        "model_sha": arm.version,
        "model_dtype": arm.precision,
        "served_model_name": config.model_name,
        "model_type": {
            "classifier": {
                "id2label": {str(number): label for number, label in enumerate(labels)},
                "label2id": {label: number for number, label in enumerate(labels)},
            }
        },
        "max_concurrent_requests": arm.pool.admission.limit * config.api_processes,
        "max_input_length": manifest.max_length,
        "max_batch_tokens": status.get("max_batch_tokens"),
        "max_batch_requests": None,
        "max_client_batch_size": config.max_texts_per_request,
        "auto_truncate": True,
        "tokenization_workers": config.api_processes,
        "version": version("textloop"),
        "sha": manifest.code_revision,
        "docker_label": None,
    }
