"""A killed run resumes from its latest complete checkpoint and ends with the same result."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from processes import ROOT, run
from transformers import TrainerState
from transformers.trainer_utils import get_last_checkpoint

from train.config.run import RunConfig
from train.fit.callbacks import RunCallback
from train.fit.checkpoints import (
    checkpoints,
    is_complete,
    latest_complete,
    mark_complete,
    remove_partial,
)
from train.fit.fit import fit, fit_unless_done
from train.fit.sampler import TrainingSampler

MakeConfig = Callable[..., dict[str, Any]]

# Dies inside the second checkpoint: weights and optimizer are written, the rest is not.
DIE_IN_CHECKPOINT = """
import os, signal, sys
from train.fit.trainer import ClassifierTrainer
from train.__main__ import main
stock = ClassifierTrainer._save_rng_state
def save_rng_state(self, output_dir):
    if self.state.global_step > 16:
        os.kill(os.getpid(), signal.SIGKILL)
    stock(self, output_dir)
ClassifierTrainer._save_rng_state = save_rng_state
sys.exit(main(sys.argv[1:]))
"""


def write_config(path: Path, values: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(values))
    return path


def history(output: Path) -> list[tuple[int, float]]:
    """Step and loss (of training or evaluation) of every log line of a finished run."""
    log = json.loads((output / "adapter" / "fit.json").read_text())["log_history"]
    return [(line["step"], line.get("loss", line.get("eval_loss"))) for line in log]


@pytest.fixture(scope="module")
def killable(make_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run with four checkpoints, and its log without interruption."""
    directory = tmp_path_factory.mktemp("undisturbed")
    values = make_config(
        directory / "run",
        model={"dropout": 0.1},
        trainer={"num_train_epochs": 4, "save_total_limit": 4},
    )
    fit(RunConfig.model_validate(values))
    return values


@pytest.mark.slow
def test_killed_inside_a_checkpoint_it_resumes_from_the_one_before(
    killable: dict[str, Any], tmp_path: Path
) -> None:
    values = killable | {"output_dir": str(tmp_path / "run")}
    config = write_config(tmp_path / "run.yaml", values)

    died = run("-c", DIE_IN_CHECKPOINT, "fit", "--config", config)
    directory = tmp_path / "run" / "checkpoints"
    found = checkpoints(directory)
    whole = latest_complete(directory)
    stock_choice = get_last_checkpoint(str(directory))
    rerun = run("-m", "train", "fit", "--config", config)

    assert died.returncode == -signal.SIGKILL
    assert len(found) == 2
    assert whole == found[0]
    assert stock_choice == str(found[1]), "the stock choice would be the broken one"
    assert rerun.returncode == 0, rerun.stderr
    assert f"removed {found[1]}" in rerun.stdout
    assert f"resuming from {found[0]}" in rerun.stdout
    assert history(tmp_path / "run") == history(Path(killable["output_dir"]))


