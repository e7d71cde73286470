"""From texts to logits and probabilities: the only inference path.

The server, the file classifier, `train merge` and `train evaluate` all use `Predictor`, so
the model that was evaluated is the model that is served. `serve.inference.placement` chooses
where it runs.

Shape suffixes: N texts, L tokens, C labels.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from serve.bundle.seal import Bundle, open_bundle
from serve.inference.decision import Rules
from serve.inference.placement import (
    BackendName,
    DoesNotFit,
    pick_backend,
    pick_device,
    pick_precision,
)
from serve.inference.scores import Array, activate, default_activation
from serve.inference.text import Batch, Encoding, Text, TextEncoder, shortest_first
from serve.privacy import silence

logger = logging.getLogger(__name__)

WARM_UP: dict[bool, Text] = {False: "warm up", True: ("warm", "up")}
"""Input of test inferences, by whether the model takes pairs."""

BATCH_TOKENS = {
    ("onnx", "cpu"): (256, 512, 1024),
    ("torch", "cpu"): (256, 512, 1024, 2048),
    ("torch", "cuda"): (4096, 8192, 16384, 32768),
}
"""Batch sizes in tokens, padding included, by backend and kind of device.

Warm-up chooses one for the server; the batches of `batched_logits` have at most the last. The
memory of a pass grows with it. More tokens are no faster: those of a core leave its caches."""


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


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """The measured speed of a model on its device."""

    max_batch_tokens: int
    """Batch size in tokens above which larger batches are hardly faster."""
    overhead_tokens: float
    """Fixed cost of a forward pass, expressed in tokens."""
    tokens_per_s: float
    """Rate at full batches, summed over concurrent passes."""


class Predictor:
    """A model, its tokenizer and its labels, on one device."""

    def __init__(self, bundle: Bundle, encoder: TextEncoder, backend: Backend, *, batch_size: int):
        self.bundle = bundle
        self.encoder = encoder
        self.backend = backend
        self.batch_size = batch_size
        self.rules = Rules.of(bundle.manifest, backend.name)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: str = "auto",
        backend: BackendName = "auto",
        batch_size: int = 32,
        verify: bool = True,
    ) -> Predictor:
        """Open, verify and load a bundle.

        device: auto, cpu, cuda or cuda:N. backend: see `pick_backend`. batch_size: maximum
        number of texts per forward pass of `logits`; see also `BATCH_TOKENS`.
        Raises BundleError if the bundle is incomplete or altered.
        """
        silence()
        bundle = open_bundle(path, verify=verify)
        device = pick_device(device)
        name, _ = pick_backend(bundle, device=device, requested=backend)
        chosen: Backend
        if name == "onnx":
            from serve.inference.backends.onnx import OnnxBackend

            chosen = OnnxBackend.load(bundle.path)
        else:
            from serve.inference.backends.torch import TorchBackend

            precision = pick_precision(bundle, backend=name, device=device)
            chosen = TorchBackend.load(bundle.path, device=device, precision=precision)
        return cls(bundle, load_encoder(bundle), chosen, batch_size=batch_size)

    def predict(self, texts: Sequence[Text]) -> Array:
        """Return probabilities of shape (N, C), rows in the order of the texts.

        Rows of a single-label model sum to 1; those of a multi-label model need not.
        `rules` turns them into labels. Raises TextError for a text that cannot be classified.
        """
        logits_NC = self.logits(self.encoder.encode(texts))
        return activate(logits_NC, default_activation(self.bundle.manifest.task))

    def logits(self, encodings: Sequence[Encoding]) -> Array:
        """Return logits of shape (N, C), rows in the order of the encodings.

        Texts of similar length share a batch, because every text of a batch costs as much
        as its longest.
        """
        return batched_logits(self.backend, self.encoder, encodings, batch_size=self.batch_size)

    def warm_up(self, max_batch_tokens: int | None = None) -> Throughput:
        """Run the model and measure its speed.

        max_batch_tokens: batch size to use; None chooses one, the first that the next larger
        size does not beat by 3 %: a larger batch would only add latency. Smaller than asked for
        if batches of the longest texts do not fit into the GPU's memory.
        Raises DoesNotFit if even one text does not.
        """
        length = min(32, self.encoder.max_length)
        row = self._text_of(length)
        wanted = (
            BATCH_TOKENS[self.backend.name, self.backend.device_kind]
            if max_batch_tokens is None
            else (max_batch_tokens,)
        )
        fitting = self._largest_batch(wanted[-1])
        sizes = [size for size in wanted if size <= fitting] or [fitting]

        def seconds(rows: int) -> float:
            batch_NL = self.encoder.pad([row] * rows)
            times = []
            for _ in range(4):  # the first is often slow, and not counted
                started = time.perf_counter()
                self.backend.forward(batch_NL)
                times.append(time.perf_counter() - started)
            return statistics.median(times[1:])

        def rate(tokens: int) -> float:
            rows = max(1, tokens // length)
            return rows * length / seconds(rows)

        one_s = seconds(1)
        best, best_rate = sizes[0], rate(sizes[0])
        for size in sizes[1:]:
            if (larger := rate(size)) < 1.03 * best_rate:
                break
            best, best_rate = size, larger
        return Throughput(
            max_batch_tokens=best,
            overhead_tokens=max(1.0, one_s * best_rate - length),
            tokens_per_s=best_rate * self.backend.concurrency,
        )

    def _text_of(self, length: int) -> Encoding:
        """Return an encoding of `length` tokens."""
        encoding = self.encoder.encode([WARM_UP[self.encoder.is_pair]])[0]
        return {name: (list(ids) * length)[:length] for name, ids in encoding.items()}

    def _largest_batch(self, tokens: int) -> int:
        """Halve `tokens` until a batch of the longest texts fits into the device's memory."""
        if self.backend.device_kind != "cuda":
            return tokens  # the CPU's memory is not so small, and the pass would take seconds
        longest = self._text_of(self.encoder.max_length)
        while True:
            texts = max(1, tokens // self.encoder.max_length)
            try:
                self.backend.forward(self.encoder.pad([longest] * texts))
                return tokens
            except DoesNotFit as error:
                if texts == 1:
                    raise
                tokens //= 2
                logger.warning("%s; using at most %d tokens", error, tokens)


def batched_logits(
    backend: Backend, encoder: TextEncoder, encodings: Sequence[Encoding], *, batch_size: int
) -> Array:
    """Return logits of shape (N, C) in the order given, computed in length-sorted batches.

    batch_size: maximum number of texts in a batch; its tokens are limited by `BATCH_TOKENS`.
    """
    if not encodings:
        return np.zeros((0, 0), dtype=np.float32)
    order = shortest_first(encodings)
    lengths = [len(encodings[row]["input_ids"]) for row in order]
    max_tokens = BATCH_TOKENS[backend.name, backend.device_kind][-1]
    ends = batch_ends(lengths, batch_size, max_tokens=max_tokens)

    def forward(start: int, end: int) -> Array:
        return backend.forward(encoder.pad([encodings[row] for row in order[start:end]]))

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


def load_encoder(bundle: Bundle) -> TextEncoder:
    """Load the bundle's tokenizer without its weights."""
    manifest = bundle.manifest
    sizes: Any = {"max_length": manifest.max_length, "is_pair": manifest.is_pair}
    if manifest.tokenizer.fast:
        return TextEncoder.from_rules(bundle.path, manifest.tokenizer, **sizes)
    return TextEncoder.from_directory(bundle.path, **sizes)
