"""The pending texts of a model process in two pools: small requests, and large ones.

Where several forward passes run at a time, one thread is kept free of large requests while small
ones keep arriving. Those wait for no long pass then, and the large requests for what is left of
the device. Otherwise the text that is due first decides. Pure, as `serve.engine.batcher` is.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Generic, TypeVar

from serve.engine.batcher import Batcher, Selection

LARGE_S = 0.5
"""Seconds of the whole device from which a request is large."""

BUSY_REQUESTS, BUSY_S = 5, 1.0
"""Small requests, in seconds, that keep a thread free for the next."""

SPEED_S = 2.0
"""Seconds of forward passes over which `speed` is averaged."""

PASS_S = 0.2
"""Seconds that a pass of several texts may take, since others wait for its end."""

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
        self.speed = tokens_per_s
        """Tokens per second at full batches, as last measured."""
        self.small, self.large = (
            Batcher[Request](
                max_tokens=max_tokens, overhead_tokens=overhead_tokens, tokens_per_s=tokens_per_s
            )
            for _ in range(2)
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
        self.speed += (1 - math.exp(-seconds / SPEED_S)) * (speed - self.speed)
        rate = tokens / seconds * self.concurrency
        longest = int(PASS_S * self.speed / self.concurrency)
        for each in (self.small, self.large):
            each.tokens_per_s += 0.05 * (rate - each.tokens_per_s)
            each.max_tokens = max(1, min(self.max_tokens, longest))

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
        pool = self.small
        if self.large.tokens and not self._is_kept(now):
            small_s, large_s = self.small.first_due(), self.large.first_due()
            if small_s is None or (large_s is not None and large_s < small_s):
                pool = self.large
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
        is_last = 1 < self.concurrency <= self._running + 1
        return is_last and now - self._arrivals[0] < BUSY_S
