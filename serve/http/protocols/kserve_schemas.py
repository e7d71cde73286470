"""Request and response bodies of KServe, mostly those of V2, the Open Inference Protocol."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from serve.http.schemas import ALONE, TEXT
from serve.inference.scores import Activation

INPUTS = ("text", "text_pair")
"""Names of the input tensors; a model of single texts takes the first alone."""

OUTPUTS = ("label", "scores")
"""Names of the output tensors."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


_DATA = {"type": "array", "items": {"anyOf": [TEXT, ALONE]}, "minItems": 1}
_InputName = Annotated[str, WithJsonSchema({"type": "string", "enum": list(INPUTS)})]
_OutputName = Annotated[str, WithJsonSchema({"type": "string", "enum": list(OUTPUTS)})]
_Size = Annotated[int, Field(ge=0, le=2**53)]


class InputParameters(_Strict):
    """How an input tensor is sent."""

    binary_data_size: _Size | None = Field(
        default=None, description="Bytes of the tensor after the JSON, where it has no `data`."
    )


class InputTensor(_Strict):
    """Texts: the input `text`, and for a model of text pairs also `text_pair`."""

    name: _InputName
    shape: list[_Size] = Field(
        min_length=1, max_length=2, fail_fast=True, description="[N] or [N, 1]."
    )
    datatype: Literal["BYTES"]
    data: Annotated[Any, WithJsonSchema(_DATA)] = None
    parameters: InputParameters | None = None


class OutputParameters(_Strict):
    """How an output tensor is sent."""

    binary_data: bool | None = Field(
        default=None, description="Send the tensor in bytes after the JSON."
    )


class RequestedOutput(_Strict):
    """A requested output tensor: `label` or `scores`."""

    name: _OutputName
    parameters: OutputParameters | None = None


class InferParameters(_Strict):
    """Parameters of an inference; the last two as for /predict."""

    binary_data_output: bool | None = Field(
        default=None, description="Send outputs in bytes unless an output states otherwise."
    )
    function_to_apply: Activation | None = None
    truncation: bool | None = None


class InferRequest(_Strict):
    """The body of an inference request, or the JSON at its start."""

    id: str | None = Field(default=None, description="Returned in the response.")
    parameters: InferParameters | None = None
    inputs: list[InputTensor] = Field(min_length=1, fail_fast=True)
    outputs: list[RequestedOutput] | None = Field(
        default=None, fail_fast=True, description="Requested outputs; all by default."
    )


class OutputTensor(BaseModel):
    """`label` of shape [N], the best of each text, or `scores` of shape [N, C], row by row."""

    name: str
    shape: list[int]
    datatype: str
    data: list[str] | list[float] | None = None
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
