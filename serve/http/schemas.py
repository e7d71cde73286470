"""Request and response bodies of `POST /predict`, and the error of an invalid request.

An invalid request raises `RequestError` with a 4xx status, the path of the offending field
and, where there is one, the limit.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from serve.inference.scores import Activation
from serve.language.spelling import shown


class RequestError(Exception):
    """An invalid request: its status, message, field and kind of error."""

    def __init__(
        self, status: int, message: str, *, field: str | None = None, kind: str = "Validation"
    ) -> None:
        super().__init__(message)
        self.status = status
        self.field = field
        self.kind = kind


class ErrorBody(BaseModel):
    """The body of every error response."""

    error: str = Field(description="What is wrong, with the value and the remedy.")
    error_type: str = Field(
        description="Validation, Tokenizer, Overloaded, Unhealthy, Backend or Unauthorized."
    )
    field: str | None = Field(default=None, description="Path of the offending field.")


class Score(BaseModel):
    """One label of one text."""

    label: str
    score: float


class Verdict(BaseModel):
    """The prediction for one text where `decide` or `abstain` is requested."""

    abstain: bool | None = Field(
        default=None,
        description="True if the confidence is below the bundle's abstention threshold; absent if "
        "the bundle has none.",
    )
    confidence: float = Field(description="Confidence in `predicted`, in [0, 1].")
    predicted: list[str] = Field(
        description="The predicted label, or for multi-label models all of them."
    )
    labels: list[Score] = Field(description="Labels and scores, best first.")


_STRATEGIES = {"longest_first": True, "do_not_truncate": False}
"""Truncation strategies of transformers, as the booleans that they mean here."""

_TRUNCATION = {"anyOf": [{"type": "boolean"}, {"enum": list(_STRATEGIES)}, {"type": "null"}]}


class Parameters(BaseModel):
    """Parameters of a prediction, named as in the Hugging Face text-classification task."""

    model_config = ConfigDict(extra="forbid", strict=True)

    top_k: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Number of labels per text, best first; all by default."
    )
    function_to_apply: Literal["softmax", "sigmoid", "none"] | None = Field(
        default=None,
        description="From logits to scores; sigmoid for multi-label models, else softmax.",
    )
    truncation: Annotated[bool | None, WithJsonSchema(_TRUNCATION)] = Field(
        default=None,
        description="Truncate texts that are too long (true or longest_first, the default) or "
        "refuse them (false or do_not_truncate).",
    )
    max_length: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="At least the model's own maximum, which applies; less is refused.",
    )
    padding: bool | str | None = Field(
        default=None, description="Accepted from pipelines; scores do not depend on it."
    )
    return_all_scores: bool | None = Field(
        default=None, description="The older name: true for all labels, false for the best one."
    )
    decide: bool | None = Field(
        default=None,
        description="Report for each text what is predicted, for multi-label models by the "
        "bundle's thresholds.",
    )
    abstain: bool | None = Field(
        default=None,
        description="As decide; the bundle must have an abstention threshold.",
    )

    @field_validator("truncation", mode="before")
    @classmethod
    def _strategy(cls, value: Any) -> Any:
        if isinstance(value, str):
            if value not in _STRATEGIES:
                names = " or ".join(_STRATEGIES)
                raise ValueError(f"expected true, false, {names}, got {shown(value, 40)!r}")
            return _STRATEGIES[value]
        return value

    @model_validator(mode="after")
    def _one_number_of_labels(self) -> Self:
        if self.top_k is not None and self.return_all_scores is not None:
            raise ValueError("top_k and return_all_scores say the same; send one of them")
        return self

    @property
    def num_labels(self) -> int | None:
        """The requested number of labels, None for all."""
        return 1 if self.return_all_scores is False else self.top_k

    @property
    def decides(self) -> bool:
        """Whether predictions are requested in addition to scores."""
        return bool(self.decide or self.abstain)


class Options(BaseModel):
    """Options of the hosted inference API: how it runs a model, which is settled here."""

    model_config = ConfigDict(extra="forbid", strict=True)

    use_cache: bool | None = None
    wait_for_model: bool | None = None
    use_gpu: bool | None = None
    dont_load_model: bool | None = None


TEXT = {"type": "string", "pattern": r"\S"}
"""JSON schema of a text: it holds more than white space."""

ALONE = {"type": "array", "items": TEXT, "minItems": 1, "maxItems": 1}
"""JSON schema of a text in a list of its own."""

_PAIR = {"type": "array", "items": TEXT, "minItems": 2, "maxItems": 2}

_OBJECTS: dict[bool, dict[str, Any]] = {
    is_pair: {
        "type": "object",
        "properties": dict.fromkeys(names, TEXT),
        "required": names,
        "additionalProperties": False,
    }
    for is_pair, names in ((False, ["text"]), (True, ["text", "text_pair"]))
}
"""JSON schema of a text or pair in an object, as pipelines take it."""

INPUTS: dict[bool, dict[str, Any]] = {
    False: {
        "anyOf": [
            TEXT,
            _OBJECTS[False],
            {"type": "array", "items": {"anyOf": [TEXT, ALONE, _OBJECTS[False]]}, "minItems": 1},
        ],
        "description": "A text or a list of texts; each may be in a list or object of its own.",
    },
    True: {
        "anyOf": [
            {"type": "array", "items": {"anyOf": [_PAIR, _OBJECTS[True]]}, "minItems": 1},
            _PAIR,
            _OBJECTS[True],
        ],
        "description": "A list of pairs of texts, each a list or an object, or one pair.",
    },
}
"""JSON schema of `inputs`, by whether the model takes pairs."""


class PredictRequest(BaseModel):
    """The body of `POST /predict`.

    Hugging Face clients send `parameters` and `options`; the three fields after them are those
    of text-embeddings-inference.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    # Checked by `to_texts`: the errors of a union would not name the text.
    inputs: Any
    parameters: Parameters | None = None
    options: Options | None = None
    truncate: bool | None = Field(
        default=None, description="Truncate texts that are too long (the default) or refuse them."
    )
    truncation_direction: Literal["Left", "Right", "left", "right"] | None = Field(
        default=None, description="Side to truncate; the tokenizer's own by default."
    )
    raw_scores: bool | None = Field(default=None, description="Return logits instead of scores.")

    @property
    def activation(self) -> Activation | None:
        """The requested activation, None for the model's own."""
        if self.raw_scores:
            return "none"
        return self.parameters.function_to_apply if self.parameters else None

    @property
    def top_k(self) -> int | None:
        """The requested number of labels, None for all."""
        return self.parameters.num_labels if self.parameters else None

    @property
    def decides(self) -> bool:
        """Whether predictions are requested in addition to scores."""
        return bool(self.parameters and self.parameters.decides)

    @property
    def truncation(self) -> bool:
        """Whether long texts are truncated."""
        requested = self.parameters.truncation if self.parameters else None
        return self.truncate is not False and requested is not False

    @property
    def truncation_side(self) -> str | None:
        """The side to truncate: left or right, None for the tokenizer's own."""
        return self.truncation_direction.lower() if self.truncation_direction else None
