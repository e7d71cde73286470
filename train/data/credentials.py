"""Recognize credentials that are written out, by their structure.

Decides what counts as a credential in a data source, a publish target or any text that leaves this
machine: the user-info of URLs, parameters with telling names, and connection strings of ODBC and
libpq, also percent-encoded. A value that comes from a variable, `${NAME}`, is not written out.

What is recognized too often costs an environment variable; what is missed is published.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote_plus

VARIABLE = re.compile(r"\$\{(\w+)\}")

HIDDEN = "***"

_ADDRESS = re.compile(r"://|^\s*sql:", re.IGNORECASE)
_SCHEME = re.compile(r"([\w+.-]*)://")
_PORT = re.compile(r"(\d{1,5}|\$\{\w+\})(?=[/?#]|$)")
_CHAIN = re.compile(r":[\w+.-]+://")  # zip://member::https://host/archive.zip
_SEGMENT = re.compile(r"[^?&;#\s'\"]+")
_LITERAL = re.compile(r"'[^']*'|\"[^\"]*\"")

_NAMES = frozenset({"auth", "authorization", "bearer", "hmac", "jwt", "pass", "pw", "sas", "sig"})
_ENDINGS = tuple(
    """
    password passwd passphrase pwd secret token signature credential credentials apikey accesskey
    accesskeyid accountkey authkey privatekey secretkey sharedkey storagekey subscriptionkey
    """.split()
)
_AMBIGUOUS = frozenset({"key", "code"})
_OPAQUE = re.compile(r"[\w+=~%-]{20,}")


def hide(text: str) -> str:
    """Replace credentials in a text by ***; without any, return the text itself.

    What follows a credential may be hidden as well, since a password may hold any character.
    """
    if not _ADDRESS.search(text):
        return text
    for match in _SCHEME.finditer(text):
        span = _password(text, match.end(), match[1].lower())
        if span:
            text = text[: span[0]] + HIDDEN + text[span[1] :]
            break  # no @ follows, so no other user-info
    start = next(_parameters(text), None)
    return text if start is None else text[:start] + HIDDEN


def is_secret_name(name: str) -> bool:
    """Whether a parameter or an environment variable of this name holds a credential."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return plain in _NAMES or plain.endswith(_ENDINGS)


def _password(text: str, start: int, scheme: str) -> tuple[int, int] | None:
    """Find the password in the user-info of a URL that goes on at `start`."""
    rest = text[start:]
    is_sql = text.lstrip()[:4].lower() == "sql:"
    head = re.match(r"[^:/?#\s\[]*", rest)
    assert head is not None
    user, mark, after = head[0], rest[head.end() : head.end() + 1], rest[head.end() + 1 :]
    # Oracle's own clients write USER/PASSWORD@HOST.
    has_mark = mark == ":" or (mark == "/" and scheme.startswith("oracle"))
    if user and has_mark and "@" in after and not _CHAIN.match(after):
        # An address such as host:8080/a@b has a port; SQLAlchemy takes even that for a password.
        is_host = "." in user or "@" in user or user == "localhost"
        in_query = "@" not in after.partition("#")[0]
        has_port = mark == ":" and _PORT.match(after) and (in_query if is_sql else is_host)
        if not has_port:
            if VARIABLE.search(after.partition("@")[0]):
                return None
            return start + len(user) + 1, start + rest.rindex("@")
    # A name without a password is one of a database or a container, but with HTTP a token.
    if scheme in ("http", "https") and "@" in user and not VARIABLE.search(user):
        return start, start + user.rindex("@")
    return None


def _parameters(text: str) -> Iterator[int]:
    """Yield where the value of each parameter with a credential begins."""
    begin = re.match(r"\s*(sql:)?", text, re.IGNORECASE)
    assert begin is not None
    end = text.find("#") if begin[1] else -1
    regions = [(begin.end(), len(text) if end < 0 else end)]
    if end >= 0:  # in the query itself only literals, such as the address in a dblink()
        regions += [match.span() for match in _LITERAL.finditer(text, end)]
    for region in regions:
        for segment in _SEGMENT.finditer(text, *region):
            if _has_credential(segment[0]):
                yield segment.start() + segment[0].find("=") + 1


def _has_credential(segment: str) -> bool:
    """Whether a segment is NAME=VALUE of a credential, or holds one, percent-encoded."""
    for _ in range(3):
        for part in re.split(r"[?&;\s]", segment):
            names = part.split("=")
            for position, name in enumerate(names[:-1], start=1):
                value = "=".join(names[position:])
                if _is_credential(name, value):
                    return True
        segment = unquote_plus(segment)
    return False


def _is_credential(name: str, value: str) -> bool:
    if not value.strip("'\"{} =") or "/" in name or VARIABLE.search(value):
        return False
    return is_secret_name(name) or (
        name.lower() in _AMBIGUOUS and _OPAQUE.fullmatch(value) is not None
    )
