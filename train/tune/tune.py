"""Search over a run's settings: `python -m train tune`.

Decides whether a search can begin, which trial is next and what is kept of one. Trials run
one after another in one process, for importing the libraries takes longer than many a trial;
memory is given back in between, and values that take the whole process down are found and
tried again by the next worker. Several GPUs are used by several workers.

What a trial does is decided in `train.tune.trial`, where it is remembered in `train.tune.study`.
"""

from __future__ import annotations

import gc
import math
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from optuna import TrialPruned
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from transformers import TrainingArguments

from train.config.run import RunConfig
from train.config.search_space import TuneSection, boundary_configs, decoded, with_values
from train.fit.arguments import training_arguments
from train.model.base import locate_base, weights_sha256
from train.statistics.metrics import scores
from train.tune.report import TuneResult, reason_of, write_results
from train.tune.study import (
    best_of,
    ended,
    experiments_allowed,
    fail_stale_trials,
    locked,
    open_study,
    requeue_trial,
    running,
    trials_left,
)
from train.tune.trial import run_trial, visible_rows, write_visible

FAILURES = (ValueError, RuntimeError, MemoryError)
"""What ends one trial and not the search: values that diverge, and too little memory."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """What all trials share."""

    settings: TuneSection
    config: RunConfig
    """The run on all its data, which the winner's values are put into."""

    base: RunConfig
    """The run on the rows that trials may see, which a trial's values are put into."""

    directory: Path
    metric: str
    maximize: bool
    num_validation: int
    identity: dict[str, Any]
    """What trials must share to be compared."""


def tune(config: RunConfig) -> TuneResult:
    """Run trials until `tune.trials` of the study have ended, or the time is over.

    Writes `output_dir/tune/best.yaml`, a configuration for `fit`, and `trials.csv`.
    Raises ValueError for a space that does not fit the run, before the first trial.
    """
    datasets.disable_progress_bars()  # each trial reads a file or two
    search = prepare(config)
    study = open_study(
        search.directory,
        storage=search.settings.storage,
        name=search.settings.study or config.output_dir.as_posix(),
        maximize=search.maximize,
        pruner=search.settings.pruner,
        seed=config.seed,
        identity=search.identity,
    )
    minutes = search.settings.timeout_minutes
    deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
    waits = False
    while time.monotonic() < deadline:
        fail_stale_trials(study)
        if trials_left(study, search.settings.trials):
            _run_next(study, search)
        elif others := running(study):
            if not waits:
                numbers = ", ".join(str(trial.number) for trial in others)
                print(f"waiting for other workers to end trial {numbers}, or to prove dead")
            waits = True
            time.sleep(1)
        else:
            break
    remove_finished_trial_dirs(study, search.directory)
    return _write(study, search)


def prepare(config: RunConfig) -> Search:
    """Check the space against the run, and write the rows that trials may see.

    Raises ValueError for what no trial could do, with the path of the key.
    """
    settings = config.tune
    if not settings.space:
        raise ValueError("tune.space is empty; name keys to search over, with low and high")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "tune runs each trial in one process; start several workers on the same "
            "output_dir or tune.storage in place of `accelerate launch`"
        )
    if settings.metric is not None:
        config = with_values(config, {"trainer.metric_for_best_model": settings.metric})
    arguments = training_arguments(config)
    if arguments.n_gpu > 1:
        raise ValueError(
            f"one worker sees {arguments.n_gpu} GPUs; start one per GPU on the same output_dir, "
            "with CUDA_VISIBLE_DEVICES=0 and so on"
        )
    metric = str(arguments.metric_for_best_model).removeprefix("eval_")
    measured = ["loss", *scores(np.eye(2, dtype=bool), np.eye(2, dtype=bool))]
    if metric not in measured:
        raise ValueError(f"tune.metric `{metric}` is not measured; known: {', '.join(measured)}")
    for corner in boundary_configs(config, settings.space):
        _check_trainer(corner)
        locate_base(corner.model)
    directory = config.output_dir / "tune"
    data = visible_rows(config)
    base = write_visible(data, config, directory / "data")
    elsewhere: Any = {
        "output_dir": True,
        "cpu_threads": True,
        "export_int8": True,
        "data": {"train", "validation", "test"},
    }
    identity = {
        "config": base.model_dump(mode="json", exclude=elsewhere),
        "base_weights_sha256": weights_sha256(config.model),
        "data": {name: getattr(data, name).fingerprint for name in ("train", "validation")},
        "space": {key: each.model_dump(mode="json") for key, each in settings.space.items()},
    }
    print(
        f"data: {len(data.train)} train, {len(data.validation)} validation rows; "
        "the test rows take no part"
    )
    return Search(
        settings=settings,
        config=config,
        base=base,
        directory=directory,
        metric=metric,
        maximize=bool(arguments.greater_is_better),
        num_validation=len(data.validation),
        identity=identity,
    )


