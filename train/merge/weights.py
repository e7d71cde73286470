"""The bundle's weights: adapter merged into the base in fp32, temperature folded in, written.

The temperature that is fitted on the validation split is folded into the last layer, so the
reloaded model must return the trained logits divided by it; see `train.merge.calibrate`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serve.inference.backends.torch import TorchBackend
from serve.inference.pooling import set_custom_model_type
from serve.inference.scores import Array
from serve.inference.text import TextEncoder, shortest_first
from train.config.run import RunConfig
from train.data.splits import LabelledData
from train.evaluation.measure import reference
from train.fit.adapter import TRAINED_LOGITS
from train.merge.calibrate import choose_temperature, scale_head
from train.merge.parity import PARITY_TEXTS, ValidationTexts, max_difference, tolerance_of
from train.merge.roles import fitting_rows
from train.model.adapters import peft_warnings_off
from train.model.base import load_base
from train.statistics.metrics import Choice


@dataclass(frozen=True, kw_only=True)
class Merged:
    """A merged, calibrated model, and its results on the validation split."""

    encoder: TextEncoder
    """Made from the written directory."""

    parity: dict[str, float]
    """Largest difference of logits between each two models compared, by name; with the number
    of texts and the tolerance."""

    temperature: float
    notes: tuple[str, ...]
    """Why the temperature is 1 although one was to be fitted."""

    logits_NC: Array
    """Calibrated logits of all validation rows."""

    reference_NC: Choice | None
    """The true labels; None for an imported model where they are unknown."""


def merge_weights(
    config: RunConfig,
    adapter: Path,
    data: LabelledData,
    staging: Path,
    device: str,
    *,
    precision: str,
) -> Merged:
    """Write the merged, calibrated model directory, and compare the models on the way.

    precision: of the training.
    """
    rules: Any = {"max_length": config.model.max_length, "is_pair": config.is_pair}
    encoder = TextEncoder.from_directory(adapter, **rules)
    encodings = encoder.encode(data.validation.texts)
    texts = ValidationTexts(encoder=encoder, encodings=encodings, device=device)
    parity: dict[str, float] = {
        "texts": len(encodings[:PARITY_TEXTS]),
    }
    if config.method == "lora":
        model, trained_NC = merge_adapter(config, adapter, data.labels, texts)
        all_NC = texts.logits(model)
        parity["adapter_merged"] = max_difference(trained_NC, all_NC)
    else:  # the directory holds the whole model
        model = TorchBackend.load(adapter, device=device).model
        trained_NC = all_NC = texts.logits(model)
    parity["tolerance"] = tolerance_of(all_NC)
    reference_NC = reference(data.validation, data.labels)
    temperature, note = 1.0, ""
    if config.calibration.temperature and np.isfinite(all_NC).all():  # else parity refuses
        fit_N = fitting_rows(data.validation.texts, config.calibration)
        temperature, note = choose_temperature(all_NC[fit_N], reference_NC[fit_N], config.task)
        scale_head(model, temperature)
    write_model(model, encoder, staging, max_length=config.model.max_length)
    reloaded_NC = texts.first_logits(TorchBackend.load(staging, device=device).model)
    parity["adapter_reloaded"] = max_difference(trained_NC / temperature, reloaded_NC)
    # Training in half precision gives other logits than fp32 by itself: reported, not limited.
    # After training in TF32 the trained model was evaluated in fp32.
    name = "adapter_live" if precision in ("fp32", "tf32") else f"live_{precision}"
    live_NC = np.load(adapter / TRAINED_LOGITS)
    live_NC[shortest_first(encodings)] = live_NC.copy()
    parity[name] = max_difference(live_NC / temperature, reloaded_NC)
    return Merged(
        encoder=TextEncoder.from_directory(staging, **rules),
        parity=parity,
        temperature=temperature,
        notes=(note,) if note else (),
        logits_NC=(all_NC / np.float32(temperature)).astype(np.float32),
        reference_NC=reference_NC,
    )


def merge_adapter(
    config: RunConfig, adapter: Path, labels: tuple[str, ...], texts: ValidationTexts
) -> tuple[Any, Array]:
    """Merge the adapter into its base; return the model and the logits before the merge."""
    from peft import PeftModel

    base = load_base(config, labels).model
    if config.quantize:
        base.dequantize()  # the adapters were trained on these weights, not the original ones
    settings = base.config
    with peft_warnings_off():
        model: Any = PeftModel.from_pretrained(base, adapter)
    trained_NC = texts.first_logits(model)
    model = model.merge_and_unload(safe_merge=True)
    model.config = settings
    return model, trained_NC


def write_model(model: Any, encoder: TextEncoder, directory: Path, *, max_length: int) -> None:
    """Write model and tokenizer as a standard Hugging Face model directory."""
    model.save_pretrained(directory)
    set_custom_model_type(directory)
    assert encoder.tokenizer is not None
    encoder.tokenizer.model_max_length = max_length  # for pipelines, which truncate to it
    encoder.tokenizer.save_pretrained(directory)
