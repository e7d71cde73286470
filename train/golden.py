"""The golden cases of a bundle that is about to be sealed: recorded, and reproduced once.

Made with the code that serves, on the written directory; see `serve.inference.golden`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from serve.bundle.golden import Golden
from serve.bundle.manifest import Manifest
from serve.bundle.seal import Bundle
from serve.files import write_atomic
from serve.inference.golden import GOLDEN, check_golden, make_golden
from serve.inference.passes import Backend
from serve.inference.placement import BF16_TEXTS, bf16_serves
from serve.inference.predictor import Predictor, load_encoder


def write_golden(staging: Path, fields: dict[str, Any], backend: Backend) -> dict[str, float]:
    """Write `golden.json` into the model directory `staging`; return figures for its `parity`.

    fields: of its manifest, except `files`. backend: the model of the directory in fp32. Raises
    ValueError for a model whose logits are not finite, or change with the texts of a batch.
    """
    bundle = Bundle(path=staging, manifest=Manifest(files={}, **fields))
    parity = bundle.manifest.parity
    encoder = load_encoder(bundle)
    backends: dict[str, Backend] = {"fp32": backend}
    if bundle.manifest.int8 and bundle.manifest.int8.shipped:
        from serve.inference.backends.onnx import OnnxBackend

        backends["int8"] = OnnxBackend.load(staging)
    if BF16_TEXTS in parity and bf16_serves(parity):
        from serve.inference.backends.torch import TorchBackend

        device = backend.device_kind
        backends["bf16"] = TorchBackend.load(staging, device=device, precision="bf16")
    loaded = {
        precision: Predictor(bundle, encoder, each, batch_size=32)
        for precision, each in backends.items()
    }
    content = make_golden(loaded["fp32"], loaded.get("int8"), loaded.get("bf16"))
    write_atomic(staging / GOLDEN, content)
    errors = Golden.model_validate_json(content).errors()
    stated = bundle.manifest.model_copy(update={"parity": parity | errors})
    for each in loaded.values():
        each.bundle = Bundle(path=staging, manifest=stated)
        check_golden(each)
    return errors
