"""Which pending texts go into the next forward pass. Pure: no clock, no I/O, no threads.

Texts of all requests lie in one pool. Each text has a due time: when its request came, plus
the time that the request would take on its share of the device; a large request is cut into
parts, each due after the ones before it. So a text that comes alone overtakes the tail of a
large request, a short text overtakes a long one that has just come, requests of one size are
served in turn, and no text waits for ever, since new ones are due later and later. (This is
fair queueing by finish time, after Demers, Keshav and Shenker 1989.)

The text that is due first is in the next batch, always. Others join it from a bounded
window of those due next, nearest in length first, since every row of a batch costs as much
as its longest. How much padding is worth it depends on what a pass costs whatever its size:
on a CPU next to nothing, so batches are small and of one length; on a GPU much.
"""

from __future__ import annotations

import bisect
import heapq
import math
from collections.abc import Container, Hashable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Generic, TypeVar

SHARE = 0.5
"""Share of the device that one request can count on; the rest is for those that come later."""

PART_S = 0.1
"""Size of a large request's parts, in seconds of the whole device: so long, and not longer, it
may have the device to itself."""

Request = TypeVar("Request", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class Selection(Generic[Request]):
    """What `Batcher.next` took out of the pool."""

    rows: list[tuple[Request, int]]
    """Texts for one forward pass: the request, and the number of its text."""

    expired: list[Request]
    """Requests whose deadline has passed; all their texts are out of the pool."""


@dataclass(frozen=True, slots=True)
class _Text(Generic[Request]):
    due: float
    tokens: int
    request: Request
    number: int


class Batcher(Generic[Request]):
    """The pool of pending texts of one model process.

    max_tokens: rows times longest row of one batch; a longer text goes alone.
    overhead_tokens: what a pass costs whatever its size, in tokens that take as long.
    tokens_per_s: the device's measured rate; may be set anew at any time.
    window: number of texts, in order of due time, that a batch is chosen from.
    """

    def __init__(
        self, *, max_tokens: int, overhead_tokens: float, tokens_per_s: float, window: int = 512
    ) -> None:
        self.max_tokens = max_tokens
        self.overhead_tokens = overhead_tokens
        self.tokens_per_s = tokens_per_s
        self.window = window
        self.tokens = 0
        self._left: dict[Request, tuple[float, dict[int, int]]] = {}
        """Of each request its deadline, and the tokens of its texts that are in the pool."""
        self._arrivals = count()
        self._texts: dict[int, _Text[Request]] = {}
        """Texts in the pool by order of arrival. A number that is not here is of one that left."""
        self._later: list[tuple[float, int]] = []
        """Heap of (due, arrival) of texts outside the window."""
        self._due: list[tuple[float, int]] = []
        """Heap of (due, arrival) of texts inside the window."""
        self._lengths: list[tuple[int, int]] = []
        """Sorted (tokens, arrival) of texts inside the window."""

    def __len__(self) -> int:
        """Number of texts in the pool."""
        return len(self._texts)

    def add(self, request: Request, lengths: Sequence[int], *, now: float, deadline: float) -> None:
        """Put a request's texts into the pool.

        lengths: tokens of each text, at least 1. now and deadline: seconds on one clock.
        """
        assert request not in self._left
        total, part, before = sum(lengths), PART_S * self.tokens_per_s, 0
        for number, tokens in enumerate(lengths):
            before += tokens
            end = min(total, math.ceil(before / part) * part)
            due = now + end / (SHARE * self.tokens_per_s)
            arrival = next(self._arrivals)
            self._texts[arrival] = _Text(due, tokens, request, number)
            heapq.heappush(self._later, (due, arrival))
        self._left[request] = (deadline, dict(enumerate(lengths)))
        self.tokens += total

    def drop(self, request: Request) -> None:
        """Take out what is left of a request; nothing if nothing is."""
        _, texts = self._left.pop(request, (0.0, {}))
        if not texts:
            return
        self.tokens -= sum(texts.values())
        gone = {arrival for arrival, text in self._texts.items() if text.request == request}
        self._lengths = [entry for entry in self._lengths if entry[1] not in gone]
        for arrival in gone:
            del self._texts[arrival]

    def next(self, *, now: float, takers: int = 1) -> Selection[Request]:
        """Take the next batch out of the pool; no rows if the pool is empty.

        takers: forward passes that could start now, this one included; pending texts are
        shared out among them in place of leaving the others idle.
        """
        expired: list[Request] = []
        while first := self._first():
            request = self._texts[first[1]].request
            if self._left[request][0] >= now:
                break
            expired.append(request)
            self.drop(request)
        if first is None:
            return Selection(rows=[], expired=expired)
        share = -(-self.tokens // max(1, takers))
        anchor = bisect.bisect_left(self._lengths, (self._texts[first[1]].tokens, first[1]))
        low, high = choose(
            self._lengths,
            anchor,
            max_tokens=min(self.max_tokens, share),
            max_padding=self.overhead_tokens,
        )
        chosen = [self._texts[arrival] for _, arrival in self._lengths[low:high]]
        late = {each.request for each in chosen if self._left[each.request][0] < now}
        for arrival in [arrival for _, arrival in self._lengths[low:high]]:
            self._take(arrival)
        del self._lengths[low:high]
        for request in late:
            self.drop(request)
        rows = [(each.request, each.number) for each in chosen if each.request not in late]
        return Selection(rows=rows, expired=[*expired, *late])

    def _take(self, arrival: int) -> None:
        text = self._texts.pop(arrival)
        _, texts = self._left[text.request]
        self.tokens -= texts.pop(text.number)
        if not texts:
            del self._left[text.request]

    def _first(self) -> tuple[float, int] | None:
        """(due, arrival) of the text that is due first, with the window filled around it."""
        while True:
            _forget(self._due, self._texts)
            _forget(self._later, self._texts)
            if not self._later:
                break
            if len(self._lengths) >= self.window and self._due[0] <= self._later[0]:
                break
            entry = heapq.heappop(self._later)
            heapq.heappush(self._due, entry)
            bisect.insort(self._lengths, (self._texts[entry[1]].tokens, entry[1]))
        return self._due[0] if self._due else None


def _forget(heap: list[tuple[float, int]], known: Container[int]) -> None:
    """Take off the top what has left the pool."""
    while heap and heap[0][1] not in known:
        heapq.heappop(heap)


def choose(
    lengths: Sequence[tuple[int, int]], anchor: int, *, max_tokens: int, max_padding: float
) -> tuple[int, int]:
    """The texts that share a batch with the one at `anchor`: from the first to before the second.

    lengths: sorted, tokens first. Rows times longest row stays within max_tokens, but for the
    anchor, which is taken whatever its length; of that, padding stays within max_padding, for
    which the batcher takes what a pass costs: in a simulation of real lengths, less than half
    or more than twice that came out worse.
    """
    low, high = anchor, anchor + 1
    total = lengths[anchor][0]
    while True:
        rows, longest = high - low + 1, lengths[high - 1][0]
        below = lengths[low - 1][0] if low > 0 else None
        above = lengths[high][0] if high < len(lengths) else None
        if below is not None:
            padded = rows * longest
            if padded > max_tokens or padded - total - below > max_padding:
                below = None
        if above is not None:
            padded = rows * above
            if padded > max_tokens or padded - total - above > max_padding:
                above = None
        if below is not None and (above is None or longest - below <= above - lengths[low][0]):
            low, total = low - 1, total + below
        elif above is not None:
            high, total = high + 1, total + above
        else:
            return low, high
