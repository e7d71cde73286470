"""`textloop fit --processes N`: the same training, quiet, with exit codes and lines of ours."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from processes import ROOT, left_after, run

from textloop.__main__ import main

MakeConfig = Callable[..., dict[str, Any]]


@pytest.fixture
def config(make_config: MakeConfig, tmp_path: Path) -> Path:
    trainer = {"num_train_epochs": 1, "per_device_train_batch_size": 8, "use_cpu": True}
    (path := tmp_path / "run.yaml").write_text(
        yaml.safe_dump(make_config(tmp_path / "run", trainer=trainer))
    )
    return path


@pytest.mark.parametrize("number", ["0", "-1"])
def test_a_number_that_cannot_be_is_refused(
    number: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--config", str(config), f"--processes={number}"]) == 2
    assert f"--processes {number}: give at least 1" in capsys.readouterr().err


def test_more_processes_than_gpus_are_refused(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    words = ["fit", "--config", str(config), "trainer.use_cpu=false", "--processes", "2"]

    assert main(words) == 2
    assert "there are 1 GPUs, one per process; lower it" in capsys.readouterr().err


def test_under_a_launcher_it_is_refused(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")

    assert main(["run", "--config", str(config), "--processes", "2"]) == 2
    assert "runs under `accelerate launch` or torchrun" in capsys.readouterr().err


def fit(config: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return run("-m", "textloop", "fit", "--config", config, *arguments, PYTHONWARNINGS="ignore")


def losses(config: Path) -> list[float]:
    log = json.loads((config.parent / "run" / "adapter" / "fit.json").read_text())["log_history"]
    return [line["loss"] for line in log if "loss" in line]


@pytest.mark.slow
def test_two_processes_train_as_accelerate_has_them_and_as_one(config: Path) -> None:
    done = fit(config, "--processes", 2)
    assert (done.returncode, done.stderr) == (0, "")
    two = losses(config)
    launch = ["-m", "accelerate.commands.launch", "--config_file"]
    launch += ["configs/accelerate/two_cpu.yaml", "-m", "textloop", "fit", "--config"]
    assert run(*launch, config, "--fresh").returncode == 0
    assert losses(config) == two
    assert fit(config, "--fresh", "trainer.per_device_train_batch_size=16").returncode == 0
    assert losses(config) == pytest.approx(two, abs=1e-3)


@pytest.mark.slow
def test_a_mistake_that_each_process_finds_is_one_line(config: Path) -> None:
    done = fit(config, "--processes", 2, "data.label_column=none")

    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "has no column `none`" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("to_all", [True, False], ids=["group", "parent"])
def test_a_stop_ends_all_processes_with_one_line(
    number: int, code: int, to_all: bool, config: Path
) -> None:
    words = ["fit", "--config", config, "--processes", "2", "trainer.num_train_epochs=200"]
    process = subprocess.Popen(
        [sys.executable, "-m", "textloop", *map(str, words)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    next(line for line in process.stdout if line.startswith("epoch 2/"))

    (os.killpg if to_all else os.kill)(process.pid, number)
    _, errors = process.communicate(timeout=60)

    assert process.returncode == code
    assert errors.startswith("stopped; the same command goes on from checkpoint ")
    assert errors.count("\n") == 1
    assert left_after(process.pid) == []
