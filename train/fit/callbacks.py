"""The Trainer callback that repairs a resumed run and stops a diverging one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerState

from train.fit.sampler import TrainingSampler


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
