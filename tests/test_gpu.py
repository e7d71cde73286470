"""On a CUDA GPU: bf16 training, and a server's figures equal to the CPU's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_rows

from serve.backends.torch import TorchBackend
from serve.predictor import Predictor
from train.config import RunConfig
from train.fit import fit
from train.merge import merge
from train.trainer import training_arguments

pytestmark = pytest.mark.gpu


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


@pytest.mark.parametrize("pooling", ["native", "mean"])
def test_training_on_a_gpu_goes_without_padding(
    make_config: Callable[..., dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    pooling: str,
) -> None:
    model = {"dropout": 0.0, "pooling": pooling}
    values = make_config(tmp_path / "run", model=model, trainer={"bf16": True})
    config = RunConfig.model_validate(values)

    accuracy = fit(config)["accuracy"]

    assert "batches: without padding" in capsys.readouterr().out
    assert accuracy >= 0.9


def test_bf16_on_the_gpu_is_fp32_on_the_cpu_within_its_tolerance(
    bundles: Callable[[str], Path],
) -> None:
    texts = [row["text"] for row in make_rows(200, seed=9)]
    on_gpu = Predictor.load(bundles("single"), device="cuda")

    on_gpu_NC = on_gpu.predict(texts)
    on_cpu_NC = Predictor.load(bundles("single"), device="cpu", backend="torch").predict(texts)

    assert isinstance(on_gpu.backend, TorchBackend)
    assert on_gpu.backend.precision == "bf16"
    assert on_gpu.backend.packed is not None
    assert np.abs(on_gpu_NC - on_cpu_NC).max() <= on_gpu.backend.tolerance
    assert (on_gpu_NC.argmax(axis=1) == on_cpu_NC.argmax(axis=1)).mean() >= 0.98
