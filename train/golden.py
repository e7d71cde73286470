"""The golden cases of a bundle that is about to be sealed: recorded, and reproduced once.

Made with the code that serves, on the written directory; see `serve.inference.golden`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from serve.bundle.manifest import Manifest
from serve.bundle.seal import Bundle
from serve.files import write_atomic
from serve.inference.golden import GOLDEN, check_golden, make_golden
from serve.inference.passes import Backend
from serve.inference.placement import BF16_TEXTS, bf16_serves
from serve.inference.predictor import Predictor, load_encoder


def write_golden(staging: Path, fields: dict[str, Any], backend: Backend) -> None:
    """Write `golden.json` into the model directory `staging`.

    fields: of its manifest, except `files`. backend: the model of the directory in fp32. Raises
    ValueError for a model whose logits are not finite, or change with the texts of a batch.
    """
    bundle = Bundle(path=staging, manifest=Manifest(files={}, **fields))
    encoder = load_encoder(bundle)

    def predictor(backend: Backend) -> Predictor:
        return Predictor(bundle, encoder, backend, batch_size=32)

    full, int8, bf16 = predictor(backend), None, None
    if bundle.manifest.int8 and bundle.manifest.int8.shipped:
        from serve.inference.backends.onnx import OnnxBackend

        int8 = predictor(OnnxBackend.load(staging))
    if BF16_TEXTS in bundle.manifest.parity and bf16_serves(bundle.manifest.parity):
        from serve.inference.backends.torch import TorchBackend

        kind = backend.device_kind
        bf16 = predictor(TorchBackend.load(staging, device=kind, precision="bf16"))
    write_atomic(staging / GOLDEN, make_golden(full, int8, bf16))
    for each in filter(None, (full, int8, bf16)):
        check_golden(each)
