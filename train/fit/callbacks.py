"""The Trainer's callbacks: one repairs a resumed run, others print what people read."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
)

from train.fit.sampler import TrainingSampler
from train.report.progress import Pace
from train.statistics.metrics import shown_name


class RunCallback(TrainerCallback):
    """Restores the best checkpoint's path and the sampler's epoch; stops when the loss diverges."""

    def __init__(self, sampler: TrainingSampler, directory: Path) -> None:
        """directory: the checkpoints'."""
        self.sampler = sampler
        self.directory = directory

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Look the best checkpoint up by its step: the stored path is wrong after a move."""
        if state.best_global_step:
            state.best_model_checkpoint = best_checkpoint(state, self.directory)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Raise ValueError for a loss that is not finite; the Trainer would train to the end."""
        if not math.isfinite(float((logs or {}).get("loss", 0.0))):
            raise ValueError(
                f"the loss is {logs['loss']} at step {state.global_step}; "
                "lower trainer.learning_rate"
            )

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Set the sampler's epoch; under DDP, accelerate does not in a run resumed mid-epoch."""
        self.sampler.set_epoch(int(state.epoch or 0))


def stopped_early(checkpoint: Path, patience: int | None) -> bool:
    """Return whether early stopping ended the run here; the Trainer would train on."""
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    saved = state.stateful_callbacks.get("EarlyStoppingCallback")
    if patience is None or saved is None:
        return False
    last = saved[-1] if isinstance(saved, list) else saved
    return int(last["attributes"]["early_stopping_patience_counter"]) >= patience


def best_checkpoint(state: Any, directory: Path) -> str:
    """Return the path of the best checkpoint in `directory`. Raises ValueError if it is missing."""
    best = directory / f"checkpoint-{state.best_global_step}"
    if not best.is_dir():
        raise ValueError(f"best checkpoint `{best}` is missing; restart with `fit --fresh`")
    return str(best)


class Bar(ProgressCallback):
    """The Trainer's bars on a terminal, without its logs."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Show the training loss at the end of the bar."""
        if self.training_bar is not None and "loss" in (logs or {}):
            self.training_bar.set_postfix_str(f"loss {float(logs['loss']):.4f}")


class Console(TrainerCallback):
    """One line per evaluation, and in a pipe now and then one on the progress."""

    def __init__(self, task: str, metric: str, patience: int | None) -> None:
        """metric: the one that chooses the checkpoint. patience: of early stopping."""
        micro = ["f1_micro"] if task == "multi_label" else []
        self.names = tuple(dict.fromkeys(["loss", "accuracy", *micro, "f1_macro", metric]))
        self.task, self.metric, self.patience = task, metric, patience
        self.pace: Pace | None = None
        self.loss = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start to estimate the time."""
        self.pace = Pace(state.max_steps, state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Keep the training loss for the next line."""
        if "loss" in (logs or {}):
            self.loss = f", training loss {float(logs['loss']):.4f}"

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Print the progress where there is no bar."""
        if not (args.disable_tqdm and state.is_world_process_zero and self.pace):
            return
        if left := self.pace.time_left(state.global_step):
            where = f"step {state.global_step} of {state.max_steps}"
            print(f"{where}{self.loss}, {left}", file=sys.stderr, flush=True)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any
    ) -> None:
        """Print the metrics; those of the best checkpoint, after the training, `fit` prints."""
        if self.pace is None or not state.is_world_process_zero:
            return
        values = [f"{shown_name(n, self.task)} {metrics[f'eval_{n}']:.4f}" for n in self.names]
        if args.max_steps > 0:
            where = f"step {state.global_step}/{state.max_steps}"
        else:
            where = f"epoch {state.epoch:.3g}/{args.num_train_epochs:g}"
        line = f"{where}: validation {', '.join(values)}"
        if args.disable_tqdm:
            print(line, flush=True)
        else:
            tqdm.write(line)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Say if early stopping has ended the training."""
        self.pace = None
        stopped = self.patience is not None and state.global_step < state.max_steps
        if stopped and state.is_world_process_zero:
            print(
                f"stopped early in epoch {state.epoch:.3g}: {self.patience} evaluations without a "
                f"better validation {shown_name(self.metric, self.task)}",
                flush=True,
            )


def set_console(trainer: Trainer, console: Console) -> None:
    """Replace what the Trainer prints: dictionaries of strings, twice at the end."""
    for shown in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(shown)
    if not trainer.args.disable_tqdm:
        trainer.add_callback(Bar())
    trainer.add_callback(console)
