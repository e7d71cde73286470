"""Request and response bodies of `POST /predict`, and validation of requests.

An invalid request raises `RequestError` with a 4xx status, the path of the offending field
and, where there is one, the limit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serve.inference.scores import Activation
from serve.inference.text import Text, text_problem


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
    """The prediction for one text where `abstain` is requested."""

    abstain: bool = Field(
        description="True if the confidence is below the bundle's abstention threshold."
    )
    confidence: float = Field(description="Confidence in `predicted`, in [0, 1].")
    predicted: list[str] = Field(
        description="The predicted label, or for multi-label models all of them."
    )
    labels: list[Score] = Field(description="Labels and scores, best first.")


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
    truncation: bool | None = Field(
        default=None, description="Truncate texts that are too long (the default) or refuse them."
    )
    abstain: bool | None = Field(
        default=None,
        description="Report for each text whether the model abstains, by the bundle's threshold.",
    )


TEXT = {"type": "string", "pattern": r"\S"}
"""JSON schema of a text: it holds more than white space."""

ALONE = {"type": "array", "items": TEXT, "minItems": 1, "maxItems": 1}
"""JSON schema of a text in a list of its own."""

_PAIR = {"type": "array", "items": TEXT, "minItems": 2, "maxItems": 2}

INPUTS: dict[bool, dict[str, Any]] = {
    False: {
        "anyOf": [
            TEXT,
            {"type": "array", "items": TEXT, "minItems": 1},
            {"type": "array", "items": ALONE, "minItems": 1},
        ],
        "description": "A text or a list of texts; each may be in a list of its own.",
    },
    True: {
        "anyOf": [{"type": "array", "items": _PAIR, "minItems": 1}, _PAIR],
        "description": "A list of pairs of texts, or one pair as a flat list of two texts.",
    },
}
"""JSON schema of `inputs`, by whether the model takes pairs."""

MAX_ERRORS = 100
"""Errors of a body up to which the first is named: listing more takes as long as a prediction."""

Body = TypeVar("Body", bound=BaseModel)


class PredictRequest(BaseModel):
    """The body of `POST /predict`.

    Hugging Face clients send `parameters`; the three fields after it are those of
    text-embeddings-inference.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    # Checked by `to_texts`: the errors of a union would not name the text.
    inputs: Any
    parameters: Parameters | None = None
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
        return self.parameters.top_k if self.parameters else None

    @property
    def abstain(self) -> bool:
        """Whether abstention is requested."""
        return bool(self.parameters and self.parameters.abstain)

    @property
    def truncation(self) -> bool:
        """Whether long texts are truncated."""
        requested = self.parameters.truncation if self.parameters else None
        return self.truncate is not False and requested is not False

    @property
    def truncation_side(self) -> str | None:
        """The side to truncate: left or right, None for the tokenizer's own."""
        return self.truncation_direction.lower() if self.truncation_direction else None


def parse(model: type[Body], body: bytes) -> Body:
    """Parse a body; RequestError 400 if it is not JSON, 422 if it does not fit the schema."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        if (count := error.error_count()) > MAX_ERRORS:
            raise RequestError(422, f"{count} fields are unknown or invalid") from None
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        if first["type"] == "json_invalid":
            raise RequestError(400, f"the body is not valid JSON: {first['msg']}") from None
        field = ".".join(str(part) for part in first["loc"]) or None
        if field is None:
            message = 'the body must be a JSON object such as {"inputs": "a text"}'
        elif first["type"] == "missing":
            message = f"field `{field}` is required"
        elif first["type"] == "extra_forbidden":
            message = f"unknown field `{field}`"
        else:
            message = f"field `{field}`: {first['msg']}"
        raise RequestError(422, message, field=field) from None


def inputs_field(*path: int) -> str:
    """The name of `inputs` of /predict, of the text at an index, or of a part of that text."""
    return ".".join(["inputs", *map(str, path)])


def to_texts(inputs: Any, *, is_pair: bool, limit: int) -> tuple[list[Text], bool]:
    """Check `inputs` of /predict: its texts, and whether it was one text rather than a list.

    limit: maximum number of texts. Raises RequestError 422 that names the field, such as
    `inputs.3` or `inputs.3.1`.
    """
    flat_pair = (
        is_pair
        and isinstance(inputs, list)
        and len(inputs) == 2
        and all(isinstance(part, str) for part in inputs)
    )
    if isinstance(inputs, str) or flat_pair:
        return [_to_text(inputs, (), inputs_field, is_pair=is_pair)], True
    if not isinstance(inputs, list):
        expected = "a list of pairs of texts" if is_pair else "a string or a list of strings"
        raise _invalid(inputs_field(), f"expected {expected}, got {_kind(inputs)}")
    return list_of_texts(inputs, is_pair=is_pair, limit=limit, field=inputs_field), False


def list_of_texts(
    values: list[Any], *, is_pair: bool, limit: int, field: Callable[..., str]
) -> list[Text]:
    """Check a list of texts or pairs, one per value.

    limit: maximum number of texts. field: the name of the list, of the value at an index, or
    of a part of that value, each given as numbers. Raises RequestError 422 that names it.
    """
    if not values:
        raise _invalid(field(), "the list is empty")
    if len(values) > limit:
        raise _invalid(
            field(),
            f"{len(values)} texts, over the limit of {limit} texts; send several requests",
        )
    return [_to_text(value, (n,), field, is_pair=is_pair) for n, value in enumerate(values)]


def _to_text(
    value: Any, path: tuple[int, ...], field: Callable[..., str], *, is_pair: bool
) -> Text:
    if not is_pair:
        if isinstance(value, list) and len(value) == 1:
            value, path = value[0], (*path, 0)
        _check(value, path, field)
        return str(value)
    if not isinstance(value, list) or len(value) != 2:
        raise _invalid(
            field(*path),
            f"this model classifies pairs, expected [text, text_pair], got {_kind(value)}",
        )
    for part, text in enumerate(value):
        _check(text, (*path, part), field)
    return (value[0], value[1])


def _check(value: Any, path: tuple[int, ...], field: Callable[..., str]) -> None:
    if isinstance(value, str):
        problem = text_problem(value)
    else:
        problem = f"expected a string, got {_kind(value)}"
    if problem:
        raise _invalid(field(*path), problem)


def _invalid(name: str, problem: str) -> RequestError:
    return RequestError(422, f"field `{name}`: {problem}", field=name)


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return f"a list of {len(value)}"
    names = {str: "a string", bool: "a boolean", dict: "an object", type(None): "null"}
    return names.get(type(value), "a number")
