"""The study: reproducible draws, stale trials and the budget."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from train.tune.study import (
    SeededSampler,
    fail_stale_trials,
    open_study,
    running_trials,
    trials_left,
)


def test_draws_depend_on_the_seed_and_the_number_of_the_trial() -> None:
    def drawn(seed: int, *, restart: bool) -> list[float]:
        study = optuna.create_study(sampler=SeededSampler(seed))
        for _ in range(12):
            if restart:
                study.sampler = SeededSampler(seed)
            trial = study.ask()
            study.tell(trial, trial.suggest_float("x", 0, 1))
        return [trial.params["x"] for trial in study.trials]

    assert drawn(0, restart=True) == drawn(0, restart=False)
    assert drawn(0, restart=False) != drawn(1, restart=False)
    assert len(set(drawn(0, restart=True))) == 12


def test_dead_trial_and_its_retries_are_one_of_the_budget() -> None:
    study = optuna.create_study()
    study.add_trial(optuna.create_trial(value=1.0))
    study.add_trial(optuna.create_trial(state=TrialState.FAIL))
    assert trials_left(study, 3) == 1

    retry = {"failed_trial": 1, "retry_history": [1]}
    study.add_trial(optuna.create_trial(state=TrialState.WAITING, system_attrs=retry))
    assert trials_left(study, 3) == 2
    study.ask()

    assert trials_left(study, 3) == 1


def test_trial_that_died_before_its_values_were_drawn_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Optuna misses it, and a search would wait for it forever."""
    study = open_study(
        tmp_path, storage=None, name="s", maximize=True, pruner="none", seed=0, identity={}
    )
    study.add_trial(optuna.create_trial(state=TrialState.RUNNING))
    fail_stale_trials(study)
    assert len(running_trials(study)) == 1, "it may have started just now"
    monkeypatch.setattr("train.tune.study.GRACE_S", 0)

    fail_stale_trials(study)

    assert running_trials(study) == []
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.WAITING]
    assert trials_left(study, 1) == 1
