"""What training prints: one line per evaluation, and in a pipe the time that is left."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from train.config.run import RunConfig
from train.fit.callbacks import Console
from train.fit.fit import fit
from train.report import progress
from train.report.progress import Pace, Progress, duration

MakeConfig = Callable[..., dict[str, Any]]


def evaluations(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if "validation loss" in line]


def test_each_epoch_is_one_line_and_the_last_is_not_repeated(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(RunConfig.model_validate(make_config(tmp_path / "run")))

    printed = capsys.readouterr().out
    number = r"\d\.\d{4}"
    form = (
        rf"epoch [12]/2: validation loss {number}, accuracy {number}, f1_macro {number}, "
        rf"log_loss {number}"
    )
    assert [bool(re.fullmatch(form, line)) for line in evaluations(printed)] == [True, True]
    assert not re.search(r"[{}]", printed)
    assert printed.count("best on validation: accuracy") == 1


def test_multi_label_says_what_its_accuracy_is_and_the_metric_that_chooses(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = {"metric_for_best_model": "recall:login", "max_steps": 6, "eval_strategy": "steps"}
    trainer |= {"eval_steps": 3, "save_strategy": "best"}
    values = make_config(tmp_path / "run", task="multi_label", trainer=trainer)

    fit(RunConfig.model_validate(values))

    printed = capsys.readouterr().out
    found = evaluations(printed)
    assert [line.partition(":")[0] for line in found] == ["step 3/6", "step 6/6"]
    assert all(" all labels right 0." in line and " recall:login " in line for line in found)
    assert "accuracy" not in printed.partition("step 3/6")[2]
    assert "best on validation: all labels right" in printed


def test_early_stopping_is_said(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = {
        "num_train_epochs": 9,
        "learning_rate": 1e-12,
        "metric_for_best_model": "accuracy",
    }
    values = make_config(tmp_path / "run", early_stopping_patience=1, trainer=trainer)

    fit(RunConfig.model_validate(values))

    printed = capsys.readouterr().out
    assert "stopped early in epoch 2: 1 evaluations without a better validation accuracy" in printed
    assert len(evaluations(printed)) == 2


def test_pipe_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    console = Console("single_label", "accuracy", None)
    args = SimpleNamespace(disable_tqdm=True)
    state = SimpleNamespace(max_steps=1000, global_step=100, is_world_process_zero=True)
    console.pace = Pace(1000, 100, clock=lambda: now[0])
    console.on_log(args, state, None, logs={"loss": 0.5})

    for state.global_step in range(101, 1001):
        now[0] += 0.25
        console.on_step_end(args, state, None)

    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 8  # at 10 s, and then every 30 s, of 225 s
    assert lines[0] == "step 140 of 1000, training loss 0.5000, about 4 min left"
    assert lines[-1].endswith("about 5 s left")


def test_other_processes_and_a_bar_print_no_lines(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console("single_label", "accuracy", None)
    for main, bar in ((False, False), (True, True)):
        console.pace = Pace(10, clock=iter([0.0, 100.0]).__next__)
        args = SimpleNamespace(disable_tqdm=not bar, max_steps=-1, num_train_epochs=1)
        state = SimpleNamespace(max_steps=10, global_step=5, is_world_process_zero=main)
        console.on_step_end(args, state, None)
    assert capsys.readouterr() == ("", "")


def test_pass_over_texts_prints_its_progress_into_a_pipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "FIRST_S", 0.0)

    with Progress("embed", 2000) as shown:
        shown.update(500)
        shown.update(1500)
    with Progress("embed", 2000, shown=False) as hidden:
        hidden.update(500)

    assert capsys.readouterr().err == "embed: 500 of 2,000 texts, about 0 s left\n"


@pytest.mark.parametrize(
    ("seconds", "shown"), [(3, "3 s"), (99.6, "2 min"), (5969, "99 min"), (9000, "2.5 h")]
)
def test_durations_have_the_unit_that_suits_them(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_terminal_has_a_bar_and_the_same_lines(
    make_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)

    fit(RunConfig.model_validate(make_config(tmp_path / "run")))

    out, err = capsys.readouterr()
    assert len(evaluations(out)) == 2
    assert re.search(r"\d+/\d+ \[.*loss \d\.\d{4}", err)
    assert "{" not in out + err
