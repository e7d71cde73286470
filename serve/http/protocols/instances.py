"""`{"instances": [...]}` to `{"predictions": [...]}`: Vertex AI and the V1 protocol of KServe.

An instance is a text, a pair of texts in a list, or an object that holds either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from starlette.requests import Request
from starlette.responses import Response

from serve.http.arm import Arm
from serve.http.context import arm_of
from serve.http.protocols.checks import check_abstain, checked_texts
from serve.http.protocols.predict import json_list, rows_of, timing
from serve.http.schemas import TEXT, Parameters, RequestError, Score, Verdict, parse
from serve.http.service import Service
from serve.http.wire import classify, read_body
from serve.inference.text import Text
from serve.settings import ServeConfig

_TEXTS = {"type": "array", "items": TEXT, "minItems": 1, "maxItems": 2}


def _object(required: str, **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": [required]}
    return schema | {"additionalProperties": False}


_INSTANCE = {
    "anyOf": [
        TEXT,
        _TEXTS,
        _object("inputs", inputs={"anyOf": [TEXT, _TEXTS]}),
        _object("text", text=TEXT, text_pair=TEXT),
    ],
    "description": "A text (which may be in a list of its own), or for a model of text pairs a "
    "pair.",
}


class InstancesRequest(BaseModel):
    """The body of a prediction request of Vertex AI, or of KServe V1."""

    model_config = ConfigDict(extra="forbid", strict=True)

    instances: list[Annotated[Any, WithJsonSchema(_INSTANCE)]] = Field(min_length=1)
    parameters: Parameters | None = None


class Predictions(BaseModel):
    """Labels of every instance, best first, in the order of the instances; verdicts where
    `abstain` is requested."""

    predictions: list[list[Score]] | list[Verdict]


def read_instances(
    arm: Arm, config: ServeConfig, instances: list[Any], *, name: str
) -> tuple[list[Text], Callable[..., str]]:
    """Check the texts of instances; also return how to name the one at an index.

    Raises RequestError 422 that names the field, such as `instances.3`, for name "instances".
    """
    values = [_value(instance, f"{name}.{n}") for n, instance in enumerate(instances)]

    def field(*path: int) -> str:
        if not path:
            return name
        return ".".join([name, str(path[0]), *_keys(instances[path[0]], path[1:])])

    return checked_texts(arm, config, values, field=field), field


def _keys(instance: Any, path: Sequence[int]) -> list[str]:
    """The names within an instance of a part of its value, as `_value` makes it."""
    if not isinstance(instance, dict):
        return list(map(str, path))
    if "inputs" in instance:
        return ["inputs", *map(str, path)]
    if "text_pair" in instance:
        return [("text", "text_pair")[part] for part in path]
    return ["text"]


def _value(instance: Any, field: str) -> Any:
    """The value that stands for an instance in a list of `inputs` of /predict."""
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
    arm, config = arm_of(request), service.config
    parsed = parse(InstancesRequest, await read_body(request, limit=config.max_body_bytes))
    options = parsed.parameters or Parameters()
    texts, field = read_instances(arm, config, parsed.instances, name="instances")
    if options.abstain:
        check_abstain(arm)
    result = await classify(
        service,
        request,
        texts,
        field=field,
        activation=options.function_to_apply,
        truncation=options.truncation is not False,
        decide=bool(options.abstain),
    )
    content = b'{"predictions":' + json_list(rows_of(arm, result, options.top_k)) + b"}"
    return Response(content, headers=timing(arm, result), media_type="application/json")
