"""Cross-fitted LoRA: each training row is scored by a model that was trained without it."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from accelerate.utils import broadcast_object_list
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm
from transformers import PrinterCallback, ProgressCallback, TrainerCallback, set_seed

from serve.inference.precision import matmul_precision
from serve.inference.scores import Array
from train.fit.arguments import global_batch, training_arguments
from train.fit.assemble import choose_batches, make_trainer, select_parameters
from train.fit.choice.rows import Rows
from train.fit.encode import Inputs, encode_splits
from train.fit.run import Run
from train.fit.tokens import Tokens
from train.model.base import load_base
from train.model.head import L2, fit_head
from train.model.loss import Loss
from train.report.progress import duration

_WARM_STEPS, _TIMED_STEPS = 2, 5

_TIMED_SHARE = 0.04
"""Share of the budget that is timed before it is judged: the first steps may be slow by chance."""


class OverBudget(Exception):
    """Training on one part of the rows would already take too long; holds the minutes."""

    def __init__(self, minutes: float) -> None:
        super().__init__(minutes)
        self.minutes = minutes


class FoldTraining:
    """Trains LoRA on all folds but one; a context manager, which shows a bar.

    runs: with the configuration to train, by pooling. minutes: that the training may take.
    """

    def __init__(self, runs: Mapping[str, Run], rows: Rows, loss: Loss, *, minutes: float) -> None:
        self.rows = rows
        smoothing = next(iter(runs.values())).config.loss.label_smoothing
        self.loss = dataclasses.replace(loss, label_smoothing=smoothing)
        self.parts = {pooling: _part(run) for pooling, run in runs.items()}
        run = next(iter(self.parts.values()))
        fold_N = rows.fold_N
        steps = [_steps(run, int((fold_N != fold).sum())) for fold in np.unique(fold_N)]
        disable = None if run.state.is_main_process else True
        what = f"training on {len(steps)} parts of the rows"
        what += ", with both poolings" if len(runs) == 2 else ""
        bar = tqdm(total=len(runs) * sum(steps), unit="steps", desc=what, disable=disable)
        self._bar = bar
        self._watch = _Watch(run, bar, len(runs) * steps[0], len(runs) * sum(steps), what, minutes)

    def __enter__(self) -> FoldTraining:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def train(self, pooling: str, fold: int) -> Array:
        """Return the logits of a fold's rows, by a model of the others.

        Its head starts from the probe of its rows. Raises OverBudget if the first fold would take
        too long.
        """
        fold_N = self.rows.fold_N
        return _train_fold(
            self.parts[pooling],
            self.rows.features[pooling],
            self.rows.targets,
            self.loss,
            np.flatnonzero(fold_N != fold),
            np.flatnonzero(fold_N == fold),
            self._watch,
        )

    def is_over(self) -> bool:
        """Whether the time is up."""
        (seconds,) = broadcast_object_list([time.monotonic() - self._watch.begun])
        return bool(seconds > 60 * self._watch.budget)


def _part(run: Run) -> Run:
    """The run on a part of its rows."""
    return dataclasses.replace(
        run,
        arguments=_for_folds(run),
        quiet=True,
        config=run.config.model_copy(update={"early_stopping_patience": None}),
    )


def _steps(run: Run, rows: int) -> int:
    """Steps of a training on so many rows."""
    if run.arguments.max_steps > 0:
        return int(run.arguments.max_steps)
    return int((rows // global_batch(run.arguments) or 1) * float(run.arguments.num_train_epochs))


def _for_folds(run: Run) -> Any:
    """The run's arguments without evaluations, checkpoints, trackers and bars."""
    arguments = copy.copy(training_arguments(run.config))
    arguments.eval_strategy = arguments.save_strategy = "no"
    arguments.load_best_model_at_end = False
    arguments.push_to_hub = False
    arguments.report_to = []
    arguments.disable_tqdm = True
    return arguments


def _train_fold(
    run: Run,
    features_ND: Tensor,
    targets: Tensor,
    loss: Loss,
    rows: NDArray[np.int64],
    held: NDArray[np.int64],
    watch: TrainerCallback,
) -> Array:
    """Train on some rows of train and return the logits of others."""
    config = run.config
    set_seed(config.seed)
    base = load_base(config, run.data.labels)
    inputs = encode_splits(run, base)
    lengths_N = Tokens(inputs.train, base.encoder.columns).lengths
    held_sorted = held[np.argsort(lengths_N[held], kind="stable")]
    part = Inputs(
        train=inputs.train.select(rows),
        validation=inputs.train.select(held_sorted),
        states=inputs.states,
    )
    packing = choose_batches(run, base, inputs)
    l2 = config.model.probe_l2 or L2
    fit_head(base.model, features_ND[rows], targets[rows], loss, l2=l2)
    model = select_parameters(run, base)
    trainer = make_trainer(run, base, model, loss, part, packing, [watch])
    for printing in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printing)
    with matmul_precision("high" if run.arguments.tf32 else "highest"):
        trainer.train()
    with matmul_precision("highest"):
        predicted_NC = np.asarray(trainer.predict(part.validation).predictions, dtype=np.float32)
    logits_NC = np.empty_like(predicted_NC)
    logits_NC[np.searchsorted(held, held_sorted)] = predicted_NC
    return logits_NC


class _Watch(TrainerCallback):
    """Moves the bar, says how long the folds take, and stops the first one beyond the budget.

    first, total: steps of the first fold under all poolings, and of all folds.
    """

    def __init__(
        self, run: Run, bar: Any, first: int, total: int, what: str, minutes: float
    ) -> None:
        self.run, self.bar, self.what, self.budget = run, bar, what, minutes
        self.first, self.total = first, total
        self.steps = 0
        self.begun = self.started = time.monotonic()
        self.has_said = False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count a step; once enough are timed, look at the budget."""
        self.steps += 1
        self.bar.update()
        if self.steps == _WARM_STEPS:
            self.started = time.monotonic()
        timed = self.steps - _WARM_STEPS
        if timed < _TIMED_STEPS or self.has_said:
            return
        (seconds,) = broadcast_object_list([time.monotonic() - self.started])
        if seconds < _TIMED_SHARE * 60 * self.budget:
            return
        step_s = seconds / timed
        if step_s * self.first > 60 * self.budget:
            raise OverBudget(step_s * self.first / 60)
        longest_s = min(step_s * self.total, 60 * self.budget + step_s * self.first)
        self.run.say(f"auto: {self.what} takes up to {duration(longest_s)}")
        self.has_said = True
