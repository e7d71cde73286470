"""API keys: several, hashed in a file, rotated while the server runs.

A key is 32 random bytes, so it cannot be found from its plain SHA-256 by search. One line per
key: `sha256:HEX` and, after a space, its name. `#` starts a comment.

Keys fail closed. The valid lines of the file are the keys, whatever the others hold; a file
without one, or that is missing or cannot be read, lets nobody in. A thread of its own reads it,
so a file system that hangs stops no request.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import stat
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # making a key needs no extra
    from serve.engine.metrics import HttpMetrics

logger = logging.getLogger(__name__)

CHECK_S = 1.0
"""Seconds between two checks of the file."""

GAP_S = 0.5
"""Seconds after which a file that is missing or unreadable is tried again, before its keys end:
some programs remove a file before they write the new one."""

NAMED_LINES = 10
"""Invalid lines that the log names, of one version of the file."""

_LINE = re.compile(r"sha256:([0-9a-f]{64})(?:\s+(\S+))?")
_MAKE = "make one with `textloop key --name NAME`"

Stamp = tuple[int, int, int, int]
"""What changes with the file: times in nanoseconds of content and inode, size, inode."""


def new_key(name: str) -> tuple[str, str]:
    """Make a new key; returns it and its line for the file."""
    if not re.fullmatch(r"[\w.@-]+", name):
        raise ValueError(f"invalid key name {name!r}; use letters, digits and . _ @ -")
    key = f"tl-{secrets.token_urlsafe(32)}"
    return key, f"sha256:{hashlib.sha256(key.encode()).hexdigest()} {name}"


class ApiKeys:
    """The keys of a file, reloaded when it changes."""

    def __init__(self, path: Path) -> None:
        """Raises ValueError if the file cannot be read, or has invalid lines and no key."""
        self.path = path
        self._stamp, content = _read(path)
        self._keys, self.invalid = _parse(content)
        if self.invalid and not self._keys:
            raise ValueError(
                f"`{path}`, line {self.invalid[0]}: expected `sha256:HEX NAME`; {_MAKE}"
            )
        self._report_content()

    def name_of(self, presented: str) -> str | None:
        """The name of the presented key, or None for an unknown one.

        Its hash is looked up: who presents a key cannot choose the hash, so the time that the
        comparison takes tells nothing of other keys.
        """
        digest = hashlib.sha256(presented.encode("utf-8", "surrogateescape")).hexdigest()
        return self._keys.get(digest)

    def watch(self, metrics: HttpMetrics) -> None:
        """Reload the file in a thread whenever it changes, for the rest of this process."""
        self._set_gauges(metrics)
        threading.Thread(target=self._watch, args=(metrics,), name="keys", daemon=True).start()

    def _watch(self, metrics: HttpMetrics) -> None:
        while True:
            time.sleep(CHECK_S)
            try:
                changed = self.check()
            except Exception:  # our own bug; the thread must go on, and nobody may get in
                logger.exception("internal error while checking the API keys; nobody gets in")
                self._keys, self._stamp, changed = {}, None, True
            if changed:
                self._set_gauges(metrics)

    def check(self) -> bool:
        """Reload the file if it has changed; return whether it has."""
        try:
            stamp, content = _read(self.path, unless=self._stamp)
        except ValueError:
            time.sleep(GAP_S)
            try:
                stamp, content = _read(self.path, unless=self._stamp)
            except ValueError as error:
                was_readable, self._stamp = self._stamp is not None, None
                self._keys, self.invalid = {}, []
                if was_readable:
                    logger.error("%s; nobody gets in until it is readable", error)
                return was_readable
        if stamp == self._stamp:
            return False
        self._keys, self.invalid = _parse(content)
        self._stamp = stamp
        logger.warning("reloaded %d API keys from %s", len(self._keys), self.path)
        self._report_content()
        return True

    def _report_content(self) -> None:
        if self.invalid:
            numbers = ", ".join(map(str, self.invalid[:NAMED_LINES]))
            more = "" if len(self.invalid) <= NAMED_LINES else f" and {len(self.invalid)} in all"
            logger.error(
                "`%s`: ignored invalid lines (%s%s); expected `sha256:HEX NAME`",
                self.path,
                numbers,
                more,
            )
        if not self._keys:
            logger.error("`%s` has no key, so nobody gets in; %s", self.path, _MAKE)

    def _set_gauges(self, metrics: HttpMetrics) -> None:
        metrics.keys("valid").set(len(self._keys))
        metrics.keys("invalid").set(len(self.invalid))
        metrics.keys("unreadable").set(self._stamp is None)


def _read(path: Path, *, unless: Stamp | None = None) -> tuple[Stamp | None, bytes]:
    """Stamp and content of the file; no content if the stamp is `unless`."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"the API keys at `{path}` are not a regular file")
        stamp = (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)
        if stamp == unless:
            return stamp, b""
        # Without O_NONBLOCK, a FIFO put here in this moment would block for ever.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            return stamp, file.read()
    except OSError as error:
        raise ValueError(f"no API keys at `{path}` ({error.strerror})") from None


def _parse(content: bytes) -> tuple[dict[str, str], list[int]]:
    """Names of keys by their hash, and the numbers of invalid lines."""
    keys: dict[str, str] = {}
    invalid = []
    text = content.decode("utf-8-sig", "replace")
    for number, line in enumerate(text.splitlines(), start=1):
        entry = line.partition("#")[0].strip()
        if match := _LINE.fullmatch(entry):
            keys[match[1]] = match[2] or f"line {number}"
        elif entry:
            invalid.append(number)
    return keys, invalid
