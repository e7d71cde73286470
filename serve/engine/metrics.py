"""Prometheus metrics that are right across processes.

Every process writes its counts into files of one directory, and whichever HTTP process is
asked for `/metrics` adds them up (prometheus_client's multiprocess mode, which reads
PROMETHEUS_MULTIPROC_DIR when it is first imported; so this module must be imported after
`serve.server` has set it). A counter of a process that has died keeps its value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_TOKENS = tuple(2**power for power in range(4, 16))


class HttpMetrics:
    """What HTTP processes count."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.request_seconds = Histogram(
            "textloop_request_duration_seconds",
            "Time from the request's first byte to the answer's last, by route and status",
            ["route", "status"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.request_errors = Counter(
            "textloop_request_errors",
            "Requests that failed, by reason: refused, timed out, cancelled or failed",
            ["reason"],
            registry=registry,
        )
        self.texts = Counter("textloop_texts", "Texts classified", registry=registry)
        self.tokenize_seconds = Histogram(
            "textloop_tokenize_duration_seconds",
            "Time to tokenize a request's texts",
            buckets=_SECONDS,
            registry=registry,
        )
        self._labels = Counter(
            "textloop_labels", "Texts by their best label", ["label"], registry=registry
        )
        self.waiting_tokens = Gauge(
            "textloop_inflight_tokens",
            "Tokens admitted and not yet answered",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.workers_ready = Gauge(
            "textloop_model_processes_ready",
            "Model processes that are ready, as the HTTP process that sees fewest does",
            registry=registry,
            multiprocess_mode="livemin",
        )
        # This is made before the HTTP processes are forked. They begin at 0 themselves; the
        # process that forks them sees no model process and must not be the one that sees fewest.
        self.workers_ready.set(math.inf)
        self._info = Gauge(
            "textloop_model_info",
            "The model that answers; its value is 1",
            ["model", "version", "backend"],
            registry=registry,
            multiprocess_mode="livemax",
        )

    def count_labels(self, labels: Sequence[str]) -> list[Counter]:
        """The counter of each label, in the given order."""
        return [self._labels.labels(label) for label in labels]

    def info(self, model: str, version: str, backend: str) -> Gauge:
        """The gauge of a model that this process serves; 1 while it does."""
        return self._info.labels(model, version, backend)


class WorkerMetrics:
    """What model processes count."""

    def __init__(self, *, device: str) -> None:
        registry = CollectorRegistry()
        self.forward_seconds = Histogram(
            "textloop_forward_duration_seconds",
            "Time of one forward pass",
            ["device"],
            buckets=_SECONDS,
            registry=registry,
        ).labels(device)
        self.queue_seconds = Histogram(
            "textloop_queue_duration_seconds",
            "Time a text waited for its forward pass",
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch_texts = Histogram(
            "textloop_batch_texts", "Texts in one forward pass", buckets=_TEXTS, registry=registry
        )
        self.batch_tokens = Histogram(
            "textloop_batch_tokens",
            "Tokens in one forward pass, padding included",
            buckets=_TOKENS,
            registry=registry,
        )
        self.tokens = Counter(
            "textloop_tokens", "Tokens of texts that went through the model", registry=registry
        )
        self.padding = Counter(
            "textloop_padding_tokens",
            "Tokens of padding; its share is padding / (padding + tokens)",
            registry=registry,
        )
        self.abandoned = Counter(
            "textloop_requests_cancelled",
            "Requests taken out of the queue because their client had gone or given up",
            registry=registry,
        )
        self.failed = Counter(
            "textloop_failed_texts", "Texts whose forward pass failed", registry=registry
        )

    def batch(self, lengths: Sequence[int], *, seconds: float, waits_s: Sequence[float]) -> None:
        """Count one forward pass over texts of these lengths, in tokens."""
        tokens = sum(lengths)
        padded = len(lengths) * max(lengths)
        self.forward_seconds.observe(seconds)
        self.batch_texts.observe(len(lengths))
        self.batch_tokens.observe(padded)
        self.tokens.inc(tokens)
        self.padding.inc(padded - tokens)
        for wait_s in waits_s:
            self.queue_seconds.observe(wait_s)


def exposition() -> tuple[bytes, str]:
    """All processes' metrics in Prometheus' text form, and its content type."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry), CONTENT_TYPE_LATEST
