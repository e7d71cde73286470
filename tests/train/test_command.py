"""The command line of training: mistakes, where its line stands under a launcher, stops."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from processes import ROOT, run

from train.__main__ import main

MakeConfig = Callable[..., dict[str, Any]]

LAUNCHER = """
import subprocess, sys
started = [subprocess.Popen([sys.executable, *sys.argv[1:]]) for _ in range(2)]
codes = [each.wait() for each in started]
raise SystemExit("Traceback of the launcher")
"""


@pytest.fixture
def config(make_config: MakeConfig, tmp_path: Path) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(make_config(tmp_path / "run")))
    return str(path)


def test_options_may_stand_between_overrides(
    config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = "data.train=none.csv"

    assert main(["fit", data, "--fresh", "seed=3", "--config", config, "seed=a b"]) == 2
    assert "`seed` = 'a b'" in capsys.readouterr().err
    assert main(["run", "seed=3", "--config", config, "--fresh", data]) == 2
    assert "cannot read `none.csv`" in capsys.readouterr().err


def test_an_unknown_option_is_named_without_the_overrides(
    config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--config", config, "--frehs", "seed=3"]) == 2

    assert (
        "unrecognized arguments: --frehs; did you mean `--fresh`?; see" in capsys.readouterr().err
    )


@pytest.mark.parametrize("command", ["prepare", "fit", "run", "tune"])
def test_an_output_directory_that_cannot_be_is_refused_first(
    command: str, config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()

    assert main([command, "--config", config, f"output_dir={tmp_path / 'file' / 'a'}"]) == 2
    assert f"`{tmp_path / 'file'}` is a file; choose another path" in capsys.readouterr().err


def test_what_fit_recorded_is_named_when_it_is_broken(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run" / "adapter").mkdir(parents=True)
    (tmp_path / "run" / "adapter" / "fit.json").write_text("{")

    assert main(["merge", "--config", config]) == 2
    assert "adapter/fit.json` is broken" in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["fit", "prepare"])
def test_a_missing_extra_is_named(stage: str, config: str) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; from train.__main__ import main; sys.exit(main("
    )

    done = run("-c", f"{code}{[stage, '--config', config]}))")

    assert done.returncode == 2
    assert done.stderr.endswith(
        "`torch` is not installed; this needs the train extra: pip install 'textloop[train]'\n"
    )


def launched(name: str, directory: Path, *arguments: str) -> str:
    """Stderr of a launcher with a name, once all that it started has closed it."""
    (directory / name).write_text(LAUNCHER)
    done = subprocess.run(
        [sys.executable, directory / name, "-m", "train", *arguments],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stderr


def test_the_last_line_under_a_launcher_is_ours_and_written_once(tmp_path: Path) -> None:
    lines = launched("accelerate", tmp_path, "fit", "--config", "/none").splitlines()

    ours = "error: no configuration file at `/none`; give its path with --config"
    assert lines == [ours, ours, "Traceback of the launcher", ours]


def test_the_line_is_not_repeated_after_another_parent(tmp_path: Path) -> None:
    assert "launcher" in launched("script", tmp_path, "fit", "--config", "/none").splitlines()[-1]


def interrupt(number: int, until: str, *command: str) -> tuple[int, str]:
    """Run a command until it has printed a text, send a signal to its group; code and stderr."""
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if until in line:
            break
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_training_says_from_which_checkpoint_it_goes_on(
    number: int, code: int, config: str
) -> None:
    command = ("-m", "train", "fit", "--config", config, "trainer.num_train_epochs=200")

    ended, errors = interrupt(number, "'epoch': '3'", *command)

    assert ended == code
    assert errors.splitlines()[-1].startswith("stopped; the same command goes on from checkpoint ")
    assert "Traceback" not in errors


@pytest.mark.slow
def test_a_stop_under_accelerate_ends_with_how_to_go_on(config: str) -> None:
    launch = (
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        "configs/accelerate/two_cpu.yaml",
    )
    fit = ("-m", "train", "fit", "--config", config, "trainer.num_train_epochs=200")

    code, errors = interrupt(signal.SIGTERM, "'epoch': '3'", *launch, *fit)

    assert code == 1  # the launcher's
    assert errors.splitlines()[-1].startswith("stopped; the same command goes on from checkpoint ")
