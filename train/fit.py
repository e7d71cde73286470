"""Fine-tune: what `accelerate launch -m train fit` runs. All wiring of the Trainer is here.

In order: data, base model, head, adapters, Trainer, the best checkpoint as `adapter/`. A
rerun with the same configuration goes on from the last whole checkpoint; a rerun with
another one is refused, so that no result is ever a mixture of two.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from tqdm import tqdm
from transformers import (
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import rotate_checkpoints

from serve.files import replace_directory, write_atomic
from serve.scores import activate, default_activation
from train.checkpoints import mark_whole
from train.config import RunConfig
from train.data import LabelledData, load_data
from train.encode import Collator, encode
from train.head import init_head
from train.loss import make_loss
from train.metrics import ClassificationMetrics, chosen, one_hot
from train.model import add_lora, load_base
from train.push import PushingTrainer
from train.resume import prepare_run
from train.sampler import TrainingSampler
from train.tracking import RunRecord, check_trackers


def fit(config: RunConfig, *, fresh: bool = False) -> dict[str, float]:
    """Train as configured and write `output_dir/adapter`; the best validation metrics.

    fresh: delete the run's checkpoints first instead of going on from them.
    Raises ValueError for a configuration, data or checkpoints that do not fit together.
    """
    arguments = training_arguments(config)
    if arguments.n_gpu > 1:
        # DataParallel: the Trainer would multiply the loss by the number of GPUs.
        raise ValueError(
            f"one process sees {arguments.n_gpu} GPUs; start one per GPU with `accelerate launch "
            "--config_file configs/accelerate/ddp.yaml`, or use one: CUDA_VISIBLE_DEVICES=0"
        )
    check_trackers(arguments.report_to)
    state = PartialState()
    set_threads(config, state)
    say = print if state.is_main_process else _silent
    with state.main_process_first():
        data = load_data(config)
    if data.num_dropped:
        say(f"data: {data.num_dropped} unusable rows left out")
    say(
        f"data: {len(data.train)} train, {len(data.validation)} validation, "
        f"{len(data.test)} test rows, {len(data.labels)} labels"
    )
    checkpoint = prepare_run(config, data, state, global_batch=global_batch(arguments), fresh=fresh)
    if checkpoint:
        say(f"resuming from {checkpoint}")

    set_seed(config.seed)
    base = load_base(config, data.labels)
    for note in base.notes:
        say(f"note: {note}")
    loss = make_loss(config.loss, config.task, data.labels, data.train.labels)
    train = encode(data.train, data.labels, config, base.encoder)
    validation = encode(data.validation, data.labels, config, base.encoder, sort=True)
    if config.model.head_init == "probe" and checkpoint is None:
        targets = torch.tensor(train["labels"])
        encodings = train.remove_columns("labels").to_list()
        with tqdm(total=len(train), unit="texts", desc="probe", disable=_bar_off(state)) as bar:
            accuracy = init_head(
                base.model,
                base.encoder,
                encodings,
                targets,
                loss,
                device=arguments.device,
                progress=bar.update,
            )
        say(f"probe: the head starts at an accuracy of {accuracy:.4f} on the training rows")
    model = add_lora(base, config.lora) if config.method == "lora" else base.model
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    say(f"model: {config.model.base}, method {config.method}, {trainable:,} trained weights")

    lengths = [len(ids) for ids in train["input_ids"]] if config.data.group_by_length else None
    sampler = TrainingSampler(
        len(train), lengths, global_batch=global_batch(arguments), seed=config.seed
    )
    metrics = ClassificationMetrics()
    callbacks = []
    if config.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(config.early_stopping_patience))
    trainer = ClassifierTrainer(
        model=model,
        args=arguments,
        sampler=sampler,
        train_dataset=train,
        eval_dataset=validation,
        data_collator=Collator(base.encoder, config.task),
        processing_class=base.encoder.tokenizer,
        compute_loss_func=loss,
        compute_metrics=lambda result: compute_metrics(metrics, result, config.task),
        callbacks=[*callbacks, RunCallback(sampler, config.output_dir / "checkpoints")],
    )
    trainer.add_callback(RunRecord(trainer, config, data.fingerprints))
    if checkpoint and stopped_early(checkpoint, config.early_stopping_patience):
        trainer.load_best(checkpoint)
    else:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    best = trainer.evaluate()
    save_trained(trainer, config, data, base.trained_modules, best)
    shown = {key: best[f"eval_{key}"] for key in ("accuracy", "f1_macro", "loss")}
    say("best on validation: " + "  ".join(f"{key} {value:.4f}" for key, value in shown.items()))
    say(f"wrote {config.output_dir / 'adapter'}")
    trainer.push_trained(config.output_dir / "adapter")
    return shown


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
        "bf16": cuda and torch.cuda.is_bf16_supported() and not config.trainer.get("fp16"),
        "tf32": True if cuda and torch.cuda.get_device_capability()[0] >= 8 else None,
        "ddp_find_unused_parameters": False,
        "dataloader_pin_memory": cuda,
        **config.trainer,
        "output_dir": str(config.output_dir / "checkpoints"),
        "seed": config.seed,
        "data_seed": config.seed,
        "remove_unused_columns": False,
        "load_best_model_at_end": True,
        # Without it the patience of early stopping starts anew on every resume.
        "restore_callback_states_from_checkpoint": True,
    }
    return TrainingArguments(**values)


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


class ClassifierTrainer(PushingTrainer):
    """The Trainer with Textloop's order of rows and whole checkpoints."""

    def __init__(self, *, sampler: TrainingSampler, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.sampler = sampler

    def _get_train_sampler(self, train_dataset: Any = None) -> TrainingSampler:
        return self.sampler

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
            mark_whole(directory / f"checkpoint-{self.state.global_step}")
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


def compute_metrics(metrics: ClassificationMetrics, result: Any, task: str) -> dict[str, float]:
    """Metrics of an evaluation during training, from logits and label numbers."""
    logits_NC = np.asarray(result.predictions, dtype=np.float32)
    predicted_NC = chosen(activate(logits_NC, default_activation(task)), task)
    reference_NC = (
        result.label_ids.astype(bool)
        if task == "multi_label"
        else one_hot(result.label_ids, logits_NC.shape[1])
    )
    values: dict[str, float] = metrics.compute(references=reference_NC, predictions=predicted_NC)
    return values


def save_trained(
    trainer: Trainer,
    config: RunConfig,
    data: LabelledData,
    trained_modules: tuple[str, ...],
    best: dict[str, float],
) -> None:
    """Write the best weights and what `merge` must know to `output_dir/adapter`."""
    staging = config.output_dir / ".adapter.staging"
    if trainer.is_world_process_zero():
        shutil.rmtree(staging, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    trainer.save_model(str(staging))  # every process: sharded weights are gathered here
    if trainer.is_world_process_zero():
        # A pickle with this machine's paths, and peft's empty model card.
        for leftover in ("training_args.bin", "README.md"):
            (staging / leftover).unlink(missing_ok=True)
        record = {
            "run": json.loads((config.output_dir / "run.json").read_text(encoding="utf-8")),
            "labels": data.labels,
            "trained_modules": trained_modules,
            "validation": {key.removeprefix("eval_"): value for key, value in best.items()},
            "global_step": trainer.state.global_step,
            "log_history": trainer.state.log_history,
        }
        write_atomic(staging / "fit.json", json.dumps(record, indent=2).encode())
        replace_directory(staging, config.output_dir / "adapter")
    trainer.accelerator.wait_for_everyone()


def _bar_off(state: PartialState) -> bool | None:
    return None if state.is_main_process else True  # None: only on a terminal


def _silent(*_: object) -> None:
    pass
