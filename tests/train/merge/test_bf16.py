"""`merge` measures how far bf16 is from fp32, and CUDA serves in bf16 only where it is close."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve.bundle.seal import Bundle, open_bundle
from serve.inference.backends.torch import TorchBackend
from serve.inference.passes import batched_logits
from serve.inference.placement import bf16_serves, pick_precision
from serve.inference.predictor import Predictor
from serve.inference.scores import softmax
from train.config.run import RunConfig
from train.data.splits import load_data
from train.fit.fit import fit
from train.merge.merge import merge
from train.merge.summary import summary_lines

EQUAL = {"bf16_texts": 500.0, "bf16_changed": 0.0, "bf16_probability": 0.0}


def with_parity(bundle: Bundle, **figures: float) -> Bundle:
    parity = bundle.manifest.parity | figures
    return replace(bundle, manifest=bundle.manifest.model_copy(update={"parity": parity}))


def test_difference_of_bf16_is_that_of_the_validation_texts(
    make_config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    config = RunConfig.model_validate(make_config(tmp_path / "run"))
    fit(config)
    bundle = merge(config, device="cpu")
    full = Predictor.load(bundle.path, device="cpu", backend="torch")
    half = TorchBackend.load(bundle.path, device="cpu", precision="bf16")
    encodings = full.encoder.encode(load_data(config).validation.texts)

    full_NC, half_NC = (
        softmax(batched_logits(backend, full.encoder, encodings, batch_size=32))
        for backend in (full.backend, half)
    )

    parity = bundle.manifest.parity
    assert parity["bf16_texts"] == len(encodings) == 31
    assert 0 < parity["bf16_probability"] <= 0.05
    assert parity["bf16_probability"] == pytest.approx(np.abs(full_NC - half_NC).max(), abs=1e-3)
    assert parity["bf16_changed"] == (full_NC.argmax(1) != half_NC.argmax(1)).sum()
    assert any("CUDA serves in bf16" in line for line in summary_lines(bundle))


@pytest.mark.parametrize(
    ("figures", "precision"),
    [
        ({}, "bf16"),
        ({"bf16_probability": 0.05}, "bf16"),
        ({"bf16_probability": 0.051}, "fp32"),
        ({"bf16_probability": float("nan")}, "fp32"),
        ({"bf16_changed": 5.0}, "bf16"),
        ({"bf16_changed": 6.0}, "fp32"),
        ({"bf16_texts": 20.0, "bf16_changed": 1.0}, "bf16"),
        ({"bf16_texts": 20.0, "bf16_changed": 2.0}, "fp32"),
    ],
)
def test_cuda_serves_in_bf16_only_where_it_is_close(
    figures: dict[str, float], precision: str, bundles: Callable[[str], Path]
) -> None:
    bundle = with_parity(open_bundle(bundles("single")), **EQUAL | figures)

    assert pick_precision(bundle, backend="torch", device="cuda:0") == precision
    assert pick_precision(bundle, backend="torch", device="cpu") == "fp32"
    assert pick_precision(bundle, backend="onnx", device="cpu") == "int8"


def test_bundles_without_the_comparison_are_served_as_before() -> None:
    assert bf16_serves({"texts": 31.0, "adapter_reloaded": 1e-6})
