"""Cross-fitted LoRA: each training row is scored by a model that was trained without it."""

from __future__ import annotations

import copy
import dataclasses
import time
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
    """Training on all folds would take too long; holds the minutes."""

    def __init__(self, minutes: float) -> None:
        super().__init__(minutes)
        self.minutes = minutes


def cross_fit_lora(
    run: Run,
    features_ND: Tensor,
    targets: Tensor,
    loss: Loss,
    fold_N: NDArray[np.int64],
    *,
    what: str,
    minutes: float,
) -> Array:
    """Train once per fold on the rows of the other folds; return the logits of all rows, (N, C).

    run: with the configuration to train. features_ND: the input of its head for each row, from
    which each head starts. what: names the training. Raises OverBudget if it would take over
    `minutes`.
    """
    arguments = _for_folds(run)
    part = dataclasses.replace(
        run,
        arguments=arguments,
        quiet=True,
        config=run.config.model_copy(update={"early_stopping_patience": None}),
    )
    folds = [int(fold) for fold in np.unique(fold_N)]
    per_epoch = [int((fold_N != fold).sum()) // global_batch(arguments) or 1 for fold in folds]
    epochs = float(arguments.num_train_epochs)
    steps = [arguments.max_steps if arguments.max_steps > 0 else int(n * epochs) for n in per_epoch]
    logits_NC = np.zeros((len(fold_N), len(run.data.labels)), dtype=np.float32)
    disable = None if run.state.is_main_process else True
    with tqdm(total=sum(steps), unit="steps", desc=what, disable=disable) as bar:
        watch = _Watch(run, bar, sum(steps), what, minutes)
        for fold in folds:
            held = np.flatnonzero(fold_N == fold)
            logits_NC[held] = _train_fold(
                part, features_ND, targets, loss, np.flatnonzero(fold_N != fold), held, watch
            )
    return logits_NC


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
    """Moves the bar, says how long all folds take, and stops them beyond the budget."""

    def __init__(self, run: Run, bar: Any, total: int, what: str, minutes: float) -> None:
        self.run, self.bar, self.total, self.what, self.budget = run, bar, total, what, minutes
        self.steps = 0
        self.started = 0.0
        self.has_said = False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count a step; once enough are timed, and at the end of each fold, look at the budget."""
        self.steps += 1
        self.bar.update()
        if self.steps == _WARM_STEPS:
            self.started = time.monotonic()
        timed = self.steps - _WARM_STEPS
        if timed < _TIMED_STEPS or (self.has_said and state.global_step < state.max_steps):
            return
        (seconds,) = broadcast_object_list([time.monotonic() - self.started])
        if seconds < _TIMED_SHARE * 60 * self.budget:
            return
        minutes = seconds / timed * self.total / 60
        if minutes > self.budget:
            raise OverBudget(minutes)
        if not self.has_said:
            self.run.say(f"auto: {self.what} takes about {duration(60 * minutes)}")
        self.has_said = True
