"""API keys: several, hashed in a file, rotated while the server runs.

A key is 32 random bytes, so it cannot be found from its plain SHA-256 by search. One line per
key: `sha256:HEX` and, after a space, its name. `#` starts a comment.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import time
from pathlib import Path

logger = logging.getLogger(__name__)

CHECK_S = 1.0
"""Seconds between two checks of the file."""

_LINE = re.compile(r"sha256:([0-9a-f]{64})(?:\s+(\S+))?")


def new_key(name: str) -> tuple[str, str]:
    """Make a new key; returns it and its line for the file."""
    if not re.fullmatch(r"[\w.@-]+", name):
        raise ValueError(f"invalid key name {name!r}; use letters, digits and . _ @ -")
    key = f"tl-{secrets.token_urlsafe(32)}"
    return key, f"sha256:{hashlib.sha256(key.encode()).hexdigest()} {name}"


class ApiKeys:
    """The keys of a file, reloaded when it changes."""

    def __init__(self, path: Path) -> None:
        """Raises ValueError if the file cannot be read, has no key, or has an invalid line."""
        self.path = path
        self._checked_s = time.monotonic()
        self._stamp = _stamp(path)
        self._keys = _read(path)

    def name_of(self, presented: str) -> str | None:
        """The name of the presented key, or None for an unknown one, in the same time."""
        self._refresh()
        digest = hashlib.sha256(presented.encode("utf-8", "surrogateescape")).hexdigest()
        found = None
        for known, name in self._keys.items():
            if hmac.compare_digest(known, digest):
                found = name
        return found

    def _refresh(self) -> None:
        if time.monotonic() - self._checked_s < CHECK_S:
            return
        self._checked_s = time.monotonic()
        try:
            stamp = _stamp(self.path)
            if stamp != self._stamp:
                self._keys = _read(self.path)
                self._stamp = stamp
                logger.warning("reloaded %d API keys from %s", len(self._keys), self.path)
        except ValueError as error:
            # Half-written or missing: callers with a key keep access.
            logger.error("could not reload API keys, keeping the previous ones: %s", error)


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        stat = path.stat()
    except OSError as error:
        raise ValueError(f"no API keys at `{path}` ({error.strerror})") from None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _read(path: Path) -> dict[str, str]:
    keys = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the API keys at `{path}`: {error}") from None
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = _LINE.fullmatch(text)
        if match is None:
            raise ValueError(
                f"`{path}`, line {number}: expected `sha256:HEX NAME`; make one with "
                "`python -m serve key --name NAME`"
            )
        keys[match[1]] = match[2] or f"line {number}"
    if not keys:
        raise ValueError(f"`{path}` has no key; make one with `python -m serve key --name NAME`")
    return keys
