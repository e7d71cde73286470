"""Large requests: tokenized in turns with others, computed in slices, given up at any time.

A request is large if tokenizing it on the event loop would keep others waiting, or if its
tokens are more than a slice of what may be in flight (`serve.engine.admission`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import numpy as np

from serve.engine.admission import Unavailable
from serve.engine.transport import Status, WorkReply
from serve.engine.workers import ClientGone, WorkerPool, never, timed_out
from serve.inference.cores import usable_cores
from serve.inference.text import Encoding, Text, TextEncoder, TextError, count_tokens

SLICE_CHARACTERS = 16_384
"""Characters tokenized before it is another request's turn: tens of milliseconds of work."""

WAITING_BODIES = 8
"""Bodies of the maximum size whose characters may wait for tokenization."""

LANES = 2
"""Slices of one request in flight, so that the device need not wait for the next."""

SLACK = 1.5
"""Factor by which the rest may seem to need more time than is left; the speed so far misses what
is in flight."""

Result = TypeVar("Result")


def characters_of(texts: Sequence[Text]) -> int:
    """Characters of all texts."""
    return sum(
        len(text) if isinstance(text, str) else len(text[0]) + len(text[1]) for text in texts
    )


class Tokenizing:
    """Tokenizes in few threads, a slice of each waiting request in turn.

    max_characters: characters that may wait; a quarter is kept for requests of up to a
    sixteenth.
    """

    def __init__(self, *, max_characters: int) -> None:
        self.max_characters = max_characters
        self.characters = 0
        self._threads = 1 if usable_cores() < 4 else 2
        self._turns = asyncio.Semaphore(self._threads)  # first come, first served
        self._pool: ThreadPoolExecutor | None = None

    async def encode(
        self, encoder: TextEncoder, texts: Sequence[Text], characters: int, **options: Any
    ) -> list[Encoding]:
        """Return the encodings of the texts; options as for `TextEncoder.encode`.

        Raises TextError, and Unavailable 429 if too many characters wait.
        """
        limit = self.max_characters
        if 16 * characters > limit:
            limit -= limit // 4
        if self.characters and self.characters + characters > limit:
            raise Unavailable(
                429,
                "queue_full",
                f"queue full: {self.characters} characters wait to be tokenized, {characters} "
                f"more would exceed the limit of {limit}; retry later",
                1,
            )
        if self._pool is None:  # not before the process was forked
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="tokenize")
        loop = asyncio.get_running_loop()
        encodings: list[Encoding] = []
        self.characters += characters
        try:
            for part in _parts(texts):
                async with self._turns:
                    call = partial(encoder.encode, part, **options)
                    encodings += await loop.run_in_executor(self._pool, call)
        except TextError as error:
            error.index += len(encodings)
            raise
        finally:
            self.characters -= characters
        return encodings


def _parts(texts: Sequence[Text]) -> Iterator[Sequence[Text]]:
    """Divide texts into parts of about SLICE_CHARACTERS, at least one text each."""
    start = characters = 0
    for number, text in enumerate(texts):
        size = characters_of([text])
        if number > start and characters + size > SLICE_CHARACTERS:
            yield texts[start:number]
            start, characters = number, 0
        characters += size
    yield texts[start:]


class Computation:
    """The texts of a large request on their way through the model."""

    def __init__(self, pool: WorkerPool, encodings: list[Encoding]) -> None:
        self.pool = pool
        self.encodings = encodings
        self.answered = 0
        """Texts that have been classified."""
        self._replies: dict[int, WorkReply] = {}
        self._left = self._answered_tokens = 0
        self._started_s = 0.0

    async def run(self, tokens: int, *, deadline_s: float) -> WorkReply:
        """Return the logits of all texts; arguments and errors as for `WorkerPool.submit`.

        tokens: those of all texts. deadline_s: in seconds of time.monotonic.
        """
        admission = self.pool.admission
        admission.check_large(tokens, len(self.encodings))
        self._left, self._started_s = tokens, time.monotonic()
        admission.expect(tokens)
        slices = iter(self._slices(admission.slice_tokens))
        lanes = [asyncio.create_task(self._lane(slices, deadline_s)) for _ in range(LANES)]
        try:
            await asyncio.gather(*lanes)
        finally:
            admission.expect(-self._left)
            for lane in lanes:
                lane.cancel()
        replies = [reply for _, reply in sorted(self._replies.items())]
        return WorkReply(
            id=0,
            status=Status.OK,
            queue_s=replies[0].queue_s,
            compute_s=max(reply.compute_s for reply in replies),
            logits_NC=np.concatenate([reply.logits_NC for reply in replies]),
        )

    async def _lane(self, slices: Iterator[tuple[int, int]], deadline_s: float) -> None:
        """Send one slice after the other."""
        pool, admission = self.pool, self.pool.admission
        for start, end in slices:
            encodings = self.encodings[start:end]
            tokens = count_tokens(encodings)
            await admission.enter_slice(tokens)
            self._left -= tokens
            admission.expect(-tokens)
            try:
                left_s = deadline_s - time.monotonic()
                self._check_progress(tokens, left_s)
                connection = pool.least_busy()
                self._replies[start] = await pool.ask(
                    connection, encodings, tokens, timeout_s=left_s, gone=never
                )
            finally:
                admission.leave(tokens)
            self.answered += end - start
            self._answered_tokens += tokens

    def _check_progress(self, tokens: int, left_s: float) -> None:
        """Raise Unavailable 504 if the rest cannot be answered in time at the speed so far."""
        elapsed_s = time.monotonic() - self._started_s
        done = self._answered_tokens
        is_early = elapsed_s < self.pool.admission.timeout_s / 3
        if done and not is_early and (tokens + self._left) * elapsed_s / done > SLACK * left_s:
            raise timed_out(self.pool.admission.timeout_s)

    def _slices(self, max_tokens: int) -> Iterator[tuple[int, int]]:
        """Half-open ranges of texts of at most `max_tokens`, at least one text each."""
        start = tokens = 0
        for number, encoding in enumerate(self.encodings):
            length = len(encoding["input_ids"])
            if number > start and tokens + length > max_tokens:
                yield start, number
                start, tokens = number, 0
            tokens += length
        yield start, len(self.encodings)


async def within(
    work: Coroutine[Any, Any, Result],
    *,
    timeout_s: float,
    gone: Callable[[], Awaitable[None]],
) -> Result:
    """The result of `work`, which is cancelled when its time is over or its client has left.

    Raises ClientGone, Unavailable 504, and what `work` raises.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(gone())
    try:
        done, _ = await asyncio.wait(
            (task, watch), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
        )
        if task in done:
            return task.result()
        raise ClientGone() if watch in done else timed_out(timeout_s)
    finally:
        task.cancel()
        watch.cancel()
