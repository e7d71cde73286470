"""The Trainer subclass: order of rows, learning rates, complete checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Trainer, TrainerState
from transformers.trainer_utils import rotate_checkpoints

from serve.inference.pooling import set_custom_model_type
from train.fit.callbacks import best_checkpoint
from train.fit.checkpoints import latest_complete, mark_complete
from train.fit.sampler import TrainingSampler
from train.statistics.calibrated_loss import SHOWN, advantage, calibrated_losses
from train.statistics.metrics import given

LOGITS = "validation_logits.npy"
"""File of a checkpoint with its logits on the validation rows, sorted by length."""


class ClassifierTrainer(Trainer):
    """The Trainer with Textloop's sampler, parameter groups and checkpoint markers."""

    data_collator: Any

    def __init__(
        self,
        *,
        sampler: TrainingSampler,
        head: Sequence[str],
        head_lr: float,
        train_collator: Any,
        prefers_last: bool = False,
        **arguments: Any,
    ) -> None:
        """head: names of the modules trained at `head_lr`. train_collator: collator of the
        training batches; `data_collator` is that of evaluation. prefers_last: keep the last
        checkpoint unless the one with the best metric is shown to be better."""
        super().__init__(preprocess_logits_for_metrics=_logits_alone, **arguments)
        self.train_collator = train_collator
        self.sampler = sampler
        self.head = set(head)
        self.head_lr = head_lr
        self.prefers_last = prefers_last
        self.checkpoint_reason = ""

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Create the Trainer's optimizer, with the head in parameter groups of its own."""
        is_new = self.optimizer is None
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        if not is_new:
            return optimizer
        named = (self.model if model is None else model).named_parameters()
        head = {id(parameter) for name, parameter in named if self.head & set(name.split("."))}
        for group in list(optimizer.param_groups):
            mine = [each for each in group["params"] if id(each) in head]
            group["params"] = [each for each in group["params"] if id(each) not in head]
            optimizer.add_param_group({**group, "params": mine, "lr": self.head_lr})
        return optimizer

    def _get_train_sampler(self, train_dataset: Any = None) -> TrainingSampler:
        return self.sampler

    def get_train_dataloader(self) -> Any:
        """Create the Trainer's data loader, with the training collator."""
        padded, self.data_collator = self.data_collator, self.train_collator
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = padded

    def load_best(self, checkpoint: Path) -> None:
        """Load the state of a finished run, and its best weights."""
        self.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        self.state.best_model_checkpoint = best_checkpoint(self.state, checkpoint.parent)
        self._load_best_model()

    def _determine_best_metric(self, metrics: Any, trial: Any) -> bool:
        """As the Trainer does, but of equal checkpoints the later one is the best."""
        name = f"eval_{str(self.args.metric_for_best_model).removeprefix('eval_')}"
        if metrics.get(name) == self.state.best_metric:
            self.state.best_metric = None
        return bool(super()._determine_best_metric(metrics, trial))

    def _load_best_model(self) -> None:
        best = Path(str(self.state.best_model_checkpoint))
        last = latest_complete(best.parent)
        if self.prefers_last and last is not None:
            self.checkpoint_reason = self._why_not_last(best, last)
            if not self.checkpoint_reason:
                self.state.best_model_checkpoint = str(last)
        super()._load_best_model()

    def _why_not_last(self, best: Path, last: Path) -> str:
        """Return why an earlier checkpoint is loaded, or '' for the last."""
        if best.name == last.name:
            return ""
        if not ((best / LOGITS).is_file() and (last / LOGITS).is_file()):
            return f"{best.name}, as an earlier version of Textloop chose"
        given_NC = given(self.eval_dataset["labels"], self.model.config.num_labels)
        losses_N, last_N = (
            calibrated_losses(np.load(each / LOGITS), given_NC, self.compute_metrics.task)
            for each in (best, last)
        )
        errors = advantage(losses_N, last_N)
        if errors <= SHOWN:
            return ""
        return (
            f"{best.name} instead of the last, {last.name}: its log-loss on {len(last_N)} "
            f"validation rows is lower, {losses_N.mean():.4f} against {last_N.mean():.4f} "
            f"({errors:.1f} standard errors)"
        )

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write the checkpoint, mark it complete, and only then delete older ones."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            directory = Path(self._get_output_dir(trial=trial))
            checkpoint = directory / f"checkpoint-{self.state.global_step}"
            set_custom_model_type(checkpoint)
            np.save(checkpoint / LOGITS, self.compute_metrics.logits_NC)
            mark_complete(checkpoint)
            rotate_checkpoints(
                output_dir=str(directory),
                save_total_limit=limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
            )


def _logits_alone(outputs: Any, labels: Any) -> Any:
    """Return the logits of an evaluation's outputs; some architectures add states to them."""
    return outputs[0] if isinstance(outputs, tuple | list) else outputs
