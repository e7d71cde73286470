"""Search over a run's settings: `textloop tune`.

Decides whether a search can start, which trial is next and which files are kept. Trials run
one after another in one process, because importing the libraries takes longer than a short
trial. Memory is freed between trials; if a trial takes the whole process down, the next worker
finds it and retries its values. To use several GPUs, start several workers.

`train.tune.trial` runs one trial; `train.tune.study` stores them.
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
import torch
from optuna import TrialPruned
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from serve.files import write_atomic
from train.config.run import RunConfig
from train.config.search_space import (
    Dimension,
    TuneSection,
    boundary_configs,
    decoded,
    suggest,
    with_values,
)
from train.config.trainer_keys import is_loss
from train.data.split_checks import check_metric
from train.data.splits import LabelledData, load_data
from train.fit.arguments import training_arguments
from train.fit.choice.record import resolve
from train.model.source import base_content, check_source
from train.preflight import read_fitted
from train.tune.page import tune_page
from train.tune.report import TuneResult, failure_reason, write_results
from train.tune.study import (
    GRACE_S,
    best_trial,
    experimental_allowed,
    fail_stale_trials,
    finished_trials,
    locked,
    open_study,
    requeue_trial,
    running_trials,
    trials_left,
)
from train.tune.trial import run_trial

FAILURES = (ValueError, RuntimeError, MemoryError)
"""Errors that end one trial and not the search: diverging values, and too little memory."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """What all trials share."""

    settings: TuneSection
    config: RunConfig
    """The run whose keys each trial, and finally the best one, sets."""

    rows: LabelledData
    """Training and validation rows; the test split is the validation split once more."""

    metric: str
    maximize: bool
    identity: dict[str, Any]
    """What trials must have in common to be comparable."""

    @property
    def directory(self) -> Path:
        """Directory of the study, its trials and its results."""
        return self.config.output_dir / "tune"


def tune(config: RunConfig) -> TuneResult:
    """Run trials until the study has `tune.trials` finished ones, or time is up.

    Writes `output_dir/tune/best.yaml`, a configuration for `fit`, `trials.csv` and `report.html`.
    Raises ValueError for a space that does not fit the run, before the first trial.
    """
    datasets.disable_progress_bars()  # each trial would show several
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
    is_waiting = False
    while time.monotonic() < deadline:
        fail_stale_trials(study)
        if trials_left(study, search.settings.trials):
            _run_next(study, search)
        elif others := running_trials(study):
            if not is_waiting:
                numbers = ", ".join(str(trial.number) for trial in others)
                print(
                    f"waiting for other workers to finish trial {numbers} "
                    f"(stale trials are failed after {GRACE_S} s)"
                )
            is_waiting = True
            time.sleep(1)
        else:
            break
    remove_finished_trial_dirs(study, search.directory)
    return _write(study, search)


def prepare(config: RunConfig) -> Search:
    """Check the space against the run, and load the rows that trials may see.

    Raises ValueError with the path of the key for what would fail in every trial.
    """
    settings = config.tune
    if not settings.space:
        raise ValueError("tune.space is empty; name keys to search over, with low and high")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "tune runs each trial in one process; instead of `accelerate launch`, start several "
            "workers on the same output_dir or tune.storage"
        )
    if config.method == "auto" and "method" not in settings.space:
        config = _with_chosen_method(config)
    if settings.metric is not None:
        config = with_values(config, {"trainer.metric_for_best_model": settings.metric})
    arguments = training_arguments(config)
    if arguments.n_gpu > 1:
        raise ValueError(
            f"one worker sees {arguments.n_gpu} GPUs; start one per GPU on the same output_dir, "
            "with CUDA_VISIBLE_DEVICES=0 and so on"
        )
    default = "accuracy" if config.task == "single_label" else "f1_micro"
    metric = str(config.trainer.get("metric_for_best_model", default)).removeprefix("eval_")
    for corner in boundary_configs(config, settings.space):
        ignored = sorted(settings.space.keys() & set(corner.ignored_settings()))
        if ignored and "method" not in settings.space:
            raise ValueError(
                f"tune.space names `{ignored[0]}`, which `method: {corner.method}` does not use"
            )
        training_arguments(corner)
        check_source(corner.model)
    rows = load_data(config, skip_test=True)
    check_metric(metric, rows.labels, rows.validation.labels)
    print(
        f"data: {len(rows.train)} train, {len(rows.validation)} validation rows; "
        "test rows are not used"
    )
    return Search(
        settings=settings,
        config=config,
        rows=rows,
        metric=metric,
        maximize=not is_loss(metric),
        identity=_identity(config, rows, settings.space),
    )


def _with_chosen_method(config: RunConfig) -> RunConfig:
    """Take the method that `fit` chose for this run; ValueError if it has not."""
    adapter = config.output_dir / "adapter"
    if not (adapter / "fit.json").is_file():
        raise ValueError(
            "tune searches over the settings of one method: run `textloop fit` first, whose choice "
            "it takes, or set method: lora"
        )
    record = read_fitted(adapter)
    if "choice" not in record:
        raise ValueError(f"`{adapter}` was trained with another method than auto; set method: lora")
    config = resolve(config, record)
    print(f"method {config.method}, pooling {config.model.pooling}: chosen by `fit`")
    return config


def _identity(config: RunConfig, rows: LabelledData, space: dict[str, Dimension]) -> dict[str, Any]:
    """Collect what trials must have in common. Data count by content, not by path."""
    return {
        "config": config.training_settings(),
        "base_content": base_content(config.model),
        "data": {name: rows.splits[name].fingerprint for name in ("train", "validation")},
        "space": {key: each.model_dump(mode="json") for key, each in space.items()},
    }


def _run_next(study: Study, search: Search) -> None:
    """Run the next trial, print its outcome, and write the results so far."""

    def objective(trial: Trial) -> float:
        directory = search.directory / _name(trial.number)
        try:
            values = suggest(trial, search.settings.space) | {"output_dir": directory}
            config = with_values(search.config, values)
            return run_trial(trial, config, search.rows, metric=search.metric)
        except TrialPruned:
            raise
        except KeyboardInterrupt:
            trial.set_user_attr("reason", "interrupted; its values will be retried")
            requeue_trial(study, trial.number)
            raise
        except Exception as error:
            trial.set_user_attr("reason", f"{type(error).__name__}: {error}"[:1000])
            raise

    with experimental_allowed():
        study.optimize(
            objective,
            n_trials=1,
            catch=FAILURES,
            callbacks=[lambda _, trial: print(_line(trial, search.metric))],
        )
    gc.collect()  # the trial's exception held its tensors until here
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
        outcome = f"failed: {failure_reason(trial)}"
    values = "  ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={decoded(value)}"
        for key, value in trial.params.items()
    )
    seconds = trial.duration.total_seconds() if trial.duration else 0.0
    return f"trial {trial.number}: {outcome}  ({seconds:.0f} s)  {values}"


def _name(number: int) -> str:
    return f"trial-{number:04d}"


def remove_finished_trial_dirs(study: Study, directory: Path) -> None:
    """Delete the directories of finished trials, except the best one's."""
    trials = finished_trials(study)
    best = best_trial(trials, study.direction)
    for trial in trials:
        if best is None or trial.number != best.number:
            shutil.rmtree(directory / _name(trial.number), ignore_errors=True)


def _write(study: Study, search: Search) -> TuneResult:
    with locked(search.directory):  # the last worker to write has seen the most trials
        result = write_results(
            study,
            search.directory,
            config=search.config,
            space=search.settings.space,
            metric=search.metric,
            num_validation=len(search.rows.validation),
        )
        trials = finished_trials(study)
        document = tune_page(result, trials, search.config, maximize=search.maximize)
        write_atomic(search.directory / "report.html", document)
        return result
