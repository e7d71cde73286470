"""Forward passes: batches of token ids to logits, and what makes logits an answer.

`serve.inference.predictor` runs every text of a bundle through `checked_forward`, whether it
serves, classifies a file or evaluates.

Shape suffixes: N texts, L tokens, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np

from serve.inference.scores import Array
from serve.inference.text import Batch, Encoding, TextEncoder, shortest_first

BATCH_TOKENS = {
    ("onnx", "cpu"): (256, 512, 1024),
    ("torch", "cpu"): (256, 512, 1024, 2048),
    ("torch", "cuda"): (4096, 8192, 16384, 32768),
}
"""Batch sizes in tokens, padding included, by backend and kind of device.

Warm-up chooses one for the server; the batches of `batched_logits` have at most the last. The
memory of a pass grows with it. More tokens are no faster: those of a core leave its caches."""


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
    """Number of calls of `forward` that may and should run at the same time."""

    def forward(self, batch_NL: Batch) -> Array:
        """Return logits of shape (N, C) for padded ids and their mask, each (N, L)."""
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
) -> Array:
    """Return logits of shape (N, C) in the order given, computed in length-sorted batches.

    batch_size: maximum number of texts in a batch; its tokens are limited by `BATCH_TOKENS`.
    num_labels: of a bundle, whose logits are checked; None for a model that is being judged.
    """
    if not encodings:
        return np.zeros((0, 0), dtype=np.float32)
    order = shortest_first(encodings)
    lengths = [len(encodings[row]["input_ids"]) for row in order]
    max_tokens = BATCH_TOKENS[backend.name, backend.device_kind][-1]
    ends = batch_ends(lengths, batch_size, max_tokens=max_tokens)

    def forward(start: int, end: int) -> Array:
        batch_NL = encoder.pad([encodings[row] for row in order[start:end]])
        if num_labels is None:
            return backend.forward(batch_NL)
        return checked_forward(backend, batch_NL, num_labels)

    with ThreadPoolExecutor(backend.concurrency) as pool:
        parts = list(pool.map(forward, [0, *ends[:-1]], ends))
    logits_NC = np.empty((len(order), parts[0].shape[1]), dtype=np.float32)
    logits_NC[order] = np.concatenate(parts)
    return logits_NC


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
