"""One trial of a search: the rows it may see, its training, and when it is given up.

A trial is a whole `fit` in its own directory, judged on the validation split. It cannot reach
the test rows: a file of them is never opened, and where test is a part of train it is cut off
before the first trial. Training and validation rows are written to `output_dir/tune/data`,
and a trial's configuration names those files alone.
"""

from __future__ import annotations

import json
import math
import shutil
import uuid
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import Trial
from transformers import TrainerCallback

from serve.tables import write_rows
from train.config.run import RunConfig
from train.config.search_space import Dimension, suggest, with_values
from train.data.splits import LabelledData, Split, load_data
from train.fit.fit import fit


def visible_rows(config: RunConfig) -> LabelledData:
    """The run's training and validation rows; its test split is the latter once more.

    A test file is not opened: the training file stands in its place while the rows are read.
    """
    if config.data.test is not None:
        data = config.data.model_copy(update={"test": config.data.train})
        config = config.model_copy(update={"data": data})
    loaded = load_data(config)
    return LabelledData(
        train=loaded.train,
        validation=loaded.validation,
        test=loaded.validation,
        labels=loaded.labels,
        num_dropped=loaded.num_dropped,
    )


def write_visible(data: LabelledData, config: RunConfig, directory: Path) -> RunConfig:
    """Write the rows as Parquet files; the configuration that reads them and nothing else."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name, split in (("train", data.train), ("validation", data.validation)):
        paths[name] = directory / f"{name}.parquet"
        temporary = directory / f".{uuid.uuid4().hex}.parquet"
        try:
            _write(temporary, list(_rows(split, config)))
            temporary.replace(paths[name])  # another worker may be reading the same rows
        finally:
            temporary.unlink(missing_ok=True)
    return with_values(
        config,
        {
            "data.train": str(paths["train"]),
            "data.validation": str(paths["validation"]),
            "data.test": str(paths["validation"]),
            "data.label_map": {},  # the labels have their new names already
        },
    )


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    write_rows(path, lambda: rows, list(rows[0]))


def _rows(split: Split, config: RunConfig) -> Iterator[dict[str, Any]]:
    for text, labels in zip(split.texts, split.labels, strict=True):
        parts = (text,) if isinstance(text, str) else text
        label = list(labels) if config.task == "multi_label" else labels[0]
        row: dict[str, Any] = dict(zip(config.data.text_columns, parts, strict=True))
        yield row | {config.data.label_column: label}


class PruningCallback(TrainerCallback):
    """Reports each evaluation to the study, and ends a trial that the study gives up."""

    def __init__(self, trial: Trial, metric: str) -> None:
        self.trial = trial
        self.metric = metric
        self.evaluations = 0
        self.training = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """From here on evaluations count."""
        self.training = True

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The evaluation of the best checkpoint, which follows, is not a new one."""
        self.training = False

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any
    ) -> None:
        """Trials are compared at the same number of evaluations, whatever their batches."""
        if not self.training:
            return
        self.evaluations += 1
        self.trial.report(float(metrics[f"eval_{self.metric}"]), self.evaluations)
        is_over = state.global_step >= state.max_steps or control.should_training_stop
        if not is_over and self.trial.should_prune():
            raise optuna.TrialPruned(f"after {self.evaluations} evaluations")


def run_trial(
    trial: Trial, space: dict[str, Dimension], base: RunConfig, *, metric: str, directory: Path
) -> float:
    """Train with the trial's values; the validation metric of its best checkpoint.

    base: see `write_visible`. directory: is made anew and holds the run, with its output in
    `fit.log`. Raises what `fit` raises, and TrialPruned.
    """
    config = with_values(base, suggest(trial, space) | {"output_dir": directory})
    shutil.rmtree(directory, ignore_errors=True)  # of an earlier study
    directory.mkdir(parents=True)
    with (directory / "fit.log").open("w", buffering=1) as log, redirect_stdout(log):
        fit(config, callbacks=[PruningCallback(trial, metric)])
    shutil.rmtree(directory / "cache", ignore_errors=True)
    record = json.loads((directory / "adapter" / "fit.json").read_text(encoding="utf-8"))
    value = float(record["validation"][metric])
    if not math.isfinite(value):
        raise ValueError(f"validation {metric} is {value}")
    return value
