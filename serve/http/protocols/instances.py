"""`{"instances": [...]}` to `{"predictions": [...]}`: Vertex AI and the V1 protocol of KServe.

An instance is a text, a pair of texts in a list, or an object that holds either. Other fields of
such an object are the caller's own, such as an id or the columns of a table, and are not read.
Those that look like a field of ours are refused, since they would change the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from starlette.requests import Request
from starlette.responses import Response

from serve.http.arms.arm import Arm
from serve.http.context import arm_of
from serve.http.parsing import parse
from serve.http.protocols.checks import check_parameters, checked_texts
from serve.http.protocols.predict import json_list, rows_of, timing
from serve.http.protocols.texts import PARTS
from serve.http.schemas import TEXT, Parameters, PredictRequest, RequestError, Score, Verdict
from serve.http.service import Service
from serve.http.wire import classify, read_body
from serve.inference.text import Text
from serve.language.spelling import did_you_mean, shown
from serve.settings import ServeConfig

_TEXTS = {"type": "array", "items": TEXT, "minItems": 1, "maxItems": 2}


def _object(required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [required]}


_INSTANCE = {
    "anyOf": [
        TEXT,
        _TEXTS,
        _object("inputs", inputs={"anyOf": [TEXT, _TEXTS]}),
        _object("text", text=TEXT, text_pair=TEXT),
    ],
    "description": "A text (which may be in a list of its own), or for a model of text pairs a "
    "pair. Other fields of an object, such as an id, are not read.",
}

_FIELDS = frozenset({"inputs", *PARTS})
_SETTINGS = (Parameters.model_fields.keys() | PredictRequest.model_fields.keys()) - {
    *_FIELDS,
    *("options", "padding"),  # without an effect anywhere
}
"""Fields that belong beside the instances; in one of them they would have no effect."""


class InstancesRequest(BaseModel):
    """The body of a prediction request of Vertex AI, or of KServe V1."""

    model_config = ConfigDict(extra="forbid", strict=True)

    instances: list[Annotated[Any, WithJsonSchema(_INSTANCE)]] = Field(min_length=1)
    parameters: Parameters | None = None
    signature_name: str | None = Field(
        default=None, description="Sent by clients of TensorFlow Serving; there is one signature."
    )


class Predictions(BaseModel):
    """Labels of every instance, best first, in the order of the instances; verdicts where
    `decide` or `abstain` is requested."""

    predictions: list[list[Score]] | list[Verdict]


def read_instances(
    arm: Arm, config: ServeConfig, instances: list[Any], *, name: str
) -> tuple[list[Text], Callable[..., str]]:
    """Check the texts of instances; also return how to name the one at an index.

    Raises RequestError 422 that names the field, such as `instances.3`, for name "instances".
    """
    values = [_value(instance, f"{name}.{n}") for n, instance in enumerate(instances)]

    def field(*path: int | str) -> str:
        if not path:
            return name
        number = int(path[0])
        return ".".join([name, str(number), *_keys(instances[number], path[1:])])

    return checked_texts(arm, config, values, field=field), field


def _keys(instance: Any, path: Sequence[int | str]) -> list[str]:
    """The names within an instance of a part of its value, as `_value` makes it."""
    parts = list(map(str, path))
    if not isinstance(instance, dict):
        return parts
    if "inputs" in instance:
        return ["inputs", *parts]
    return parts if parts or "text_pair" in instance else ["text"]


def _value(instance: Any, field: str) -> Any:
    """The value that stands for an instance in a list of `inputs` of /predict."""
    if not isinstance(instance, dict):
        return instance
    own = {"inputs"} if "inputs" in instance else set(PARTS)
    if others := instance.keys() - own:
        _check_others(others, field)
    if "inputs" in instance:
        return instance["inputs"]
    if "text" not in instance:
        message = f"field `{field}.text`: expected a string"
        raise RequestError(422, message, field=f"{field}.text")
    return {part: instance[part] for part in PARTS if part in instance}


def _check_others(names: set[str], field: str) -> None:
    """Raise RequestError 422 if fields of an instance would have an effect elsewhere."""
    for name in sorted(names):
        wrong = f"{field}.{shown(name)}"
        if name in _SETTINGS:
            message = f"unknown field `{wrong}`; it belongs beside the instances"
        elif name in _FIELDS:
            message = f"unknown field `{wrong}` beside `inputs`"
        elif hint := did_you_mean(name, _FIELDS, cutoff=0.9):
            message = f"unknown field `{wrong}`{hint}"
        else:
            continue
        raise RequestError(422, message, field=wrong)


async def answer_instances(service: Service, request: Request) -> Response:
    """Answer `{"instances": [...], "parameters": {...}}`."""
    arm, config = arm_of(request), service.config
    parsed = parse(InstancesRequest, await read_body(request, limit=config.max_body_bytes))
    options = parsed.parameters or Parameters()
    texts, field = read_instances(arm, config, parsed.instances, name="instances")
    check_parameters(arm, options)
    result = await classify(
        service,
        request,
        texts,
        field=field,
        activation=options.function_to_apply,
        truncation=options.truncation is not False,
        decide=options.decides,
    )
    content = b'{"predictions":' + json_list(rows_of(arm, result, options.num_labels)) + b"}"
    return Response(content, headers=timing(arm, result), media_type="application/json")
