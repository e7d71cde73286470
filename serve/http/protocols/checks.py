"""What several protocols check: texts of any name, and their number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from serve.http.schemas import RequestError, to_texts
from serve.http.service import Service
from serve.inference.text import Text


def checked_texts(service: Service, values: list[Any], *, field: Callable[..., str]) -> list[Text]:
    """The texts of a list, one text or pair per value, by the rules of `inputs` of `/predict`.

    field: the name of the list, of the value at a number, or of a part of that value, each
    given as numbers. Raises RequestError 422 that names the field.
    """
    limits: dict[str, Any] = {
        "is_pair": service.manifest.is_pair,
        "limit": service.config.max_texts_per_request,
    }
    try:
        texts, single = to_texts(values, **limits)
        if single:  # two strings are one pair in `inputs`, but two values here
            to_texts(values[:1], **limits)
        return texts
    except RequestError as error:
        path = error.field or "inputs"
        name = field(*map(int, path.split(".")[1:]))
        message = str(error).replace(f"`{path}`", f"`{name}`", 1)
        raise RequestError(error.status, message, field=name, kind=error.kind) from None


def check_abstain(service: Service) -> None:
    """RequestError 422, with the remedy, if the bundle has no threshold to abstain by."""
    if service.rules.abstain_below is None:
        name = "parameters.abstain"
        message = f"field `{name}`: {service.rules.no_abstention}"
        raise RequestError(422, message, field=name)


def check_count(count: int, name: str, *, limit: int) -> None:
    """RequestError 422 if a request has more texts than it may have, before they are read."""
    if count > limit:
        message = f"field `{name}`: more than {limit} texts, the limit of a request"
        raise RequestError(422, message, field=name)
