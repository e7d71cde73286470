"""On a CUDA GPU: bf16 training, and a server whose scores equal the CPU's.

Every bound in these tests is also tested on the CPU, so that none is first compared with a
measurement on a machine that has a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rows import make_rows

from serve.inference.backends.torch import TorchBackend
from serve.inference.predictor import Predictor
from train.config.run import RunConfig
from train.fit.arguments import training_arguments
from train.fit.fit import fit
from train.merge.merge import merge

LEARNED = {"native": 0.9, "mean": 0.8}
"""Validation accuracy that two epochs on the tiny base reach, by pooling."""

FORMAT_DIFFERENCE = 0.05
"""Largest difference of a probability between bf16 and fp32; measured 0.03."""


def test_the_other_suites_see_no_gpu() -> None:
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert not torch.cuda.is_available()


@pytest.mark.parametrize("pooling", ["native", "mean"])
def test_tiny_base_learns_as_much_as_the_gpu_tests_expect(
    make_config: Callable[..., dict[str, Any]], tmp_path: Path, pooling: str
) -> None:
    best = {"metric_for_best_model": "accuracy"}
    values = make_config(tmp_path / "run", model={"dropout": 0.0, "pooling": pooling}, trainer=best)

    accuracy = fit(RunConfig.model_validate(values))["accuracy"]

    assert accuracy >= LEARNED[pooling]


def test_bf16_is_as_close_to_fp32_as_the_gpu_tests_expect(bundles: Callable[[str], Path]) -> None:
    texts = [row["text"] for row in make_rows(200, seed=9)]
    full = Predictor.load(bundles("single"), device="cpu", backend="torch")
    half = TorchBackend.load(bundles("single"), device="cpu", precision="bf16")

    full_NC = full.predict(texts)
    half_NC = Predictor(full.bundle, full.encoder, half, batch_size=32).predict(texts)

    assert np.abs(half_NC - full_NC).max() <= FORMAT_DIFFERENCE
    assert (half_NC.argmax(axis=1) == full_NC.argmax(axis=1)).mean() >= 0.98


@pytest.mark.gpu
def test_training_on_a_gpu_is_in_bf16_and_makes_a_bundle(
    make_config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    values = make_config(tmp_path / "run")
    del values["trainer"]["bf16"]
    config = RunConfig.model_validate(values)

    fit(config)
    bundle = merge(config, device="cuda")

    assert training_arguments(config).bf16
    assert bundle.manifest.parity["adapter_reloaded"] <= 1e-4


@pytest.mark.gpu
@pytest.mark.parametrize("pooling", ["native", "mean"])
def test_training_on_a_gpu_goes_without_padding(
    make_config: Callable[..., dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    pooling: str,
) -> None:
    model = {"dropout": 0.0, "pooling": pooling}
    values = make_config(
        tmp_path / "run", model=model, trainer={"bf16": True, "metric_for_best_model": "accuracy"}
    )
    config = RunConfig.model_validate(values)

    accuracy = fit(config)["accuracy"]

    assert "batches: without padding" in capsys.readouterr().out
    assert accuracy >= LEARNED[pooling]


@pytest.mark.gpu
def test_bf16_on_the_gpu_is_close_to_fp32_on_the_cpu(
    bundles: Callable[[str], Path],
) -> None:
    texts = [row["text"] for row in make_rows(200, seed=9)]
    on_gpu = Predictor.load(bundles("single"), device="cuda")

    on_gpu_NC = on_gpu.predict(texts)
    on_cpu_NC = Predictor.load(bundles("single"), device="cpu", backend="torch").predict(texts)

    assert isinstance(on_gpu.backend, TorchBackend)
    assert on_gpu.backend.precision == "bf16"
    assert on_gpu.backend.packed is not None
    assert np.abs(on_gpu_NC - on_cpu_NC).max() <= FORMAT_DIFFERENCE
    assert (on_gpu_NC.argmax(axis=1) == on_cpu_NC.argmax(axis=1)).mean() >= 0.98
