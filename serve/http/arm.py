"""Everything that an HTTP process knows of one bundle, as one frozen object: the arm.

A request takes its arm once, before its body is parsed (`serve.http.context`), and every
protocol reads labels, scores, headers and version from that arm. So two bundles can live in
one server, and no answer mixes them. Admission, limits and configuration belong to the
server, not to an arm.
"""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import Counter

from serve.bundle.manifest import Manifest
from serve.bundle.seal import Bundle
from serve.engine.admission import Admission
from serve.engine.metrics import HttpMetrics
from serve.engine.workers import WorkerPool
from serve.inference.decision import Rules
from serve.inference.placement import pick_backend, pick_precision
from serve.inference.predictor import WARM_UP, load_encoder
from serve.inference.scores import Activation, default_activation, json_heads
from serve.inference.text import Encoding, TextEncoder
from serve.settings import ServeConfig


@dataclass(frozen=True, kw_only=True, eq=False)
class Arm:
    """One bundle, the model processes that run it, and how to answer with it."""

    manifest: Manifest
    version: str
    """The bundle's version, computed once."""
    version_header: tuple[bytes, bytes]
    device: str
    backend: str
    backend_reason: str
    """Why this backend was chosen."""
    precision: str
    encoder: TextEncoder
    activation: Activation
    """The task's own function from logits to probabilities."""
    rules: Rules
    json_heads: list[bytes]
    """Of `serve.inference.scores.json_heads`, for the bundle's labels."""
    label_counts: list[Counter]
    """Texts by the label that comes first in their answer, in label order."""
    warm_up: list[Encoding]
    """The test inference of a readiness probe."""
    pool: WorkerPool

    async def model_processes(self) -> tuple[int, int]:
        """Model processes that answer a test inference, and how many there should be."""
        return await self.pool.probe(self.warm_up), len(self.pool.paths)

    async def is_ready(self) -> bool:
        """Whether every model process answers."""
        answering, wanted = await self.model_processes()
        return answering == wanted


def build_arm(
    bundle: Bundle,
    config: ServeConfig,
    *,
    device: str,
    admission: Admission,
    metrics: HttpMetrics,
) -> Arm:
    """The arm of a verified bundle on a resolved device; it connects when its pool is started."""
    manifest = bundle.manifest
    version = manifest.version
    backend, reason = pick_backend(bundle, device=device, requested=config.backend)
    encoder = load_encoder(bundle)
    return Arm(
        manifest=manifest,
        version=version,
        version_header=(b"x-model-version", version.encode()),
        device=device,
        backend=backend,
        backend_reason=reason,
        precision=pick_precision(bundle, backend=backend, device=device),
        encoder=encoder,
        activation=default_activation(manifest.task),
        rules=Rules.of(manifest, backend),
        json_heads=json_heads(manifest.labels),
        label_counts=metrics.count_labels(manifest.labels),
        warm_up=encoder.encode([WARM_UP[encoder.is_pair]]),
        pool=WorkerPool(encoder.columns, admission=admission, metrics=metrics),
    )
