"""The Trainer as Textloop uses it: its arguments, its order of rows, its checkpoints.

With `train.fit.fit` the only importer of the Trainer.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_utils import rotate_checkpoints

from serve.files import write_atomic
from serve.inference.pooling import set_custom_model_type
from serve.inference.precision import matmul_precision
from train.config.run import RunConfig
from train.fit.checkpoints import mark_complete
from train.fit.precision import bf16_pays
from train.fit.sampler import TrainingSampler
from train.publish.push import without_push

FITTED_HEAD_LR = 0.1
"""Learning rate of a head that starts from the probe, as a share of the adapters'. At the full
rate the first epoch undoes the probe: on held-out rows of Banking77 it ends at 0.893 where the
probe had 0.917, and four epochs at 0.924. From a fifth to a twentieth they end at 0.929 to
0.933, with no order that two folds agree on."""


def training_arguments(config: RunConfig) -> TrainingArguments:
    """The Trainer's arguments: Textloop's defaults under the configuration's `trainer`."""
    known = {field.name for field in dataclasses.fields(TrainingArguments) if field.init}
    if unknown := sorted(set(config.trainer) - known):
        raise ValueError(f"`trainer.{unknown[0]}` is not a field of TrainingArguments")
    if config.trainer.get("save_total_limit") == 1:
        raise ValueError("`trainer.save_total_limit` = 1: the best and the last checkpoint are two")
    cuda = torch.cuda.is_available() and not config.trainer.get("use_cpu", False)
    values: dict[str, Any] = {
        "per_device_train_batch_size": 32,
        "per_device_eval_batch_size": 64,
        "num_train_epochs": 4,
        "learning_rate": 1e-3 if config.method == "lora" else 5e-5,
        "warmup_steps": 0.06,
        "weight_decay": 0.01,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_total_limit": 2,
        "logging_steps": 20,
        "logging_nan_inf_filter": False,
        "disable_tqdm": not sys.stderr.isatty(),
        "metric_for_best_model": "accuracy" if config.task == "single_label" else "f1_micro",
        "use_cpu": not cuda,
        "bf16": not config.trainer.get("fp16")
        and (torch.cuda.is_bf16_supported() if cuda else bf16_pays()),
        "tf32": True if cuda and torch.cuda.get_device_capability()[0] >= 8 else None,
        "ddp_find_unused_parameters": False,
        "dataloader_pin_memory": cuda,
        **without_push(config.trainer),
        "output_dir": str(config.output_dir / "checkpoints"),
        "seed": config.seed,
        "data_seed": config.seed,
        "remove_unused_columns": False,
        "load_best_model_at_end": True,
        # Without it the patience of early stopping starts anew on every resume.
        "restore_callback_states_from_checkpoint": True,
    }
    with matmul_precision("highest"):  # restores the process-wide state that `tf32` sets
        return TrainingArguments(**values)


def settle_bf16(
    config: RunConfig, arguments: TrainingArguments, state: PartialState, *, resumes: bool
) -> None:
    """One number format for every process and for the whole of a run on CPUs.

    Whether bf16 pays is measured, and another process or another day may find otherwise: the
    main process decides, when the run begins.
    """
    if state.device.type != "cpu" or {"bf16", "fp16"} & config.trainer.keys():
        return
    record = config.output_dir / "checkpoints" / "precision.json"
    chosen = [arguments.bf16]
    if state.is_main_process:
        if resumes and record.is_file():
            chosen = [bool(json.loads(record.read_bytes())["bf16"])]
        else:
            record.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(record, json.dumps({"bf16": chosen[0]}).encode())
    broadcast_object_list(chosen)
    if arguments.bf16 != chosen[0]:
        arguments.bf16 = chosen[0]
        arguments.mixed_precision = "bf16" if chosen[0] else "no"


def compute_precision(arguments: TrainingArguments) -> str:
    """What the products of a forward pass are computed in."""
    formats = {"bf16": arguments.bf16, "fp16": arguments.fp16, "tf32": arguments.tf32}
    return next((name for name, is_on in formats.items() if is_on), "fp32")


