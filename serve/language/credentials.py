"""Recognize credentials that are written out, by their structure.

Decides what counts as a credential in a data source, a publish target or any text that leaves this
machine: the user-info of URLs, parameters with telling names, connection strings of ODBC and libpq,
all of them also percent-encoded, and tokens with the prefix of a well-known service. A value that
comes from a variable, `${NAME}`, is not written out.

What is recognized too often costs an environment variable; what is missed is published.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote_plus

VARIABLE = re.compile(r"\$\{(\w+)\}")

HIDDEN = "***"

_ADDRESS = re.compile(
    r"://|https?:[/\\]|^\s*sql:|;\s*\w+\s*=|\b(?:password|pwd)\s*=", re.IGNORECASE
)
_SCHEME = re.compile(r"(?<![\w+.-])([\w+.-]*)://|(?<!\w)https?:[/\\]+", re.IGNORECASE)
_PORT = re.compile(r"(\d{1,5}|\$\{\w+\})(?=[/?#]|$)")
_CHAIN = re.compile(r":[\w+.-]+://")  # zip://member::https://host/archive.zip
_USER = re.compile(r"(?P<user>(?:(?!%3a)[^:/?#\s\[])*)(?P<mark>:|/|%3a|)", re.IGNORECASE)
_SEGMENT = re.compile(r"[^?&;#\s'\"]+")
_SPACED_SEGMENT = re.compile(r"[^?&;#\s'\"=]+(?:\s*=\s*(?:'[^']*'|\"[^\"]*\"|[^?&;#\s'\"]*))?")
_LITERAL = re.compile(r"'[^']*'|\"[^\"]*\"")

_NAMES = frozenset({"auth", "authorization", "bearer", "hmac", "jwt", "pass", "pw", "sas", "sig"})
_ENDINGS = tuple(
    """
    password passwd passphrase pwd secret token signature credential credentials
    credentialsbase64 apikey accesskey
    accesskeyid accountkey authkey privatekey secretkey sharedkey storagekey subscriptionkey
    """.split()
)
_AMBIGUOUS = frozenset({"key", "code"})
_OPAQUE = re.compile(r"[\w+=~%-]{20,}")
_TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:hf_[A-Za-z0-9]{20,}|gh[a-z]_[A-Za-z0-9]{30,}|github_pat_\w{20,}"
    r"|glpat-[\w-]{20,}|A[KS]IA[A-Z0-9]{16}|AIza[\w-]{30,}|xox[a-z]-[\w-]{10,}|sk-[\w-]{20,}"
    r"|dapi[0-9a-f]{32}|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]+)"
)
"""Of Hugging Face, GitHub, GitLab, AWS, Google, Slack, OpenAI and Databricks; JSON web tokens."""
_HARMLESS = re.compile(r"\$\{\w+\}|\b(?:bearer|basic|token)\b|%\w\w", re.IGNORECASE)


def hide(text: str) -> str:
    """Replace credentials in a text by ***; without any, return the text itself.

    What follows a credential may be hidden as well, since a password may hold any character.
    """
    text = _TOKEN.sub(HIDDEN, text)
    if not _ADDRESS.search(text):
        return text
    if span := _user_info(text):
        text = text[: span[0]] + HIDDEN + text[span[1] :]  # no @ follows, so no other user-info
    start = next(_parameters(text), None)
    return text if start is None else text[:start] + HIDDEN


def is_secret_name(name: str) -> bool:
    """Whether a parameter or an environment variable of this name holds a credential."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return plain in _NAMES or plain.endswith(_ENDINGS)


def _user_info(text: str) -> tuple[int, int] | None:
    """Find the first credential in the user-info of a URL."""
    for match in _SCHEME.finditer(text):
        if span := _password(text, match.end(), (match[1] or "https").lower()):
            return span
    return None


def _password(text: str, start: int, scheme: str) -> tuple[int, int] | None:
    """Find the password in the user-info of a URL that goes on at `start`."""
    rest = text[start:]
    is_sql = text.lstrip()[:4].lower() == "sql:"
    head = _USER.match(rest)
    assert head is not None
    user, mark, after = head["user"], head["mark"], rest[head.end() :]
    # Oracle's own clients write USER/PASSWORD@HOST.
    has_mark = mark in (":", "%3a", "%3A") or (user and mark == "/" and scheme.startswith("oracle"))
    if has_mark and "@" in after and not _CHAIN.match(after):
        # An address such as host:8080/a@b has a port; SQLAlchemy takes even that for a password.
        is_host = "." in user or "@" in user or user == "localhost"
        in_query = "@" not in after.partition("#")[0]
        has_port = mark == ":" and _PORT.match(after) and (in_query if is_sql else is_host)
        if not has_port:
            if _is_variable(after.partition("@")[0]):
                return None
            return start + head.end(), start + rest.rindex("@")
    # A name without a password is one of a database or a container, but with HTTP a token.
    if scheme in ("http", "https") and "@" in user and not VARIABLE.search(user):
        return start, start + user.rindex("@")
    return None


def _parameters(text: str) -> Iterator[int]:
    """Yield where the value of each parameter with a credential begins."""
    begin = re.match(r"\s*(sql:)?", text, re.IGNORECASE)
    assert begin is not None
    end = text.find("#") if begin[1] else -1
    pattern = _SPACED_SEGMENT if begin[1] else _SEGMENT
    regions = [(begin.end(), len(text) if end < 0 else end)]
    if end >= 0:  # in the query itself only literals, such as the address in a dblink()
        regions += [match.span() for match in _LITERAL.finditer(text, end)]
    for region in regions:
        for segment in pattern.finditer(text, *region):
            if _has_credential(segment[0]):
                value = re.search(r"=\s*", segment[0])
                yield segment.start() + (value.end() if value else 0)


def _has_credential(segment: str) -> bool:
    """Whether a segment is NAME=VALUE of a credential, or holds one, percent-encoded."""
    for _ in range(3):
        for part in re.split(r"[?&;\s]", re.sub(r"\s*=\s*", "=", segment)):
            names = part.split("=")
            for position, name in enumerate(names[:-1], start=1):
                value = "=".join(names[position:])
                if _is_credential(name, value):
                    return True
        decoded = unquote_plus(segment)
        if decoded == segment:
            return False
        if _user_info(decoded):  # an address in a parameter of another
            return True
        segment = decoded
    return False


def _is_variable(value: str) -> bool:
    """Whether a value comes from variables, but for a few characters such as quotes."""
    written = _HARMLESS.sub("", value)
    return VARIABLE.search(value) is not None and len(re.findall(r"[^\W_]", written)) < 4


def _is_credential(name: str, value: str) -> bool:
    if not value.strip("'\"{} =") or "/" in name or _is_variable(value):
        return False
    return is_secret_name(name) or (
        name.lower() in _AMBIGUOUS and _OPAQUE.fullmatch(value) is not None
    )
