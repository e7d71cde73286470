"""Checks that several protocols share: texts under any field name, their number, parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from serve.http.arms.arm import Arm
from serve.http.protocols.texts import list_of_texts
from serve.http.schemas import Parameters, RequestError
from serve.inference.text import Text
from serve.settings import ServeConfig


def checked_texts(
    arm: Arm, config: ServeConfig, values: list[Any], *, field: Callable[..., str]
) -> list[Text]:
    """Check a list of texts or pairs by the rules of `inputs` of /predict; see `list_of_texts`."""
    return list_of_texts(
        values, is_pair=arm.manifest.is_pair, limit=config.max_texts_per_request, field=field
    )


def check_parameters(arm: Arm, parameters: Parameters | None) -> None:
    """Raise RequestError 422, with the remedy, for what the request's bundle cannot do."""
    if parameters is None:
        return
    if parameters.abstain and arm.rules.abstain_below is None:
        name = "parameters.abstain"
        message = f"field `{name}`: {arm.rules.no_abstention}"
        raise RequestError(422, message, field=name)
    own = arm.manifest.max_length
    if parameters.max_length is not None and parameters.max_length < own:
        name = "parameters.max_length"
        message = (
            f"field `{name}`: {parameters.max_length} is less than the model's {own} tokens, "
            "which cannot be changed per request; leave it out"
        )
        raise RequestError(422, message, field=name)


def check_count(count: int, name: str, *, limit: int) -> None:
    """Raise RequestError 422 if a request has too many texts, before they are read."""
    if count > limit:
        message = f"field `{name}`: more than {limit} texts, the limit; send several requests"
        raise RequestError(422, message, field=name)
