"""The pending texts of a model process in two pools: small requests, and large ones.

While small requests keep arriving, a pass of large ones is short, and where several passes run at
a time, one thread is kept free of them. Otherwise the text that is due first decides; large
requests are due as if they had a smaller share of the device, so that small ones overtake them and
they still go on. Pure, as `serve.engine.batcher` is.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Generic, TypeVar

from serve.engine.batcher import SHARE, Batcher, Selection

LARGE_S = 0.1
"""Seconds of the whole device from which a request is large."""

LARGE_SHARE = 0.2
"""Fraction of the device that the due times of large requests assume."""

BUSY_REQUESTS, BUSY_S = 5, 1.0
"""Small requests, in seconds, that make passes short and keep a thread free for the next."""

SPEED_S = 2.0
"""Seconds of forward passes over which `speed` is averaged."""

OUTLIER_S = 1.0
"""Seconds that a pass counts for at most: a pause of the machine says nothing about the speed."""

REST_S = 10.0
"""Seconds in which an idle device's `speed` returns to the first one by two thirds. A device that
seems slow gets no large requests, so it could never show that it is fast again."""

PASS_S, BUSY_PASS_S = 0.2, 0.04
"""Seconds that a pass of several texts may take, since others wait for its end; the second is for
large requests while small ones keep arriving."""

Request = TypeVar("Request", bound=Hashable)


class Lanes(Generic[Request]):
    """Two `Batcher`s behind the interface of one.

    concurrency: forward passes at a time. The rest is as for `Batcher`.
    """

    def __init__(
        self, *, concurrency: int, max_tokens: int, overhead_tokens: float, tokens_per_s: float
    ) -> None:
        self.concurrency = concurrency
        self.max_tokens = max_tokens
        self.speed = self._first_speed = tokens_per_s
        """Tokens per second at full batches, as last measured."""
        self.small, self.large = (
            Batcher[Request](
                max_tokens=max_tokens,
                overhead_tokens=overhead_tokens,
                tokens_per_s=tokens_per_s,
                share=share,
            )
            for share in (SHARE, LARGE_SHARE)
        )
        self._running = 0
        """Passes of large requests."""
        self._arrivals: deque[float] = deque([float("-inf")] * BUSY_REQUESTS, BUSY_REQUESTS)

    def __len__(self) -> int:
        """Return the number of texts in both pools."""
        return len(self.small) + len(self.large)

    @property
    def tokens(self) -> int:
        """Tokens of the texts in both pools."""
        return self.small.tokens + self.large.tokens

    def measure(self, tokens: int, seconds: float) -> None:
        """Take the tokens and the time of a pass into account."""
        # With its fixed cost counted as tokens, a small pass tells the speed of a full one.
        speed = (tokens + self.small.overhead_tokens) / seconds * self.concurrency
        weight = 1 - math.exp(-min(seconds, OUTLIER_S) / SPEED_S)
        self.speed += weight * (speed - self.speed)
        rate = tokens / seconds * self.concurrency
        for each in (self.small, self.large):
            each.tokens_per_s += 0.05 * (rate - each.tokens_per_s)

    def rest(self, seconds: float) -> None:
        """Take note that the device had nothing to do for that long."""
        weight = 1 - math.exp(-seconds / REST_S)
        self.speed += weight * max(0.0, self._first_speed - self.speed)

    def add(self, request: Request, lengths: Sequence[int], *, now: float, deadline: float) -> None:
        """Add a request's texts to one of the pools, as `Batcher.add` does."""
        if sum(lengths) > LARGE_S * self.speed:
            self.large.add(request, lengths, now=now, deadline=deadline)
        else:
            self._arrivals.append(now)
            self.small.add(request, lengths, now=now, deadline=deadline)

    def drop(self, request: Request) -> None:
        """Remove the remaining texts of a request, if there are any."""
        self.small.drop(request)
        self.large.drop(request)

    def has_work(self, *, now: float) -> bool:
        """Whether `next` would return anything."""
        return bool(self.small.tokens or (self.large.tokens and not self._is_kept(now)))

    def next(self, *, now: float, takers: int = 1) -> Selection[Request]:
        """Remove the next batch, as `Batcher.next` does; `finish` must follow its pass."""
        pool, pass_s = self.small, PASS_S
        if self.large.tokens and not self._is_kept(now):
            small_s, large_s = self.small.first_due(), self.large.first_due()
            if small_s is None or (large_s is not None and large_s < small_s):
                pool, pass_s = self.large, BUSY_PASS_S if self._is_busy(now) else PASS_S
        longest = int(pass_s * self.speed / self.concurrency)
        pool.max_tokens = max(1, min(self.max_tokens, longest))
        selection = pool.next(now=now, takers=takers)
        if pool is self.small or not selection.rows:
            return selection
        self._running += 1
        return replace(selection, is_large=True)

    def finish(self, selection: Selection[Request]) -> None:
        """Take note that the pass of a batch has ended."""
        self._running -= selection.is_large

    def _is_kept(self, now: float) -> bool:
        """Whether the last thread without a large request is kept for small ones."""
        return 1 < self.concurrency <= self._running + 1 and self._is_busy(now)

    def _is_busy(self, now: float) -> bool:
        return now - self._arrivals[0] < BUSY_S
