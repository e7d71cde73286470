"""Two CPU processes make the same updates as one, with any gradient accumulation."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from processes import ROOT

LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]


def losses(directory: Path, values: dict[str, Any], *, processes: int, batch: int, steps: int):
    """Training losses, step by step, of a run under `accelerate launch`."""
    name = f"{processes}x{batch}x{steps}"
    values = values | {"output_dir": str(directory / name)}
    values["trainer"] |= {
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": steps,
    }
    config = directory / f"{name}.yaml"
    config.write_text(yaml.safe_dump(values))
    kind = {1: "one_cpu", 2: "two_cpu"}[processes]
    result = subprocess.run(
        [
            *(*LAUNCH, f"configs/accelerate/{kind}.yaml", "--main_process_port", "0"),
            *("-m", "train", "fit", "--config", str(config), "trainer.use_cpu=true"),
        ],
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    log = json.loads((directory / name / "adapter" / "fit.json").read_text())["log_history"]
    return [line["loss"] for line in log if "loss" in line]


@pytest.mark.slow
def test_two_processes_resume_inside_an_epoch_as_if_undisturbed(
    make_config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """accelerate 1.15 does not set the sampler's epoch there: the rows of epoch 0 are repeated."""
    strategy = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 5}
    values = make_config(
        tmp_path / "run",
        model={"dropout": 0.0},
        trainer=strategy | {"save_steps": 5, "save_total_limit": 9},
    )
    undisturbed = losses(tmp_path, values, processes=2, batch=16, steps=1)
    checkpoints = tmp_path / "2x16x1" / "checkpoints"
    for name in ("checkpoint-15", "checkpoint-16"):
        shutil.rmtree(checkpoints / name)

    resumed = losses(tmp_path, values, processes=2, batch=16, steps=1)

    assert len(undisturbed) == 16
    assert resumed == pytest.approx(undisturbed, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 4])
def test_two_processes_have_the_loss_curve_of_one(
    make_config: Callable[..., dict[str, Any]], tmp_path: Path, accumulation: int
) -> None:
    values = make_config(tmp_path / "run", model={"dropout": 0.0}, trainer={"learning_rate": 1e-3})

    one = losses(tmp_path, values, processes=1, batch=32, steps=1)
    two = losses(tmp_path, values, processes=2, batch=16 // accumulation, steps=accumulation)

    assert len(one) >= 8
    assert two == pytest.approx(one, abs=1e-3)


@pytest.mark.slow
def test_two_processes_choose_as_one_does(
    make_config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    values = make_config(tmp_path / "run", method="auto", trainer={"num_train_epochs": 1})

    losses(tmp_path, values, processes=1, batch=16, steps=1)
    losses(tmp_path, values, processes=2, batch=8, steps=1)

    one, two = (
        json.loads((tmp_path / name / "adapter" / "fit.json").read_text())["choice"]
        for name in ("1x16x1", "2x8x1")
    )
    assert (one["method"], one["pooling"]) == (two["method"], two["pooling"])
    for first, second in zip(one["candidates"], two["candidates"], strict=True):
        assert first == pytest.approx(second, abs=0.02)
