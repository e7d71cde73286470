"""Checks that several protocols share: texts under any field name, and their number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from serve.http.arm import Arm
from serve.http.schemas import RequestError, list_of_texts
from serve.inference.text import Text
from serve.settings import ServeConfig


def checked_texts(
    arm: Arm, config: ServeConfig, values: list[Any], *, field: Callable[..., str]
) -> list[Text]:
    """Check a list of texts or pairs by the rules of `inputs` of /predict; see `list_of_texts`."""
    return list_of_texts(
        values, is_pair=arm.manifest.is_pair, limit=config.max_texts_per_request, field=field
    )


def check_abstain(arm: Arm) -> None:
    """Raise RequestError 422, with the remedy, if the bundle has no abstention threshold."""
    if arm.rules.abstain_below is None:
        name = "parameters.abstain"
        message = f"field `{name}`: {arm.rules.no_abstention}"
        raise RequestError(422, message, field=name)


def check_count(count: int, name: str, *, limit: int) -> None:
    """Raise RequestError 422 if a request has too many texts, before they are read."""
    if count > limit:
        message = f"field `{name}`: more than {limit} texts, the limit; send several requests"
        raise RequestError(422, message, field=name)
