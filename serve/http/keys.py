"""API keys: several, hashed in a file, rotated while the server runs.

A key is 32 random bytes, so its plain SHA-256 cannot be searched for; the file may be read
by whoever may read a hash. One line a key: `sha256:HEX` and, after a space, its name.
`#` begins a comment.
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
"""Seconds between two looks at the file."""

_LINE = re.compile(r"sha256:([0-9a-f]{64})(?:\s+(\S+))?")


def new_key(name: str) -> tuple[str, str]:
    """A fresh key, and the line for the file."""
    if not re.fullmatch(r"[\w.@-]+", name):
        raise ValueError(f"the key's name is {name!r}; use letters, digits and . _ @ -")
    key = f"tl-{secrets.token_urlsafe(32)}"
    return key, f"sha256:{hashlib.sha256(key.encode()).hexdigest()} {name}"


class ApiKeys:
    """The keys of a file, read again when it has changed."""

    def __init__(self, path: Path) -> None:
        """Raises ValueError if the file cannot be read, holds no key, or a line that is none."""
        self.path = path
        self._checked_s = time.monotonic()
        self._stamp = _stamp(path)
        self._keys = _read(path)

    def name_of(self, presented: str) -> str | None:
        """The name of the presented key, or None. Takes as long for a wrong key as for a right."""
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
                logger.warning("API keys read anew from %s: %d", self.path, len(self._keys))
        except ValueError as error:
            # Half-written or gone: whoever could call before still can.
            logger.error("API keys stay as they were: %s", error)


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
        raise ValueError(f"the API keys at `{path}` cannot be read: {error}") from None
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
        raise ValueError(f"`{path}` holds no key; make one with `python -m serve key --name NAME`")
    return keys
