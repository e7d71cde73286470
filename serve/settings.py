"""The keys of the server's configuration, with their defaults and limits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from serve.config import Config


class ServeConfig(Config):
    """Configuration of `python -m serve run`."""

    host: Literal["0.0.0.0", "127.0.0.1", "::"] = "127.0.0.1"
    """Address to listen on; 127.0.0.1 accepts local clients only, 0.0.0.0 all networks."""

    port: Annotated[int, Field(ge=1024, le=65535)] = 8000
    """TCP port to listen on."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of the model; auto uses every CUDA GPU, or the CPU if there is none."""

    workers_per_device: Annotated[int, Field(ge=1)] = 1
    """Model processes per device; each holds one copy of the weights."""

    api_processes: Annotated[int, Field(ge=1)] = 1
    """HTTP processes; they parse, validate and tokenize, so fast devices need several."""

    backend: Literal["auto", "torch", "onnx"] = "auto"
    """Runtime; auto uses onnx on the CPU if the bundle has an int8 export, else torch."""

    max_batch_tokens: Annotated[int, Field(ge=1)] | None = None
    """Maximum tokens in one forward pass, padding included; null measures the best at startup."""

    max_queue_tokens: Annotated[int, Field(ge=1)] | None = None
    """Maximum tokens in flight over all HTTP processes; a request that exceeds it gets 429; null
    takes 131,072, or 2 s of work if that is more, but at most `timeout_s` of work."""

    max_texts_per_request: Annotated[int, Field(ge=1)] = 512
    """Maximum texts in one request; a request with more gets 422."""

    max_body_bytes: Annotated[int, Field(ge=1)] = 2_000_000
    """Maximum size of a request body in bytes; a larger one gets 413."""

    max_text_characters: Annotated[int, Field(ge=1)] = 100_000
    """Maximum characters read of one text; only a text that cannot be truncated before it is
    tokenized, since nothing separates its words, needs so many and gets 422."""

    timeout_s: Annotated[float, Field(gt=0)] = 30.0
    """Seconds a request may wait for its response before it gets 504."""

    hang_s: Annotated[float, Field(gt=0)] = 30.0
    """Seconds without a sign of life from a model process, or of one forward pass, after which it
    is killed and restarted."""

    grace_s: Annotated[float, Field(gt=0)] = 25.0
    """Seconds for accepted requests to finish after SIGTERM; Kubernetes kills after 30."""

    model_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "textloop"
    """Model name in the paths of the KServe protocols and in metrics."""

    api_keys_file: Path | None = None
    """File of hashed keys, one per line, made by `serve key`; null disables authentication."""

    cors_origins: tuple[Annotated[str, Field(pattern=r"^(\*|https?://[^/\s]+)$")], ...] = ()
    """Allowed CORS origins, such as https://example.org."""

    access_log: bool = False
    """Print one JSON line per request to stdout."""

    tracing: bool = False
    """Export OpenTelemetry spans; needs the `otel` extra, configured by the OTEL_* variables."""

    log_level: Literal["critical", "error", "warning", "info", "debug"] = "warning"
    """Minimum log level."""
