"""One trial of a search: its training, its pruning and its result.

A trial is a complete `fit` in a directory of its own, scored on the validation split. The rows
are loaded once per worker and passed in, so that a trial opens no data file at all.
"""

from __future__ import annotations

import json
import math
import shutil
from contextlib import redirect_stdout
from typing import Any

import optuna
from optuna.trial import Trial
from transformers import TrainerCallback

from train.config.run import RunConfig
from train.data.splits import LabelledData
from train.fit.fit import fit


class PruningCallback(TrainerCallback):
    """Reports each evaluation to the study, and ends a trial that the study prunes."""

    def __init__(self, trial: Trial, metric: str) -> None:
        self.trial = trial
        self.metric = metric
        self.evaluations = 0
        self.training = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count evaluations from here on."""
        self.training = True

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop counting: the evaluation that follows repeats that of the best checkpoint."""
        self.training = False

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any
    ) -> None:
        """Report the metric by the number of evaluations, which does not depend on batch size."""
        if not self.training:
            return
        self.evaluations += 1
        self.trial.report(float(metrics[f"eval_{self.metric}"]), self.evaluations)
        is_over = state.global_step >= state.max_steps or control.should_training_stop
        if not is_over and self.trial.should_prune():
            raise optuna.TrialPruned(f"after {self.evaluations} evaluations")


def run_trial(trial: Trial, config: RunConfig, rows: LabelledData, *, metric: str) -> float:
    """Train, and return the validation metric of the best checkpoint.

    config: the run with the trial's values. Its `output_dir` is emptied first and holds the
    output of `fit` in `fit.log`. rows: without the test rows. Raises what `fit` raises, and
    TrialPruned.
    """
    directory = config.output_dir
    shutil.rmtree(directory, ignore_errors=True)  # of an earlier study
    directory.mkdir(parents=True)
    with (directory / "fit.log").open("w", buffering=1) as log, redirect_stdout(log):
        fit(config, callbacks=[PruningCallback(trial, metric)], data=rows)
    shutil.rmtree(directory / "cache", ignore_errors=True)
    record = json.loads((directory / "adapter" / "fit.json").read_text(encoding="utf-8"))
    value = float(record["validation"][metric])
    if not math.isfinite(value):
        raise ValueError(f"validation {metric} is {value}")
    return value
