"""Admission: how many tokens one HTTP process may have in flight, and when to retry.

The limit counts tokens, so one rule covers requests of any number of texts. A request of more
than a slice of the limit is large: its slices enter one after the other, as there is room, and
never into the part of the limit that is kept for small requests. So no large request keeps
others out. One that could not be answered in time is refused at once: the model processes report
their speed (`serve.engine.transport.Beat`).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Hashable

from prometheus_client import Gauge

from serve.engine.transport import Beat

GAUGE_S = 0.1
"""Seconds between two updates of the gauge."""

QUEUE_TOKENS = 131_072
"""The limit over all HTTP processes, unless the configuration or the speed says otherwise."""

QUEUE_S = 2.0
"""Seconds of work that the limit allows at least, on devices so fast that it is more tokens."""

SLICES = 16
"""Slices in the limit. A large request has two in flight, so that the device never waits."""

LARGE_SLICES = 12
"""Slices that large requests may take together."""


class Unavailable(Exception):
    """The request cannot be served now. `status` is the HTTP status to respond with."""

    def __init__(self, status: int, reason: str, message: str, retry_after_s: int | None = None):
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after_s = retry_after_s


class Admission:
    """The tokens that one HTTP process has in flight, their limit, and the devices' speed.

    max_tokens: the limit over all processes, None to follow the speed. processes: the HTTP
    processes among which it is divided. timeout_s: what large requests must be answered in.
    gauge: follows the tokens in flight.
    """

    def __init__(
        self, *, max_tokens: int | None, processes: int, timeout_s: float, gauge: Gauge
    ) -> None:
        self.tokens = 0
        self._fixed = max_tokens
        self._processes = processes
        self.timeout_s = timeout_s
        self._devices: dict[Hashable, Beat] = {}
        self._room: deque[tuple[int, asyncio.Future[None]]] = deque()
        """Slices that wait for room, in order of arrival."""
        self._large_tokens = 0
        """Tokens of large requests that are neither in flight nor answered."""
        self._window_s = time.monotonic()
        self._window_tokens = 0
        self._small_per_s = 0.0
        self._gauge = gauge
        self._gauge_is_due = False
        self._set_limit()

    @property
    def limit(self) -> int:
        """The limit of this process."""
        return self._limit

    @property
    def slice_tokens(self) -> int:
        """Tokens of a slice; a request of more is large."""
        return max(1, self._limit // SLICES)

    @property
    def tokens_per_s(self) -> float:
        """Speed of all devices; 0 until the first model process has reported its own."""
        return sum(beat.tokens_per_s for beat in self._devices.values())

    def report(self, device: Hashable, beat: Beat | None) -> None:
        """Take a model process's report, None when it is gone."""
        if beat is None:
            self._devices.pop(device, None)
            return
        self._devices[device] = beat
        self._set_limit()

    def _set_limit(self) -> None:
        if self._fixed is not None:
            self._limit = -(-self._fixed // self._processes)
            return
        total = float(QUEUE_TOKENS)
        if rate := self.tokens_per_s:
            total = min(max(total, QUEUE_S * rate), self.timeout_s * rate)
        batches = 2 * max((beat.max_batch_tokens for beat in self._devices.values()), default=1)
        self._limit = max(math.ceil(total / self._processes), batches)

    def check(self, tokens: int) -> None:
        """Raise Unavailable 429 unless `tokens` more may enter."""
        if self.tokens and self.tokens + max(tokens, 1) > self._limit:
            raise self._full(tokens)

    def check_large(self, tokens: int, texts: int) -> None:
        """Raise Unavailable unless a large request may begin, and be answered in time.

        429 if it may be later, 413 if it never may. Both say how many texts would do.
        """
        if self._room or not self._has_room(min(tokens, self.slice_tokens)):
            raise self._full(tokens)
        rate = self.tokens_per_s
        if not rate:
            return
        if tokens > rate * self.timeout_s:
            raise Unavailable(
                413,
                "too_large",
                f"{tokens} tokens take {math.ceil(tokens / rate)} s at {rate:.0f} tokens/s, over "
                f"timeout_s = {self.timeout_s:g} s; "
                f"{_advice(texts, rate * self.timeout_s / tokens)}",
            )
        free = max(rate - self._small_rate(), rate / 10)
        ahead = max(self.tokens + self._large_tokens, self._pending())
        wait_s = (ahead + tokens) / free
        if wait_s > self.timeout_s:
            raise Unavailable(
                429,
                "queue_full",
                f"queue full: with {ahead} tokens queued, {tokens} more would take "
                f"{math.ceil(wait_s)} s, over timeout_s = {self.timeout_s:g} s; retry later, or "
                f"{_advice(texts, max(free * self.timeout_s - ahead, 0) / tokens)}",
                max(1, math.ceil(wait_s - self.timeout_s)),
            )

    def enter(self, tokens: int) -> None:
        """Count a small request's tokens as in flight."""
        now = time.monotonic()
        if now - self._window_s >= 1.0:
            self._small_per_s = self._window_tokens / (now - self._window_s)
            self._window_s, self._window_tokens = now, 0
        self._window_tokens += tokens
        self._add(tokens)

    def leave(self, tokens: int) -> None:
        """Stop counting tokens, whatever the outcome of their request."""
        self._add(-tokens)
        while self._room:
            wanted, granted = self._room[0]
            if not granted.done():
                if not self._has_room(wanted):
                    break
                self._add(wanted)
                granted.set_result(None)
            self._room.popleft()

    async def enter_slice(self, tokens: int) -> None:
        """Count a slice of a large request as in flight, as soon as there is room."""
        if not self._room and self._has_room(tokens):
            self._add(tokens)
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._room.append((tokens, granted))
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self.leave(tokens)
            raise

    def expect(self, tokens: int) -> None:
        """Add to the tokens that large requests have yet to send; may be negative."""
        self._large_tokens += tokens

    def _has_room(self, tokens: int) -> bool:
        return not self.tokens or self.tokens + tokens <= LARGE_SLICES * self._limit // SLICES

    def _pending(self) -> int:
        """Tokens in the queues of the model processes, those of other HTTP processes included."""
        return sum(beat.pending_tokens for beat in self._devices.values())

    def _small_rate(self) -> float:
        """Tokens per second that small requests of all HTTP processes take, about."""
        elapsed_s = time.monotonic() - self._window_s
        rate = self._window_tokens / elapsed_s if elapsed_s > 1.0 else self._small_per_s
        return rate * self._processes

    def _full(self, tokens: int) -> Unavailable:
        rate = self.tokens_per_s
        queued = max(self.tokens + self._large_tokens, self._pending())
        return Unavailable(
            429,
            "queue_full",
            f"queue full: {self.tokens} tokens queued, {tokens} more would exceed the "
            f"limit of {self._limit}; retry later",
            max(1, math.ceil(queued / rate)) if rate else 1,
        )

    def _add(self, tokens: int) -> None:
        """Change the tokens in flight; the gauge follows soon, at once would cost too much."""
        self.tokens += tokens
        if not self._gauge_is_due:
            self._gauge_is_due = True
            asyncio.get_running_loop().call_later(GAUGE_S, self._set_gauge)

    def _set_gauge(self) -> None:
        self._gauge_is_due = False
        self._gauge.set(self.tokens)


def _advice(texts: int, fraction: float) -> str:
    return f"send fewer texts per request, about {max(1, math.floor(0.8 * fraction * texts))}"
