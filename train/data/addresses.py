"""Addresses with variables: their expansion, and messages that cannot show what it inserted.

`${NAME}` stands for an environment variable. A message is built from the address as it is
configured. The text of a library's error may hold the expanded address in any spelling (quoted
again, decoded, in lower case), so of an address with variables it is left out, except where all
its words are the address's own or of a fixed vocabulary.
"""

from __future__ import annotations

import base64
import contextlib
import http
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, unquote, unquote_plus

from serve.language.credentials import VARIABLE, hide, is_secret_name

_USER = re.compile(r"^(?:sql:)?[\w+.-]+://(?P<user>[^/\s]*)@", re.IGNORECASE)

_WINDOW = 6
"""Letters and digits in a row that two texts share only if one shows the other."""

_WORD = re.compile(r"[a-z]{1,11}")
"""A value of the environment that a message may hold by accident."""

_VOCABULARY = frozenset(
    """
    a access already ambiguous an and argument at authentication cannot closed column connect
    connection could database denied deny does error exist exists failed file for found from
    function host in input invalid is key line locked missing name near no not object of on open
    operator or password permission refused relation reset role schema server such syntax table
    the timed timeout to token type unable unknown unrecognized user was where with
    """.split()
)
"""Words of database messages; none of them says anything about an address."""


class SourceError(ValueError):
    """A source that cannot be read; the message names it and contains no secret."""


class Unreadable(ValueError):
    """A reason in our own words; it may repeat rows, and names no address."""


@dataclass(frozen=True)
class Address:
    """A source with its variables replaced; do not print it."""

    source: str
    """As configured."""

    text: str = field(repr=False)
    """With the values of the variables."""

    values: Mapping[str, str] = field(repr=False)
    """Variables by value, also as `${NAME}`."""


def expand(source: str) -> Address:
    """Replace the variables of a source.

    A value between `://` and `@` is percent-encoded, so a password may contain any character.
    Raises SourceError for a variable that is not set, and for credentials that are written out.
    """
    hidden = hide(source)
    if hidden != source:
        raise SourceError(
            f"`{hidden}` contains a password, token or key, and the configuration is stored in "
            "the bundle; put it into an environment variable and write ${NAME} instead"
        )
    user = _USER.match(source)
    start, end = user.span("user") if user else (0, 0)
    values: dict[str, str] = {}

    def value_of(match: re.Match[str]) -> str:
        value = os.environ.get(match[1])
        if not value:
            raise SourceError(f"`{source}`: the environment variable {match[1]} is not set")
        values[value] = match[0]
        return quote(value, safe="") if start <= match.start() < end else value

    text = VARIABLE.sub(value_of, source)
    if values and user and (expanded := _USER.match(text)):  # as in the header of a request
        basic = base64.b64encode(unquote(expanded["user"]).encode()).decode()
        values[basic] = next(iter(values.values()))
    return Address(source, text, values)


@contextlib.contextmanager
def explained(address: Address) -> Iterator[None]:
    """Turn any failure into a SourceError that names the source and hides its variables."""
    try:
        yield
    except Exception as error:
        reason = reason_of(error, address)
    else:
        return
    # The error itself may contain a password, so it is not chained.
    raise SourceError(f"cannot read `{address.source}`: {reason}") from None


def presentable(text: str, secrets: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return a text without secrets, this environment's credentials, or others written out.

    secrets: what to show, by value. A text that holds a value in another spelling is left out as a
    whole. A value that is short, or a word of such messages, stays: replacing it would spoil the
    text, and show by that what it is.
    """
    values = {
        value: shown
        for value, shown in (dict(secrets) | _credentials_of_environment()).items()
        if len(value.strip()) >= _WINDOW and value.casefold() not in _VOCABULARY
    }
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, values[value])
    if shown := [values[value] for value in values if _shows(text, value)]:
        return f"the reason is not shown, because it contains {shown[0]}"
    return hide(text)


def hide_in_tracebacks() -> None:
    """Print the traceback of this process without credentials, such as those of a tracker's URL."""

    def print_hidden(*error: Any) -> None:
        lines = "".join(traceback.format_exception(*error)).splitlines()
        print("\n".join(presentable(line) for line in lines), file=sys.stderr)

    sys.excepthook = print_hidden


def reason_of(error: Exception, address: Address) -> str:
    """Describe a failure in one line, without the values of the address's variables."""
    cause = error.__cause__ or error
    text = (str(cause).strip().splitlines() or [""])[0]
    kind = type(cause).__name__
    if isinstance(error, Unreadable):
        return presentable(text, address.values)
    if address.values:
        return _without_text(cause, text, address)
    known = isinstance(error, ValueError) and not isinstance(error, UnicodeError)
    return presentable(text if known and text else f"{kind}: {text}")


def _without_text(error: BaseException, text: str, address: Address) -> str:
    """Describe an error by its type, status and number, and by its text only if it is harmless."""
    kind = type(error).__name__
    if status := _status(error):
        return f"{kind}: HTTP {status}"
    if isinstance(error, OSError) and (error.errno or 0) > 0:
        return f"{kind}: {os.strerror(error.errno or 0).lower()}"
    words = set(re.findall(r"\w+", VARIABLE.sub(" ", address.source)))
    if all(word in words or word.lower() in _VOCABULARY for word in re.findall(r"\w+", text)):
        return presentable(f"{kind}: {text}", address.values)
    return kind


def _status(error: BaseException) -> str | None:
    """Find the HTTP status of a client's error."""
    response = getattr(error, "response", None)
    metadata = response.get("ResponseMetadata", {}) if isinstance(response, Mapping) else {}
    for status in (
        getattr(error, "status", None),
        getattr(response, "status_code", None),
        metadata.get("HTTPStatusCode"),
    ):
        with contextlib.suppress(ValueError):
            if isinstance(status, int):
                return f"{status} ({http.HTTPStatus(status).phrase})"
    return None


def _credentials_of_environment() -> dict[str, str]:
    return {
        value: f"${{{name}}}"
        for name, value in os.environ.items()
        # A path is that of PWD or of a file with the credential.
        if value and is_secret_name(name) and value[0] != "/" and not _WORD.fullmatch(value)
    }


def _shows(text: str, value: str) -> bool:
    """Whether a text holds a value, or a part of it, in any spelling."""
    shown = _windows(_plain(text))
    return any(window in shown for window in _windows(_plain(value)))


def _plain(text: str) -> str:
    """Return the letters and digits of a text, decoded and in one case."""
    for _ in range(3):
        text = unquote_plus(text)
    return re.sub(r"[\W_]+", "", text.casefold())


def _windows(text: str) -> Iterable[str]:
    return {text[start : start + _WINDOW] for start in range(len(text) - _WINDOW + 1)}