def uses_activation_checkpointing(arguments: TrainingArguments) -> bool:
    """Whether the backward pass runs layers again, by the Trainer's or FSDP's checkpointing."""
    by_fsdp = os.environ.get("FSDP_ACTIVATION_CHECKPOINTING", "false").lower() in ("true", "1")
    names = ("activation_checkpointing", "gradient_checkpointing")  # the newer name and the older
    return by_fsdp or any(getattr(arguments, name, None) for name in names)


def global_batch(arguments: TrainingArguments) -> int:
    """Rows of one update, over all processes and accumulation steps."""
    return int(
        arguments.per_device_train_batch_size
        * arguments.world_size
        * arguments.gradient_accumulation_steps
    )


def set_threads(config: RunConfig, state: PartialState) -> None:
    """Use all cores on the CPU: `accelerate launch` gives each process one thread."""
    if state.device.type == "cpu":
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        linux = sys.platform == "linux"
        cores = len(os.sched_getaffinity(0)) if linux else os.cpu_count() or 1
        torch.set_num_threads(config.cpu_threads or max(1, cores // local))


def head_learning_rate(config: RunConfig, arguments: TrainingArguments) -> float:
    """Peak learning rate of the head, and of a pooler that is trained with it."""
    if config.model.head_learning_rate is not None:
        return config.model.head_learning_rate
    fitted = config.method == "lora" and config.model.head_init == "probe"
    return float(arguments.learning_rate) * (FITTED_HEAD_LR if fitted else 1.0)


class ClassifierTrainer(Trainer):
    """The Trainer with Textloop's order of rows, learning rates and whole checkpoints."""

    data_collator: Any

    def __init__(
        self,
        *,
        sampler: TrainingSampler,
        head: Sequence[str],
        head_lr: float,
        train_collator: Any,
        **arguments: Any,
    ) -> None:
        """head: names of the modules that learn at `head_lr`. train_collator: where batches to
        train on are made otherwise than those of an evaluation."""
        super().__init__(**arguments)
        self.train_collator = train_collator
        self.sampler = sampler
        self.head = set(head)
        self.head_lr = head_lr

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The Trainer's own, with the head in parameter groups of its own."""
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
        """The Trainer's own, with the collator for training."""
        padded, self.data_collator = self.data_collator, self.train_collator
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = padded

    def load_best(self, checkpoint: Path) -> None:
        """Take the state of a run that is over, and its best weights."""
        self.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        self.state.best_model_checkpoint = _best_in(self.state, checkpoint.parent)
        self._load_best_model()

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write the checkpoint, mark it whole, and only then delete older ones."""
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
            mark_complete(checkpoint)
            rotate_checkpoints(
                output_dir=str(directory),
                save_total_limit=limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
            )


class RunCallback(TrainerCallback):
    """Puts right what the Trainer loses on resuming and hides on diverging."""

    def __init__(self, sampler: TrainingSampler, directory: Path) -> None:
        self.sampler = sampler
        self.directory = directory

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The best checkpoint is stored by a path, which is wrong once the run has moved."""
        if state.best_global_step:
            state.best_model_checkpoint = _best_in(state, self.directory)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """A loss that is not finite ends the run; the Trainer would log the last good one."""
        if not math.isfinite(float((logs or {}).get("loss", 0.0))):
            raise ValueError(
                f"the loss is {logs['loss']} at step {state.global_step}; "
                "lower trainer.learning_rate"
            )

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Inside an epoch and with several processes, accelerate does not reach the sampler."""
        self.sampler.set_epoch(int(state.epoch or 0))


def stopped_early(checkpoint: Path, patience: int | None) -> bool:
    """Whether early stopping ended the run at this checkpoint; the Trainer would go on."""
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    saved = state.stateful_callbacks.get("EarlyStoppingCallback")
    if patience is None or saved is None:
        return False
    last = saved[-1] if isinstance(saved, list) else saved
    return int(last["attributes"]["early_stopping_patience_counter"]) >= patience


def _best_in(state: Any, directory: Path) -> str:
    best = directory / f"checkpoint-{state.best_global_step}"
    if not best.is_dir():
        raise ValueError(f"the best checkpoint `{best}` is gone; start anew with `fit --fresh`")
    return str(best)
