"""Everything that an HTTP process knows of one bundle, as one frozen object: the arm.

A request takes its arm once, before its body is parsed (`serve.http.context`), and every
protocol reads labels, scores, headers and version from that arm. So two bundles can live in
one server, and no answer mixes them. Admission, limits and configuration belong to the
server, not to an arm; which arms answer, and in which role, is in `serve.http.arms.roles`.
"""

from __future__ import annotations

from dataclasses import dataclass

from serve.bundle.contents import is_tokenizer_file
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
    beside: Arm | None = None,
) -> Arm:
    """The arm of a verified bundle on a resolved device; it connects when its pool is started.

    beside: an arm whose tokenizer is used again if it is the same; loading one takes a while, in
    which an HTTP process may answer nobody.
    """
    manifest = bundle.manifest
    version = manifest.version
    backend, reason = pick_backend(bundle, device=device, requested=config.backend)
    encoder = beside.encoder if beside and _same_tokenizer(manifest, beside.manifest) else None
    encoder = encoder or load_encoder(bundle)
    return Arm(
        manifest=manifest,
        version=version,
        device=device,
        backend=backend,
        backend_reason=reason,
        precision=pick_precision(bundle, backend=backend, device=device),
        encoder=encoder,
        activation=default_activation(manifest.task),
        rules=Rules.of(manifest, backend),
        json_heads=json_heads(manifest.labels),
        warm_up=encoder.encode([WARM_UP[encoder.is_pair]]),
        pool=WorkerPool(encoder.columns, admission=admission, metrics=metrics),
    )


def _same_tokenizer(one: Manifest, other: Manifest) -> bool:
    """Whether two bundles turn the same texts into the same token ids."""

    def parts(manifest: Manifest) -> tuple[object, ...]:
        files = {name: digest for name, digest in manifest.files.items() if is_tokenizer_file(name)}
        return files, manifest.tokenizer, manifest.max_length, manifest.is_pair

    return parts(one) == parts(other)
