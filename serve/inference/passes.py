"""Forward passes: batches of token ids to logits, and what makes logits an answer.

`serve.inference.predictor` runs every text of a bundle through `checked_forward`, whether it
serves, classifies a file or evaluates.

Shape suffixes: N texts, L tokens, C labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

import numpy as np

from serve.inference.scores import Array
from serve.inference.text import Batch, Encoding, TextEncoder, shortest_first

Result = TypeVar("Result")

BATCH_TOKENS = {
    ("onnx", "cpu"): (256, 512, 1024),
    ("torch", "cpu"): (256, 512, 1024, 2048),
    ("torch", "cuda"): (4096, 8192, 16384, 32768),
}
"""Batch sizes in tokens, padding included, by backend and kind of device.

Warm-up chooses one for the server. The memory of a pass grows with it. More tokens are no
faster: those of a core leave its caches."""

MIN_BULK_TOKENS = 4096
"""Tokens from which a backend is prepared for a pass over many texts."""

LONGEST_TEXTS = 2
"""How many of the longest texts it is prepared with."""


class BadLogits(FloatingPointError, ValueError):
    """A model returned logits that are no answer: not finite, or not one per label and text."""


class Backend(Protocol):
    """Something that runs the model."""

    name: str
    """onnx or torch."""
    precision: str
    """Precision of the matrix products: int8, bf16 or fp32."""
    tolerance: float
    """Maximum difference between the scores of one text in two different batches."""
    device_kind: str
    """cpu or cuda."""
    padded_because: str
    """Why batches are padded in the forward pass; empty if they are not."""
    concurrency: int
    """Number of calls of `forward` that may and should run at the same time in a server."""
    bulk_tokens: int
    """Largest batch, in tokens with padding, of a pass over many texts."""

    def forward(self, batch_NL: Batch) -> Array:
        """Return logits of shape (N, C) for padded ids and their mask, each (N, L)."""
        ...

    def prepare(self, longest_NL: Batch) -> None:
        """Make ready for a pass over many texts, of which these are the longest."""
        ...

    def run_all(self, run: Callable[[int], Array], tokens: Sequence[int]) -> Iterator[Array]:
        """Yield the results of `run` for the numbers of all batches, in order.

        run: calls `forward` once. tokens: of each batch, fewest first.
        """
        ...

    def release(self, batch_NL: Batch) -> bool:
        """Release some of the memory that passes left allocated, by running a small batch.

        Returns False if there was none.
        """
        ...


def checked_forward(backend: Backend, batch_NL: Batch, num_labels: int) -> Array:
    """Run a batch and check its logits: every answer of Textloop goes through here.

    Raises BadLogits unless they are finite, and one for each text and label.
    """
    logits_NC = backend.forward(batch_NL)
    expected = (len(batch_NL["input_ids"]), num_labels)
    if logits_NC.shape != expected or logits_NC.dtype != np.float32:
        raise BadLogits(
            f"the model returned logits of shape {logits_NC.shape} ({logits_NC.dtype}), expected "
            f"{expected} (float32)"
        )
    if not np.isfinite(logits_NC).all():
        raise BadLogits("the model returned logits that are not finite")
    return logits_NC


def batched_logits(
    backend: Backend,
    encoder: TextEncoder,
    encodings: Sequence[Encoding],
    *,
    batch_size: int,
    num_labels: int | None = None,
    progress: Callable[[int], object] = lambda texts: None,
) -> Array:
    """Return logits of shape (N, C) in the order given, computed in length-sorted batches.

    batch_size: maximum number of texts in a batch; the backend limits its tokens.
    num_labels: of a bundle, whose logits are checked; None for a model that is being judged.
    progress: called with the number of texts after each batch.
    """
    if not encodings:
        return np.zeros((0, 0), dtype=np.float32)
    order = shortest_first(encodings)
    lengths = [len(encodings[row]["input_ids"]) for row in order]
    if sum(lengths) >= MIN_BULK_TOKENS:
        backend.prepare(encoder.pad([encodings[row] for row in order[-LONGEST_TEXTS:]]))
    ends = batch_ends(lengths, batch_size, max_tokens=backend.bulk_tokens)
    starts = [0, *ends[:-1]]

    def forward(number: int) -> Array:
        batch_NL = encoder.pad([encodings[row] for row in order[starts[number] : ends[number]]])
        if num_labels is None:
            return backend.forward(batch_NL)
        return checked_forward(backend, batch_NL, num_labels)

    tokens = [(end - start) * lengths[end - 1] for start, end in zip(starts, ends, strict=True)]
    parts = []
    for part_NC in backend.run_all(forward, tokens):
        parts.append(part_NC)
        progress(len(part_NC))
    logits_NC = np.empty((len(order), parts[0].shape[1]), dtype=np.float32)
    logits_NC[order] = np.concatenate(parts)
    return logits_NC


def in_order(
    run: Callable[[int], Result],
    count: int,
    workers: int,
    *,
    initializer: Callable[[], None] | None = None,
) -> Iterator[Result]:
    """Yield `run(0)`, `run(1)`, ... up to `count`, so many at a time, each in a thread.

    initializer: called by each thread at its start. After an error nothing more is started.
    """
    pool = ThreadPoolExecutor(workers, initializer=initializer)
    try:
        yield from pool.map(run, range(count))
    finally:
        pool.shutdown(cancel_futures=True)


def batch_ends(lengths: Sequence[int], batch_size: int, *, max_tokens: int) -> list[int]:
    """Cut texts, shortest first, into batches; return where each ends.

    Rows times longest row of a batch stays within max_tokens, except for a text alone.
    """
    ends = []
    start = 0
    for n, length in enumerate(lengths):
        rows = n + 1 - start
        if n > start and (rows > batch_size or rows * length > max_tokens):
            ends.append(n)
            start = n
    return [*ends, len(lengths)]
