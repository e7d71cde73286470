"""How far bf16, in which CUDA serves, is from fp32, on which the calibration was fitted.

Measured on validation texts with the merged weights, on the GPU where there is one. A CPU rounds
to bf16 at the same places, so it stands in for the GPU: the differences are of the same size,
though not equal. `serve.inference.placement` decides by these figures whether CUDA serves in bf16.

Shape suffixes: N texts, C labels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from serve.bundle.manifest import Calibration
from serve.inference.backends.torch import TorchBackend
from serve.inference.decision import Rules
from serve.inference.passes import batched_logits
from serve.inference.placement import BF16_CHANGED, BF16_PROBABILITY, BF16_TEXTS
from serve.inference.scores import activate, default_activation
from train.config.run import RunConfig
from train.data.splits import LabelledData
from train.fit.arguments import cpu_multiplies_bf16
from train.merge.weights import Merged
from train.report.progress import Progress

MAX_TEXTS, MAX_TEXTS_EMULATED = 2048, 128
"""Validation texts that are compared; the second on CPUs that emulate bf16, slower than fp32."""


def compare_bf16(
    staging: Path,
    config: RunConfig,
    data: LabelledData,
    merged: Merged,
    calibration: Calibration | None,
    device: str,
) -> dict[str, float]:
    """Return the manifest's figures on bf16: texts, changed decisions, difference of probability.

    A decision is the labels of a text and whether the model abstains. Infinite differences, of
    logits that are not finite in bf16, count as 1, and all do for a model that bf16 cannot run.
    """
    fast = device != "cpu" or cpu_multiplies_bf16()
    texts = data.validation.texts[: MAX_TEXTS if fast else MAX_TEXTS_EMULATED]
    backend = TorchBackend.load(staging, device=device, precision="bf16")
    encodings = merged.encoder.encode(texts)
    try:
        with Progress("bf16", len(encodings)) as bar:
            half_NC = batched_logits(
                backend, merged.encoder, encodings, batch_size=32, progress=bar.update
            )
    except RuntimeError as error:
        if "dtype" not in str(error):
            raise
        # Some architectures (DeBERTa v1) keep a part in fp32 and cannot compute in bf16.
        count = float(len(texts))
        return {BF16_TEXTS: count, BF16_CHANGED: count, BF16_PROBABILITY: 1.0}
    rules = Rules.fitted(calibration, "torch", task=config.task, labels=data.labels)
    activation = default_activation(config.task)
    full_NC, half_NC = (
        activate(logits_NC, activation) for logits_NC in (merged.logits_NC[: len(texts)], half_NC)
    )
    full, half = rules.decide(full_NC), rules.decide(half_NC)
    changed_N = (full.predicted_NC != half.predicted_NC).any(axis=1)
    if full.abstain_N is not None and half.abstain_N is not None:
        changed_N |= full.abstain_N != half.abstain_N
    difference = np.abs(full_NC - half_NC)
    return {
        BF16_TEXTS: float(len(texts)),
        BF16_CHANGED: float(changed_N.sum()),
        BF16_PROBABILITY: float(np.nan_to_num(difference, nan=1.0).max()),
    }