@pytest.mark.slow
def test_killed_between_checkpoints_it_ends_with_the_same_metrics(
    killable: dict[str, Any], tmp_path: Path
) -> None:
    values = killable | {"output_dir": str(tmp_path / "run")}
    config = write_config(tmp_path / "run.yaml", values)
    process = subprocess.Popen(
        [sys.executable, "-m", "train", "fit", "--config", str(config)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not latest_complete(tmp_path / "run" / "checkpoints") and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL

    rerun = run("-m", "train", "fit", "--config", config)

    assert rerun.returncode == 0, rerun.stderr
    assert "resuming from" in rerun.stdout
    assert history(tmp_path / "run") == history(Path(killable["output_dir"]))


@pytest.mark.slow
def test_same_seed_gives_the_same_run(killable: dict[str, Any], tmp_path: Path) -> None:
    fit(RunConfig.model_validate(killable | {"output_dir": str(tmp_path / "run")}))

    assert history(tmp_path / "run") == history(Path(killable["output_dir"]))


def test_finished_run_is_not_trained_again(
    killable: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    before = history(Path(killable["output_dir"]))

    fit(RunConfig.model_validate(killable))

    assert "resuming from" in capsys.readouterr().out
    assert history(Path(killable["output_dir"])) == before


def test_finished_run_is_skipped_by_the_run_command(
    killable: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    written = Path(killable["output_dir"], "adapter", "fit.json")
    before = written.stat().st_mtime_ns

    fit_unless_done(RunConfig.model_validate(killable))
    same = written.stat().st_mtime_ns
    printed = capsys.readouterr().out
    with pytest.raises(ValueError, match="holds checkpoints of another run"):
        fit_unless_done(RunConfig.model_validate(killable | {"seed": 1}))

    assert "adapter` is up to date" in printed
    assert same == before


def test_main_process_decides_for_all_whether_the_run_command_trains(
    killable: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that trained alone, as on a CPU of another precision, would wait forever."""
    monkeypatch.setattr("train.fit.fit.broadcast_object_list", lambda own: [True])

    fit_unless_done(RunConfig.model_validate(killable | {"seed": 1}))


def test_checkpoints_of_another_configuration_are_refused(
    killable: dict[str, Any], tmp_path: Path
) -> None:
    shutil.copytree(killable["output_dir"], tmp_path / "run")
    values = killable | {"output_dir": str(tmp_path / "run"), "seed": 1}

    with pytest.raises(ValueError, match=r"another run \(config.seed: 0 there, 1 now\)"):
        fit(RunConfig.model_validate(values))
    fit(RunConfig.model_validate(values), fresh=True)

    assert history(tmp_path / "run") != history(Path(killable["output_dir"]))


def test_early_stopping_stops_and_keeps_two_checkpoints(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    values = make_config(
        tmp_path / "run",
        early_stopping_patience=2,
        trainer={"num_train_epochs": 20, "learning_rate": 0.0, "save_total_limit": 2},
    )

    fit(RunConfig.model_validate(values))

    kept = [path.name for path in checkpoints(tmp_path / "run" / "checkpoints")]
    assert kept == ["checkpoint-32", "checkpoint-48"], "the last two of three equal epochs"


def test_one_checkpoint_is_not_enough(make_config: MakeConfig, tmp_path: Path) -> None:
    values = make_config(tmp_path / "run", trainer={"save_total_limit": 1})

    with pytest.raises(ValueError, match="the best and the last checkpoint are both kept"):
        fit(RunConfig.model_validate(values))


def test_patience_survives_a_resume(make_config: MakeConfig, tmp_path: Path) -> None:
    """The stock callback resets its counter (transformers#28544): it would stop at 80."""
    values = make_config(
        tmp_path / "run",
        early_stopping_patience=2,
        trainer={"num_train_epochs": 20, "learning_rate": 0.0, "save_total_limit": 9},
    )
    fit(RunConfig.model_validate(values))
    directory = tmp_path / "run" / "checkpoints"
    shutil.rmtree(directory / "checkpoint-48")

    fit(RunConfig.model_validate(values))

    assert latest_complete(directory) == directory / "checkpoint-48"


def test_run_that_early_stopping_ended_is_not_trained_again(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    """The Trainer forgets that it stopped and would train one more epoch."""
    values = make_config(
        tmp_path / "run",
        early_stopping_patience=2,
        trainer={"num_train_epochs": 20, "learning_rate": 0.0},
    )
    fit(RunConfig.model_validate(values))
    adapter = tmp_path / "run" / "adapter" / "adapter_model.safetensors"
    before = adapter.read_bytes()
    shutil.rmtree(adapter.parent)

    fit(RunConfig.model_validate(values))

    assert adapter.read_bytes() == before
    assert latest_complete(tmp_path / "run" / "checkpoints").name == "checkpoint-48"


def test_run_that_was_moved_keeps_its_best_checkpoint(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    """The Trainer stores the best checkpoint by its path and loses it silently."""
    values = make_config(tmp_path / "run", trainer={"learning_rate": 0.5, "num_train_epochs": 3})
    fit(RunConfig.model_validate(values))
    before = (tmp_path / "run" / "adapter" / "adapter_model.safetensors").read_bytes()
    (tmp_path / "run").rename(tmp_path / "moved")

    fit(RunConfig.model_validate(values | {"output_dir": str(tmp_path / "moved")}))

    assert (tmp_path / "moved" / "adapter" / "adapter_model.safetensors").read_bytes() == before


def test_sampler_is_told_the_epoch_when_a_run_resumes_inside_one() -> None:
    sampler = TrainingSampler(64, None, global_batch=8, seed=0)

    RunCallback(sampler, Path()).on_epoch_begin(None, TrainerState(epoch=2.4), None)

    assert sampler.epoch == 2


def test_checkpoints_of_an_unknown_run_are_refused(
    killable: dict[str, Any], tmp_path: Path
) -> None:
    shutil.copytree(killable["output_dir"], tmp_path / "run")
    (tmp_path / "run" / "run.json").unlink()

    with pytest.raises(ValueError, match="holds checkpoints of another run"):
        fit(RunConfig.model_validate(killable | {"output_dir": str(tmp_path / "run")}))


def test_checkpoint_counts_only_with_its_marker_and_all_its_bytes(tmp_path: Path) -> None:
    for step in (5, 10):
        checkpoint = tmp_path / f"checkpoint-{step}"
        checkpoint.mkdir()
        (checkpoint / "weights").write_bytes(b"x" * 100)
        mark_complete(checkpoint)
    assert latest_complete(tmp_path) == tmp_path / "checkpoint-10"

    (tmp_path / "checkpoint-10" / "weights").write_bytes(b"x" * 99)
    (tmp_path / "checkpoint-20").mkdir()

    assert not is_complete(tmp_path / "checkpoint-10")
    assert latest_complete(tmp_path) == tmp_path / "checkpoint-5"
    assert [path.name for path in remove_partial(tmp_path)] == ["checkpoint-10", "checkpoint-20"]
    assert checkpoints(tmp_path) == [tmp_path / "checkpoint-5"]
