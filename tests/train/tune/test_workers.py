"""Searches in processes of their own: killed ones resume, and several share one study."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from optuna.trial import TrialState
from processes import ROOT
from searching import MakeConfig, study_in, values_of

from train.config.run import RunConfig
from train.tune.tune import tune


def start_worker(config: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "default", "-m", "train", "tune", "--config", str(config)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that starts the tests in the background makes them ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sign", "reason"),
    [
        (signal.SIGKILL, "its process died; its values were retried"),
        (signal.SIGINT, "interrupted; its values will be retried"),
    ],
)
def test_killed_search_goes_on_and_tries_the_lost_trial_again(
    make_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sign: signal.Signals,
    reason: str,
) -> None:
    values = values_of(make_config, tmp_path / "run", trials=3)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    worker = start_worker(tmp_path / "run.yaml")
    assert worker.stdout is not None
    line = next(line for line in worker.stdout if line.startswith("trial 0"))
    checkpoints = tmp_path / "run" / "tune" / "trial-0001" / "checkpoints"
    deadline = time.monotonic() + 60
    while not checkpoints.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    worker.send_signal(sign)
    worker.communicate()
    monkeypatch.setattr("train.tune.study.GRACE_S", 1)

    result = tune(RunConfig.model_validate(values))

    trials = study_in(tmp_path / "run").trials
    lost, retried = trials[1], next(t for t in trials if t.system_attrs.get("failed_trial") == 1)
    assert "accuracy" in line
    assert lost.state == TrialState.FAIL
    assert retried.params == lost.params
    assert result.counts == {"complete": 3, "fail": 1}
    assert result.reasons == {reason: 1}


@pytest.mark.slow
def test_two_workers_share_one_study(make_config: MakeConfig, tmp_path: Path) -> None:
    values = values_of(make_config, tmp_path / "run", trials=4)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))

    workers = [start_worker(tmp_path / "run.yaml") for _ in range(2)]
    try:
        shown = [worker.communicate(timeout=300) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()

    trials = study_in(tmp_path / "run").trials
    first, second = (re.findall(r"^trial (\d+):", out, re.MULTILINE) for out, _ in shown)
    assert [worker.returncode for worker in workers] == [0, 0], shown
    assert first
    assert second
    assert sorted(map(int, first + second)) == list(range(len(trials)))
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert 4 <= len(trials) <= 5, "each worker may finish the trial that it has started"
    assert len({trial.params["trainer.learning_rate"] for trial in trials}) == len(trials)
    best = max(trial.value for trial in trials)
    assert all(f"accuracy {best:.4f}  [" in out for out, _ in shown)
    assert len(list((tmp_path / "run" / "tune").glob("trial-*"))) == 1
