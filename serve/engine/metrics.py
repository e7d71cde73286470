"""Prometheus metrics aggregated over all processes.

Every process writes its metrics to files in one directory, and the HTTP process that serves
`/metrics` aggregates them. This is prometheus_client's multiprocess mode, which reads
PROMETHEUS_MULTIPROC_DIR when the first metric is made. The counters of a process that has died
keep their values.
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
from prometheus_client.registry import Collector

from serve.engine.metric_files import use_allocated_files

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_TOKENS = tuple(2**power for power in range(4, 16))


class HttpMetrics:
    """Metrics of the HTTP processes."""

    def __init__(self) -> None:
        use_allocated_files()
        registry = CollectorRegistry()
        self.request_seconds = Histogram(
            "textloop_request_duration_seconds",
            "Time from the first byte of the request to the last byte of the response",
            ["route", "status", "arm"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.request_errors = Counter(
            "textloop_request_errors",
            "Requests without a successful response, by reason",
            ["reason"],
            registry=registry,
        )
        self.texts = Counter("textloop_texts", "Texts classified", ["arm"], registry=registry)
        self.tokenize_seconds = Histogram(
            "textloop_tokenize_duration_seconds",
            "Time to tokenize a request's texts",
            buckets=_SECONDS,
            registry=registry,
        )
        self._labels = Counter(
            "textloop_labels",
            "Texts by first label of answer",
            ["arm", "label"],
            registry=registry,
        )
        self.inflight_tokens = Gauge(
            "textloop_inflight_tokens",
            "Tokens of admitted requests without a response yet",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.workers_ready = Gauge(
            "textloop_model_processes_ready",
            "Ready model processes (minimum over HTTP processes)",
            registry=registry,
            multiprocess_mode="livemin",
        )
        # Created before the HTTP processes are forked. They reset it to 0; the process that
        # forks them connects to no model process and must not supply the minimum.
        self.workers_ready.set(math.inf)
        self.connections = Gauge(
            "textloop_connections",
            "Open connections of clients",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.connections_closed = Counter(
            "textloop_connections_closed",
            "Connections that the server closed for a limit, by reason",
            ["reason"],
            registry=registry,
        )
        self.access_log_dropped = Counter(
            "textloop_access_log_dropped",
            "Lines of the access log that could not be written",
            registry=registry,
        )
        self.log_dropped = Counter(
            "textloop_log_dropped",
            "Lines of the server's own log that an HTTP process could not write",
            registry=registry,
        )
        self._keys = Gauge(
            "textloop_api_keys",
            "Lines of the file of API keys, valid or invalid, and whether it is unreadable",
            ["state"],
            registry=registry,
            multiprocess_mode="livemostrecent",
        )

    def count_labels(self, arm: str, labels: Sequence[str]) -> list[Counter]:
        """The counter of each label in the answers of an arm, in the given order."""
        return [self._labels.labels(arm, label) for label in labels]

    def keys(self, state: str) -> Gauge:
        """The gauge of API keys that are `valid`, `invalid`, or whose file is `unreadable`."""
        return self._keys.labels(state)


class WorkerMetrics:
    """Metrics of the model processes."""

    def __init__(self, *, device: str, packed: bool = False, slot: int | None = None) -> None:
        """packed: whether passes run without padding. slot: as for `use_allocated_files`."""
        self.packed = packed
        use_allocated_files(slot)
        registry = CollectorRegistry()
        Gauge(
            "textloop_packed",
            "Whether forward passes run without padding (minimum over model processes)",
            registry=registry,
            multiprocess_mode="min",
        ).set(packed)
        self.forward_seconds = Histogram(
            "textloop_forward_duration_seconds",
            "Time of one forward pass",
            ["device"],
            buckets=_SECONDS,
            registry=registry,
        ).labels(device)
        self.queue_seconds = Histogram(
            "textloop_queue_duration_seconds",
            "Time a text waited before its forward pass",
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
            "textloop_tokens",
            "Tokens of texts processed by the model, padding excluded",
            registry=registry,
        )
        self.padding = Counter(
            "textloop_padding_tokens",
            "Padding tokens; the padding fraction is padding / (padding + tokens)",
            registry=registry,
        )
        self.cancelled = Counter(
            "textloop_requests_cancelled",
            "Requests cancelled in the queue: client disconnected or timed out",
            registry=registry,
        )
        self.failed = Counter(
            "textloop_failed_texts", "Texts whose forward pass failed", registry=registry
        )

    def record_batch(
        self, lengths: Sequence[int], *, seconds: float, waits_s: Sequence[float]
    ) -> None:
        """Record one forward pass over texts of these lengths, in tokens."""
        tokens = sum(lengths)
        padded = tokens if self.packed else len(lengths) * max(lengths)
        self.forward_seconds.observe(seconds)
        self.batch_texts.observe(len(lengths))
        self.batch_tokens.observe(padded)
        self.tokens.inc(tokens)
        self.padding.inc(padded - tokens)
        for wait_s in waits_s:
            self.queue_seconds.observe(wait_s)


def exposition(own: Collector | None = None) -> tuple[bytes, str]:
    """Return the metrics of all processes in the Prometheus text format, and its content type.

    own: what the process that is asked knows itself. Files keep every version that was ever live.
    """
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    if own is not None:
        registry.register(own)
    return generate_latest(registry), CONTENT_TYPE_LATEST
