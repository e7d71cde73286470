"""Admission: how many tokens one HTTP process may have in flight, and when to retry.

The limit counts tokens, so one rule covers a request of one text and one of five hundred: a
request is admitted if its tokens fit under the limit together with those in flight, or if
nothing is in flight. A refused request gets a time to retry after.
"""

from __future__ import annotations

import asyncio
import math
import time

from prometheus_client import Gauge

GAUGE_S = 0.1
"""Seconds between two updates of the gauge."""


class Unavailable(Exception):
    """The request cannot be served now. `status` is the HTTP status to respond with."""

    def __init__(self, status: int, reason: str, message: str, retry_after_s: int | None = None):
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after_s = retry_after_s


class Admission:
    """The tokens that one HTTP process has in flight, their limit, and their rate.

    max_tokens: the limit. gauge: follows the tokens in flight.
    """

    def __init__(self, *, max_tokens: int, gauge: Gauge) -> None:
        self.max_tokens = max_tokens
        self.tokens = 0
        self.tokens_per_s = 0.0
        self._gauge = gauge
        self._gauge_is_due = False
        self._window_s = time.monotonic()
        self._window_tokens = 0

    def check(self, tokens: int) -> None:
        """Raise Unavailable 429 unless `tokens` more may enter."""
        if self.tokens and self.tokens + max(tokens, 1) > self.max_tokens:
            wait_s = self.tokens / self.tokens_per_s if self.tokens_per_s else 1.0
            raise Unavailable(
                429,
                "queue_full",
                f"queue full: {self.tokens} tokens queued, {tokens} more would exceed the "
                f"limit of {self.max_tokens}; retry later",
                max(1, math.ceil(wait_s)),
            )

    def enter(self, tokens: int) -> None:
        """Count a request's tokens as in flight."""
        self.tokens += tokens
        self._update_gauge()

    def leave(self, tokens: int) -> None:
        """Stop counting a request's tokens, whatever its outcome."""
        self.tokens -= tokens
        self._update_gauge()

    def measure(self, tokens: int) -> None:
        """Count a completed request; the rate is taken over windows of about one second.

        A window of two seconds or more was partly idle and leaves the rate as it is.
        """
        self._window_tokens += tokens
        now = time.monotonic()
        if (elapsed := now - self._window_s) >= 1.0:
            if elapsed < 2.0:
                self.tokens_per_s = self._window_tokens / elapsed
            self._window_s, self._window_tokens = now, 0

    def _update_gauge(self) -> None:
        """Set the gauge soon, not per request: that would cost as much as all else here."""
        if not self._gauge_is_due:
            self._gauge_is_due = True
            asyncio.get_running_loop().call_later(GAUGE_S, self._set_gauge)

    def _set_gauge(self) -> None:
        self._gauge_is_due = False
        self._gauge.set(self.tokens)
