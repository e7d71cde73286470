"""Types of keys that name columns or classes; a single name need not be in a list.

And the prefix by which a base names a bundle.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator

BUNDLE = "bundle:"
"""Prefix of a `model.base` that is a bundle of Textloop."""


def _one_name(value: Any) -> Any:
    """Turn a number into the name that YAML read it from."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_number else value


def _one_label(value: Any) -> Any:
    """Turn a number or a boolean into the label that it means, as `string_keys` does."""
    return str(value).lower() if isinstance(value, bool) else _one_name(value)


def _names(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_one_name(item) for item in value)
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return (_one_name(value),)
    return value


def string_keys(value: Any) -> Any:
    """Turn keys into the labels that they mean: YAML reads 0 as a number, true as a boolean."""
    if not isinstance(value, dict):
        return value
    return {str(k).lower() if isinstance(k, bool) else str(k): v for k, v in value.items()}


Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
"""Names; a bare name is a list of one."""

Label = Annotated[str, BeforeValidator(_one_label)]
"""One label."""

Name = Annotated[str, BeforeValidator(_one_name)]
"""One name."""

PREDICTION_COLUMNS = (
    "row",
    "text",
    "text_pair",
    "label",
    "predicted",
    "correct",
    "confidence",
    "abstain",
)
"""Columns of `predictions.parquet`, before one column of probabilities per label."""


def free_in_predictions(columns: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse names of columns that `predictions.parquet` has itself."""
    for column in columns:
        if column in PREDICTION_COLUMNS or column.startswith("p:"):
            raise ValueError(
                f"`id_columns` names `{column}`, a column that predictions.parquet has itself; "
                f"rename it in the data (taken: {', '.join(PREDICTION_COLUMNS)}, p:LABEL)"
            )
    return columns