def _check_trainer(config: RunConfig) -> None:
    """Raise ValueError for a `trainer` that the Trainer would refuse, or stumble over later."""
    for key, value in config.trainer.items():
        kind = TrainingArguments.__annotations__.get(key)
        if kind in (int, "int") and not isinstance(value, int):
            raise ValueError(
                f"`trainer.{key}` = {value!r}: a whole number is needed; in tune.space, write "
                "low, high and step without a fraction"
            )
    try:
        training_arguments(config)
    except TypeError as error:
        raise ValueError(f"`trainer` = {config.trainer}: {error}") from error


def _run_next(study: Study, search: Search) -> None:
    """Run the next trial, say how it ended, and write how the search stands."""

    def objective(trial: Trial) -> float:
        try:
            return run_trial(
                trial,
                search.settings.space,
                search.base,
                metric=search.metric,
                directory=search.directory / _name(trial.number),
            )
        except TrialPruned:
            raise
        except KeyboardInterrupt:
            trial.set_user_attr("reason", "interrupted; its values are tried again")
            requeue_trial(study, trial.number)
            raise
        except Exception as error:
            trial.set_user_attr("reason", f"{type(error).__name__}: {error}"[:1000])
            raise

    with experiments_allowed():
        study.optimize(
            objective,
            n_trials=1,
            catch=FAILURES,
            callbacks=[lambda _, trial: print(_line(trial, search.metric))],
        )
    gc.collect()  # only now has the trial's exception let go of its tensors
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    remove_finished_trial_dirs(study, search.directory)
    _write(study, search)


def _line(trial: FrozenTrial, metric: str) -> str:
    if trial.state == TrialState.COMPLETE:
        outcome = f"{metric} {trial.value:.4f}"
    elif trial.state == TrialState.PRUNED:
        outcome = f"pruned after {len(trial.intermediate_values)} evaluations"
    else:
        outcome = f"failed: {reason_of(trial)}"
    values = "  ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={decoded(value)}"
        for key, value in trial.params.items()
    )
    seconds = trial.duration.total_seconds() if trial.duration else 0.0
    return f"trial {trial.number}: {outcome}  ({seconds:.0f} s)  {values}"


def _name(number: int) -> str:
    return f"trial-{number:04d}"


def remove_finished_trial_dirs(study: Study, directory: Path) -> None:
    """Delete the directories of trials that are over, but for the best one's."""
    trials = ended(study)
    best = best_of(trials, study.direction)
    for trial in trials:
        if best is None or trial.number != best.number:
            shutil.rmtree(directory / _name(trial.number), ignore_errors=True)


def _write(study: Study, search: Search) -> TuneResult:
    with locked(search.directory):  # the last to write has seen the most
        return write_results(
            study,
            search.directory,
            config=search.config,
            space=search.settings.space,
            metric=search.metric,
            num_validation=search.num_validation,
        )
