"""The keys of the server's configuration, with their defaults and limits."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from serve.config import Config

_LABEL = re.compile(r"[A-Za-z0-9_-]{1,63}")


def _host(host: str) -> str:
    """Check an address or name; the brackets of an IPv6 address in a URL are removed."""
    inner = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        ipaddress.ip_address(inner)
    except ValueError:
        labels = host.removesuffix(".").split(".")
        # A name that ends in a number is an address with a mistake.
        is_name = all(map(_LABEL.fullmatch, labels)) and not labels[-1].isdigit()
        if not is_name or len(host) > 253:
            raise ValueError(
                "expected an IP address such as 0.0.0.0 or ::, or a host name; the port is a key "
                "of its own"
            ) from None
    return inner


class ServeConfig(Config):
    """Configuration of `textloop serve`."""

    host: Annotated[str, AfterValidator(_host)] = "127.0.0.1"
    """IP address or host name to listen on; 127.0.0.1: local clients only, :: or 0.0.0.0: all."""

    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """TCP port to listen on; those under 1024 may need privileges."""

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

    load_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """Seconds in which a promoted bundle must be loaded beside the one that answers."""

    keep_s: Annotated[float, Field(ge=0)] = 600.0
    """Seconds that the model processes of the bundle before stay ready for a rollback, which then
    takes a moment; they hold its memory."""

    grace_s: Annotated[float, Field(gt=0)] = 25.0
    """Seconds for accepted requests to finish after SIGTERM; Kubernetes kills after 30."""

    max_head_bytes: Annotated[int, Field(ge=1024)] = 32_768
    """Maximum size of a request's line and headers in bytes; a larger one gets 431."""

    max_headers: Annotated[int, Field(ge=8)] = 100
    """Maximum number of headers of a request; one with more gets 431."""

    head_timeout_s: Annotated[float, Field(gt=0)] = 20.0
    """Seconds for a client to send the line and headers of a request; then it gets 408."""

    body_timeout_s: Annotated[float, Field(gt=0)] = 30.0
    """Seconds for a client to send the body of a request; then it gets 408."""

    idle_timeout_s: Annotated[float, Field(gt=0)] = 75.0
    """Seconds that a connection may wait for its next request; a load balancer's should be less."""

    send_timeout_s: Annotated[float, Field(gt=0)] = 30.0
    """Seconds for a client to read its response; then the connection is closed."""

    max_connections: Annotated[int, Field(ge=1)] | None = None
    """Maximum open connections of an HTTP process; null for 8,192, or what open files allow."""

    max_pending_body_bytes: Annotated[int, Field(ge=1)] = 128_000_000
    """Maximum bytes of large bodies in one HTTP process without a response yet; more get 503."""

    model_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "textloop"
    """Model name in the paths of the KServe protocols and in metrics."""

    api_keys_file: Path | None = None
    """File of hashed keys, one per line, made by `textloop key`; null disables authentication."""

    cors_origins: tuple[Annotated[str, Field(pattern=r"^(\*|https?://[^/\s]+)$")], ...] = ()
    """Allowed CORS origins, such as https://example.org."""

    root_path: Annotated[str, Field(pattern=r"^(/[A-Za-z0-9._~-]+)*$")] = ""
    """Path prefix at a proxy, such as /models/bank, whether the proxy removes it or not."""

    access_log: bool = False
    """Print one JSON line per request to stdout."""

    tracing: bool = False
    """Export OpenTelemetry spans; needs the `otel` extra, configured by the OTEL_* variables."""

    log_level: Literal["critical", "error", "warning", "info", "debug"] = "warning"
    """Minimum log level."""

    @model_validator(mode="after")
    def _holds_a_body(self) -> ServeConfig:
        if self.max_pending_body_bytes < self.max_body_bytes:
            raise ValueError(
                f"max_pending_body_bytes = {self.max_pending_body_bytes} is less than "
                f"max_body_bytes = {self.max_body_bytes}, so that no server could take such a "
                "body; raise it"
            )
        return self

    @property
    def url(self) -> str:
        """The server's address for a client on this machine, or on the network of `host`."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}{self.root_path}"
