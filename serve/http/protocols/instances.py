"""`{"instances": [...]}` to `{"predictions": [...]}`: Vertex AI and the V1 protocol of KServe.

An instance is a text, a pair of texts in a list, or an object that holds either.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from starlette.requests import Request
from starlette.responses import Response

from serve.http.protocols.checks import check_abstain, checked_texts
from serve.http.protocols.predict import timing, verdicts
from serve.http.schemas import Parameters, RequestError, Score, Verdict, parse
from serve.http.service import Service
from serve.http.wire import classify, json_response, read_body
from serve.inference.scores import ranked
from serve.inference.text import Text

_TEXT = {"type": "string", "minLength": 1}
_TEXTS = {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": 2}


def _object(required: str, **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": [required]}
    return schema | {"additionalProperties": False}


_INSTANCE = {
    "anyOf": [
        _TEXT,
        _TEXTS,
        _object("inputs", inputs={"anyOf": [_TEXT, _TEXTS]}),
        _object("text", text=_TEXT, text_pair=_TEXT),
    ],
    "description": "A text (which may stand in a list of its own), or for a model of text pairs "
    "a pair.",
}


class InstancesRequest(BaseModel):
    """The body of a prediction of Vertex AI, or of KServe V1."""

    model_config = ConfigDict(extra="forbid", strict=True)

    instances: list[Annotated[Any, WithJsonSchema(_INSTANCE)]] = Field(min_length=1)
    parameters: Parameters | None = None


class Predictions(BaseModel):
    """Labels of every instance, in the order of the instances; best first. Verdicts where
    `abstain` was asked for."""

    predictions: list[list[Score]] | list[Verdict]


def read_instances(
    service: Service, instances: list[Any], *, name: str
) -> tuple[list[Text], Callable[..., str]]:
    """The texts of instances, and how to name the one at a number.

    Raises RequestError 422 that names the field, such as `instances.3`, for name "instances".
    """
    values = [_value(instance, f"{name}.{n}") for n, instance in enumerate(instances)]

    def field(*path: int) -> str:
        parts: list[str | int] = [name, *path]
        if path and isinstance(instance := instances[path[0]], dict):
            if "inputs" in instance:
                parts.insert(2, "inputs")
            elif "text_pair" not in instance:
                parts[2:] = ["text"]
            else:
                parts[2:] = [("text", "text_pair")[part] for part in path[1:]]
        return ".".join(map(str, parts))

    return checked_texts(service, values, field=field), field


def _value(instance: Any, field: str) -> Any:
    """What a list in `inputs` of `/predict` would hold for an instance."""
    if not isinstance(instance, dict):
        return instance
    known = {"inputs"} if "inputs" in instance else {"text", "text_pair"}
    if unknown := instance.keys() - known:
        name = f"{field}.{min(unknown)}"
        raise RequestError(422, f"unknown field `{name}`", field=name)
    if "inputs" in instance:
        return instance["inputs"]
    for part in ("text", "text_pair")[: max(1, len(instance))]:
        if not isinstance(instance.get(part), str):
            message = f"field `{field}.{part}`: expected a string"
            raise RequestError(422, message, field=f"{field}.{part}")
    return [instance["text"], instance["text_pair"]] if len(instance) == 2 else instance["text"]


async def answer_instances(service: Service, request: Request) -> Response:
    """Answer `{"instances": [...], "parameters": {...}}`."""
    body = await read_body(request, limit=service.config.max_body_bytes)
    asked = parse(InstancesRequest, body)
    options = asked.parameters or Parameters()
    texts, field = read_instances(service, asked.instances, name="instances")
    if options.abstain:
        check_abstain(service)
    result = await classify(
        service,
        request,
        texts,
        field=field,
        activation=options.function_to_apply,
        truncation=options.truncation is not False,
        decide=bool(options.abstain),
    )
    predictions: list[Any] = ranked(result.scores_NC, service.manifest.labels, options.top_k)
    if options.abstain:
        predictions = [
            verdict | {"labels": labels}
            for verdict, labels in zip(verdicts(service, result), predictions, strict=True)
        ]
    return json_response({"predictions": predictions}, headers=timing(service, result))
