"""Which pending texts go into the next forward pass. Pure: no clock, no I/O, no threads.

Texts of all requests lie in one pool. Each text has a due time: when its request came, plus
the time that the request's texts up to and including this one would take on its share of
the device. So a text that comes alone overtakes the tail of a large request, a short text
overtakes a long one that has just come, and no text waits for ever, since new ones are due
later and later. (This is fair queueing by finish time, after Demers, Keshav and Shenker 1989.)

The text that is due first is in the next batch, always. Others join it from a bounded
window of those due next, nearest in length first, since every row of a batch costs as much
as its longest. How much padding is worth it depends on what a pass costs whatever its size:
on a CPU next to nothing, so batches are small and of one length; on a GPU much.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Generic, TypeVar

SHARE = 0.5
"""Share of the device that one request can count on; the rest is for those that come later."""

Request = TypeVar("Request", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class Selection(Generic[Request]):
    """What `Batcher.next` took out of the pool."""

    rows: list[tuple[Request, int]]
    """Texts for one forward pass: the request, and the number of its text."""

    expired: list[Request]
    """Requests whose deadline has passed; all their texts are out of the pool."""


class Batcher(Generic[Request]):
    """The pool of pending texts of one model process.

    max_tokens: rows times longest row of one batch; a longer text goes alone.
    pass_tokens: what a pass costs whatever its size, in tokens that take as long.
    tokens_per_s: the device's measured rate; may be set anew at any time.
    window: number of texts, in order of due time, that a batch is chosen from.
    """

    def __init__(
        self, *, max_tokens: int, pass_tokens: float, tokens_per_s: float, window: int = 128
    ) -> None:
        self.max_tokens = max_tokens
        self.pass_tokens = pass_tokens
        self.tokens_per_s = tokens_per_s
        self.window = window
        self.tokens = 0
        # Due time, order of arrival (unique, so that requests are never compared), tokens,
        # request, number of the text within the request.
        self._entries: list[tuple[float, int, int, Request, int]] = []
        self._left: dict[Request, tuple[float, dict[int, int]]] = {}
        self._arrivals = count()

    def __len__(self) -> int:
        """Number of texts in the pool."""
        return sum(len(texts) for _, texts in self._left.values())

    def add(self, request: Request, lengths: Sequence[int], *, now: float, deadline: float) -> None:
        """Put a request's texts into the pool.

        lengths: tokens of each text, at least 1. now and deadline: seconds on one clock.
        """
        assert request not in self._left
        due = now
        for number, tokens in enumerate(lengths):
            due += tokens / (SHARE * self.tokens_per_s)
            heapq.heappush(self._entries, (due, next(self._arrivals), tokens, request, number))
        self._left[request] = (deadline, dict(enumerate(lengths)))
        self.tokens += sum(lengths)

    def drop(self, request: Request) -> None:
        """Take out what is left of a request; nothing if nothing is."""
        _, texts = self._left.pop(request, (0.0, {}))
        self.tokens -= sum(texts.values())

    def next(self, *, now: float, takers: int = 1) -> Selection[Request]:
        """Take the next batch out of the pool; no rows if the pool is empty.

        takers: forward passes that could start now, this one included; pending texts are
        shared out among them in place of leaving the others idle.
        """
        expired: list[Request] = []
        window: list[tuple[float, int, int, Request, int]] = []
        while self._entries and len(window) < self.window:
            entry = heapq.heappop(self._entries)
            left = self._left.get(entry[3])
            if left is None:
                continue  # dropped
            if left[0] < now:
                expired.append(entry[3])
                self.drop(entry[3])
                continue
            window.append(entry)
        if not window:
            return Selection(rows=[], expired=expired)
        share = -(-self.tokens // max(1, takers))
        chosen = choose(
            [entry[2] for entry in window],
            max_tokens=min(self.max_tokens, share),
            max_padding=2 * self.pass_tokens,
        )
        for position, entry in enumerate(window):
            if position not in chosen:
                heapq.heappush(self._entries, entry)
        rows = [(window[position][3], window[position][4]) for position in sorted(chosen)]
        for request, number in rows:
            _, texts = self._left[request]
            self.tokens -= texts.pop(number)
            if not texts:
                del self._left[request]
        return Selection(rows=rows, expired=expired)


def choose(lengths: Sequence[int], *, max_tokens: int, max_padding: float) -> set[int]:
    """Positions of the texts that share a batch with the first one.

    lengths: tokens of the texts of a window, in order of due time. Rows times longest row
    stays within max_tokens, but for the first text, which is taken whatever its length; of
    that, padding stays within max_padding. (A batch of n texts whose lengths spread evenly
    over d tokens has n d / 2 of padding, and cutting it in two saves n d / 4: more than a
    pass costs just when the padding is over twice that.)
    """
    order = sorted(range(len(lengths)), key=lambda position: (lengths[position], position))
    low = high = order.index(0)
    total = lengths[0]

    def fits(low: int, high: int, total: int) -> bool:
        padded = (high - low + 1) * lengths[order[high]]
        return padded <= max_tokens and padded - total <= max_padding

    while True:
        below = lengths[order[low - 1]] if low > 0 else None
        above = lengths[order[high + 1]] if high + 1 < len(order) else None
        if below is not None and not fits(low - 1, high, total + below):
            below = None
        if above is not None and not fits(low, high + 1, total + above):
            above = None
        if below is None and above is None:
            return set(order[low : high + 1])
        nearer = above is None or (
            below is not None and lengths[order[high]] - below <= above - lengths[order[low]]
        )
        if nearer:
            assert below is not None
            low, total = low - 1, total + below
        else:
            assert above is not None
            high, total = high + 1, total + above
