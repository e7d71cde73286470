"""Choose the pending texts of the next forward pass. Pure: no clock, no I/O, no threads.

The texts of all requests are in one pool. Each text has a due time: the arrival of its
request plus the time that the request would take on its share of the device. A large request
is split into parts, each due after the previous one. So a single text overtakes the tail of a
large request, a short text overtakes a long one that has just arrived, requests of equal size
are served in order of arrival, and no text starves, because later arrivals are due later.
This is fair queueing by finish time (Demers, Keshav and Shenker 1989).

The text with the earliest due time is always in the next batch. Others join it from a bounded
window of the texts due next, closest in length first, because every row of a batch costs as
much as its longest. The padding that is worth accepting depends on the fixed cost of a pass:
almost none on a CPU, so batches are small and uniform in length; substantial on a GPU.
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
"""Fraction of the device that a due time assumes, unless told otherwise; the rest is for requests
that arrive later."""

PART_S = 0.1
"""Size of the parts of a large request, in seconds of the whole device: the longest time that
one request may occupy the device alone."""

Request = TypeVar("Request", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class Selection(Generic[Request]):
    """The texts that `Batcher.next` removed from the pool."""

    rows: list[tuple[Request, int]]
    """Texts for one forward pass: the request, and the index of the text in it."""

    expired: list[Request]
    """Requests past their deadline; all their texts have left the pool."""

    is_large: bool = False
    """Whether the texts are those of large requests; see `serve.engine.lanes`."""


@dataclass(frozen=True, slots=True)
class _Text(Generic[Request]):
    due: float
    tokens: int
    request: Request
    number: int


class Batcher(Generic[Request]):
    """The pool of pending texts of one model process.

    max_tokens: limit on rows times longest row of one batch; a longer text runs alone.
    overhead_tokens: fixed cost of a forward pass, expressed in tokens.
    tokens_per_s: the device's measured rate; may be updated at any time.
    share: fraction of the device that due times assume.
    window: number of texts, in order of due time, that a batch is chosen from.
    """

    def __init__(
        self,
        *,
        max_tokens: int,
        overhead_tokens: float,
        tokens_per_s: float,
        share: float = SHARE,
        window: int = 512,
    ) -> None:
        self.max_tokens = max_tokens
        self.overhead_tokens = overhead_tokens
        self.tokens_per_s = tokens_per_s
        self.share = share
        self.window = window
        self.tokens = 0
        self._left: dict[Request, tuple[float, dict[int, int]]] = {}
        """Per request: its deadline, and the tokens of each of its texts still in the pool."""
        self._arrivals = count()
        self._texts: dict[int, _Text[Request]] = {}
        """Texts in the pool, by arrival number. Heap entries of other numbers are stale."""
        self._later: list[tuple[float, int]] = []
        """Heap of (due, arrival) of texts outside the window."""
        self._due: list[tuple[float, int]] = []
        """Heap of (due, arrival) of texts inside the window."""
        self._lengths: list[tuple[int, int]] = []
        """Sorted (tokens, arrival) of texts inside the window."""

    def __len__(self) -> int:
        """Return the number of texts in the pool."""
        return len(self._texts)

    def add(self, request: Request, lengths: Sequence[int], *, now: float, deadline: float) -> None:
        """Add a request's texts to the pool.

        lengths: tokens of each text, at least 1. now, deadline: seconds on the same clock.
        """
        assert request not in self._left
        total, part, before = sum(lengths), PART_S * self.tokens_per_s, 0
        for number, tokens in enumerate(lengths):
            before += tokens
            end = min(total, math.ceil(before / part) * part)
            due = now + end / (self.share * self.tokens_per_s)
            arrival = next(self._arrivals)
            self._texts[arrival] = _Text(due, tokens, request, number)
            heapq.heappush(self._later, (due, arrival))
        self._left[request] = (deadline, dict(enumerate(lengths)))
        self.tokens += total

    def drop(self, request: Request) -> None:
        """Remove the remaining texts of a request, if there are any."""
        _, texts = self._left.pop(request, (0.0, {}))
        if not texts:
            return
        self.tokens -= sum(texts.values())
        gone = {arrival for arrival, text in self._texts.items() if text.request == request}
        self._lengths = [entry for entry in self._lengths if entry[1] not in gone]
        for arrival in gone:
            del self._texts[arrival]

    def first_due(self) -> float | None:
        """When the first text in the pool is due; None if there is none."""
        first = self._first()
        return None if first is None else first[0]

    def next(self, *, now: float, takers: int = 1) -> Selection[Request]:
        """Remove the next batch from the pool; it has no rows if the pool is empty.

        takers: forward passes that could start now, including this one; the pending texts are
        divided among them so that none stays idle.
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
        """Fill the window; return (due, arrival) of the text with the earliest due time."""
        while True:
            _drop_stale(self._due, self._texts)
            _drop_stale(self._later, self._texts)
            if not self._later:
                break
            if len(self._lengths) >= self.window and self._due[0] <= self._later[0]:
                break
            entry = heapq.heappop(self._later)
            heapq.heappush(self._due, entry)
            bisect.insort(self._lengths, (self._texts[entry[1]].tokens, entry[1]))
        return self._due[0] if self._due else None


def _drop_stale(heap: list[tuple[float, int]], known: Container[int]) -> None:
    """Pop entries from the top of the heap whose text has left the pool."""
    while heap and heap[0][1] not in known:
        heapq.heappop(heap)


def choose(
    lengths: Sequence[tuple[int, int]], anchor: int, *, max_tokens: int, max_padding: float
) -> tuple[int, int]:
    """Return the half-open range of texts that share a batch with the one at `anchor`.

    lengths: sorted (tokens, arrival). Rows times longest row stays within max_tokens, except
    that the anchor is taken whatever its length. Its padding stays within max_padding, for
    which the batcher passes the fixed cost of a pass: in a simulation of real lengths, less
    than half or more than twice that value did worse.
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
