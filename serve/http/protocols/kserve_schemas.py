"""Request and response bodies of KServe, mostly those of V2, the Open Inference Protocol.

V2 lets anybody add fields and parameters, so those that are not ours are not read. What would
change the answer is never among them: a name that is nearly one of ours is refused, and so is
each extension that this server does not have.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic.json_schema import SkipJsonSchema

from serve.http.schemas import ALONE, TEXT
from serve.inference.scores import Activation
from serve.language.spelling import did_you_mean, shown

INPUTS = ("text", "text_pair")
"""Names of the input tensors; a model of single texts takes the first alone."""

OUTPUTS = ("label", "scores", "predicted")
"""Names of the output tensors; only a multi-label model has the last."""


class _Open(BaseModel):
    """An object of the protocol; other fields than its own are the caller's."""

    model_config = ConfigDict(extra="allow", strict=True)

    refused: ClassVar[dict[str, str]] = {}
    """Fields that would change the answer, and the reason or remedy."""

    @model_validator(mode="after")
    def _check_others(self) -> Self:
        others = self.model_extra or {}
        if len(others) > MAX_OTHERS:
            raise ValueError(f"{len(others)} unknown fields, more than {MAX_OTHERS}")
        for name in others:
            if name in self.refused:
                raise ValueError(f"`{name}` is not supported; {self.refused[name]}")
            if hint := did_you_mean(name, type(self).model_fields, cutoff=0.85):
                raise ValueError(f"unknown field `{shown(name)}`{hint}")
        return self


MAX_OTHERS = 100
"""Fields of an object that are not ours; more are refused."""

_SHARED_MEMORY = dict.fromkeys(
    ["shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"],
    "send and receive tensors in the body",
)


_DATA = {"type": "array", "items": {"anyOf": [TEXT, ALONE]}, "minItems": 1}
_InputName = Annotated[str, WithJsonSchema({"type": "string", "enum": list(INPUTS)})]
_OutputName = Annotated[str, WithJsonSchema({"type": "string", "enum": list(OUTPUTS)})]
_ContentType = Literal["str", "np", "pd", "hg_json"]
"""How MLServer's clients say that texts are encoded; these all send them as they are."""

_Size = Annotated[int, Field(ge=0, le=2**53)]


class InputParameters(_Open):
    """How an input tensor is sent."""

    refused = _SHARED_MEMORY

    binary_data_size: _Size | None = Field(
        default=None, description="Bytes of the tensor after the JSON, where it has no `data`."
    )
    content_type: _ContentType | None = None


class InputTensor(_Open):
    """Texts: the input `text`, and for a model of text pairs also `text_pair`."""

    name: _InputName
    shape: list[_Size] = Field(
        min_length=1, max_length=2, fail_fast=True, description="[N] or [N, 1]."
    )
    datatype: Literal["BYTES"]
    data: Annotated[Any, WithJsonSchema(_DATA)] = None
    parameters: InputParameters | None = None


class OutputParameters(_Open):
    """How an output tensor is sent."""

    refused = _SHARED_MEMORY

    binary_data: bool | None = Field(
        default=None, description="Send the tensor in bytes after the JSON."
    )
    classification: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="For `scores`: as BYTES of shape [N, this number], best first, each "
        "`score:column:label`.",
    )


class RequestedOutput(_Open):
    """A requested output tensor: `label`, `scores` or, of a multi-label model, `predicted`."""

    name: _OutputName
    parameters: OutputParameters | None = None


class InferParameters(_Open):
    """Parameters of an inference; two are as for /predict.

    Those that schedule a request elsewhere, such as `priority` and `sequence_id`, are not read:
    each request is answered by itself, in the order of the server's queue.
    """

    refused = {
        "top_k": "request the output `scores` with the parameter `classification`",
        "return_all_scores": "`scores` holds all labels",
        "raw_scores": "send `function_to_apply`",
        "truncate": "send `truncation`",
        "truncation_direction": "only /predict has it",
        "decide": "only /predict has it; `predicted` of a multi-label model is the same",
        "abstain": "only /predict and the V1 protocol have it",
        "max_length": "the model's own applies",
    }

    binary_data_output: bool | None = Field(
        default=None, description="Send outputs in bytes unless an output states otherwise."
    )
    content_type: _ContentType | None = None
    # Not in the OpenAPI document: any value under what an answer takes gets 504.
    timeout: SkipJsonSchema[Annotated[int, Field(ge=0, le=2**63)] | None] = None
    """Microseconds until 504, where the server's own limit is longer; 0 for that limit."""

    function_to_apply: Activation | None = None
    truncation: bool | None = None


class InferRequest(_Open):
    """The body of an inference request, or the JSON at its start.

    KServe's SDK repeats the model's name here, but that in the path counts.
    """

    model_version: str | None = Field(
        default=None, description="If any, the version that is served; else 404, as in the path."
    )
    id: str | None = Field(default=None, description="Returned in the response.")
    parameters: InferParameters | None = None
    inputs: list[InputTensor] = Field(min_length=1, fail_fast=True)
    outputs: list[RequestedOutput] | None = Field(
        default=None,
        fail_fast=True,
        description="Requested outputs; `label` and `scores` by default.",
    )


class OutputTensor(BaseModel):
    """`label` of shape [N], the predicted one or of a multi-label model that of the highest
    score, or one of shape [N, C], row by row:
    `scores`, or `predicted`, the decisions of a multi-label model."""

    name: str
    shape: list[int]
    datatype: str
    data: list[str] | list[float] | list[bool] | None = None
    parameters: dict[str, int] | None = None


class InferResponse(BaseModel):
    """The response to an inference request, or the JSON at its start."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


class Readiness(BaseModel):
    """Whether a model is ready."""

    name: str
    ready: bool


class TensorMetadata(BaseModel):
    """A tensor; -1 in its shape stands for the number of texts.

    parameters: for `scores`, the labels in the order of their columns.
    """

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, list[str]] | None = None


class ModelMetadata(BaseModel):
    """A model and its tensors."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ServerMetadata(BaseModel):
    """The server and the protocol extensions that it supports."""

    name: str
    version: str
    extensions: list[str]
