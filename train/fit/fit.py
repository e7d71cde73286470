"""Fine-tune: what `accelerate launch -m train fit` runs.

In order: data, base model, head, adapters, Trainer, the best checkpoint as `adapter/`. A
rerun with the same configuration goes on from the last whole checkpoint; a rerun with
another one is refused, so that no result is ever a mixture of two.

The head starts from a linear model on the frozen features. Under `method: probe` that is
all, and no Trainer is needed.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import concatenate_datasets
from torch import nn
from tqdm import tqdm
from transformers import EarlyStoppingCallback, TrainerCallback, TrainingArguments, set_seed

from serve.files import replace_directory, write_atomic
from serve.inference.pooling import layers_of, set_custom_model_type
from serve.inference.precision import matmul_precision
from serve.inference.predictor import batched_logits
from serve.inference.scores import Array
from train.config.run import RunConfig
from train.data.splits import LabelledData, load_data
from train.fit.encode import TRAINED_LOGITS, Collator, encode
from train.fit.resume import prepare_run
from train.fit.sampler import TrainingSampler
from train.fit.tokens import Tokens
from train.fit.tracking import RunRecord, check_trackers
from train.fit.trainer import (
    ClassifierTrainer,
    RunCallback,
    compute_precision,
    global_batch,
    head_learning_rate,
    set_threads,
    settle_bf16,
    stopped_early,
    training_arguments,
    uses_activation_checkpointing,
)
from train.fit.training_metrics import ClassificationMetrics, classification_metrics
from train.model.adapters import add_lora, freeze_below
from train.model.base import Base, load_base, weights_sha256
from train.model.frozen_layers import CachedHiddenStates, FrozenLayers, store_states
from train.model.head import init_head
from train.model.last_layer import shorten_last_layer
from train.model.loss import Loss, make_loss
from train.model.packing import packing_is_faster, without_padding
from train.publish.push import PushCallback


@matmul_precision("highest")
def fit(
    config: RunConfig,
    *,
    fresh: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    data: LabelledData | None = None,
) -> dict[str, float]:
    """Train as configured and write `output_dir/adapter`; the best validation metrics.

    fresh: delete the run's checkpoints first instead of going on from them. callbacks: the
    Trainer's, beside Textloop's own. data: of this configuration, if it is loaded already.
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
    if data is None:
        with state.main_process_first():
            data = load_data(config)
    for note in data.notes:
        say(f"data: {note}")
    say(
        f"data: {len(data.train)} train, {len(data.validation)} validation, "
        f"{len(data.test)} test rows, {len(data.labels)} labels"
    )
    checkpoint = prepare_run(config, data, state, global_batch=global_batch(arguments), fresh=fresh)
    settle_bf16(config, arguments, state, resumes=checkpoint is not None)
    if checkpoint:
        say(f"resuming from {checkpoint}")

    set_seed(config.seed)
    base = load_base(config, data.labels)
    for note in base.notes:
        say(f"note: {note}")
    loss = make_loss(config.loss, config.task, data.labels, data.train.labels)
    with state.main_process_first():
        train = encode(data.train, data.labels, config, base.encoder)
        validation = encode(data.validation, data.labels, config, base.encoder, sort=True)

    def some() -> list[Any]:
        """The longest texts of the validation split, to prove a shortcut on."""
        return Tokens(validation, base.encoder.columns)[-8:]

    states = None
    if frozen_layers(config, base.model):
        states = stored_states(config, base, [train, validation], state, arguments.device)
    packing = None
    if packing_is_faster(arguments.device, bf16=arguments.bf16):
        reason = "activation checkpointing runs layers outside the forward pass"
        if not uses_activation_checkpointing(arguments):
            packing, reason = without_padding(base.model, base.encoder, some(), arguments.device)
        say("batches: without padding" if packing else f"batches: padded, since {reason}")
    if packing is None and shorten_last_layer(base.model, base.encoder, some(), arguments.device):
        say("last layer: for the first token alone")
    collator = Collator(base.encoder, config.task, states)
    train = train.add_column("row", range(len(train)))
    validation = validation.add_column("row", range(len(train), len(train) + len(validation)))
    if config.model.head_init == "probe" and checkpoint is None:
        with tqdm(total=len(train), unit="texts", desc="probe", disable=_bar_off(state)) as bar:
            accuracy = init_head(
                base.model,
                base.encoder,
                Tokens(train, base.encoder.columns),
                torch.tensor(train["labels"]),
                loss,
                device=arguments.device,
                states=states,
                progress=bar.update,
            )
        say(f"probe: the head starts at an accuracy of {accuracy:.4f} on the training rows")
    if config.method == "probe":
        return finish_probe(config, data, base, validation, loss, state, arguments, say)
    model = add_lora(base, config) if config.method == "lora" else freeze_below(base, config)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    say(f"model: {config.model.base}, method {config.method}, {trainable:,} trained weights")

    lengths = (
        Tokens(train, base.encoder.columns).lengths.tolist()
        if config.data.group_by_length
        else None
    )
    sampler = TrainingSampler(
        len(train), lengths, global_batch=global_batch(arguments), seed=config.seed
    )
    metrics = ClassificationMetrics()
    logits: list[Array] = []

    def compute(result: Any) -> dict[str, float]:
        logits[:] = [np.asarray(result.predictions, dtype=np.float32)]
        return classification_metrics(metrics, logits[0], result.label_ids, config.task)

    stopping = (
        [EarlyStoppingCallback(config.early_stopping_patience)]
        if config.early_stopping_patience is not None
        else []
    )
    pushes = config.trainer.get("push_to_hub") and state.is_main_process
    pushing = [PushCallback(arguments)] if pushes else []
    trainer = ClassifierTrainer(
        model=model,
        args=arguments,
        sampler=sampler,
        head=base.trained_modules,
        head_lr=head_learning_rate(config, arguments),
        train_dataset=train,
        eval_dataset=validation,
        data_collator=collator,
        train_collator=dataclasses.replace(collator, packing=packing),
        processing_class=base.encoder.tokenizer,
        compute_loss_func=loss,
        compute_metrics=compute,
        callbacks=[
            *stopping,
            *callbacks,
            *pushing,
            RunCallback(sampler, config.output_dir / "checkpoints"),
        ],
    )
    trainer.add_callback(RunRecord(trainer, config, data.fingerprints))
    if checkpoint and stopped_early(checkpoint, config.early_stopping_patience):
        trainer.load_best(checkpoint)
    else:
        with matmul_precision("high" if arguments.tf32 else "highest"):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    with matmul_precision("highest"):  # accelerate may have left TF32 on
        best = trainer.evaluate()
    record = {
        "trained_modules": base.trained_modules,
        "precision": config.model.quantize or compute_precision(arguments),
        "global_step": trainer.state.global_step,
        "log_history": trainer.state.log_history,
    }
    save_trained(trainer.save_model, config, data, state, record, best, logits[0])
    shown = told(best, config, say)
    for push in pushing:
        push.push_trained(config.output_dir / "adapter")
    return shown


def finish_probe(
    config: RunConfig,
    data: LabelledData,
    base: Base,
    validation: Any,
    loss: Loss,
    state: PartialState,
    arguments: TrainingArguments,
    say: Callable[..., object],
) -> dict[str, float]:
    """Measure and save a model of which only the head was fitted."""
    from serve.inference.backends.torch import TorchBackend

    labels = torch.tensor(validation["labels"])
    encodings = Tokens(validation, base.encoder.columns)
    backend = TorchBackend(base.model, device=str(arguments.device))
    logits_NC = batched_logits(backend, base.encoder, encodings, batch_size=64)
    metrics = ClassificationMetrics()
    best = classification_metrics(metrics, logits_NC, labels.numpy(), config.task)
    best["loss"] = float(loss({"logits": torch.from_numpy(logits_NC)}, labels))
    best = {f"eval_{key}": value for key, value in best.items()}

    def write(directory: str) -> None:
        if state.is_main_process:
            base.model.save_pretrained(directory)
            assert base.encoder.tokenizer is not None
            base.encoder.tokenizer.save_pretrained(directory)

    record = {"trained_modules": base.trained_modules, "precision": "fp32", "log_history": []}
    save_trained(write, config, data, state, record, best, logits_NC)
    return told(best, config, say)


def frozen_layers(config: RunConfig, model: nn.Module) -> int:
    """Layers that are run once per text, from the bottom."""
    if config.method == "probe" or config.model.trained_layers is None:
        return 0
    return max(0, len(layers_of(model)) - config.model.trained_layers)


def stored_states(
    config: RunConfig, base: Base, datasets: list[Any], state: PartialState, device: torch.device
) -> CachedHiddenStates:
    """What the frozen layers make of all rows, of one data set after the other.

    Raises ValueError for an architecture whose frozen layers cannot be left out.
    """
    assert config.model.trained_layers is not None
    prefix = FrozenLayers(base.model, num_trained=config.model.trained_layers)
    encodings = Tokens(concatenate_datasets(datasets), base.encoder.columns)
    with state.main_process_first():
        total = len(encodings)
        with tqdm(total=total, unit="texts", desc="frozen", disable=_bar_off(state)) as bar:
            states = store_states(
                prefix,
                base.encoder,
                encodings,
                config.output_dir / "cache",
                base=weights_sha256(config.model) or f"{config.model.base}@{config.model.revision}",
                device=device,
                progress=bar.update,
            )
    prefix.check_equivalence(base.encoder, encodings[-8:], device)
    return states


def save_trained(
    write: Callable[[str], object],
    config: RunConfig,
    data: LabelledData,
    state: PartialState,
    record: dict[str, Any],
    best: dict[str, float],
    logits_NC: Array,
) -> None:
    """Write the best weights and what `merge` must know to `output_dir/adapter`.

    write: writes the weights into a directory; called on every process, since sharded
    weights are gathered there.
    """
    staging = config.output_dir / ".adapter.staging"
    if state.is_main_process:
        shutil.rmtree(staging, ignore_errors=True)
    state.wait_for_everyone()
    write(str(staging))
    if state.is_main_process:
        set_custom_model_type(staging)
        # A pickle with this machine's paths, and peft's empty model card.
        for leftover in ("training_args.bin", "README.md"):
            (staging / leftover).unlink(missing_ok=True)
        np.save(staging / TRAINED_LOGITS, logits_NC)
        full = {
            "run": json.loads((config.output_dir / "run.json").read_text(encoding="utf-8")),
            "labels": data.labels,
            "validation": {key.removeprefix("eval_"): value for key, value in best.items()},
            **record,
        }
        write_atomic(staging / "fit.json", json.dumps(full, indent=2).encode())
        replace_directory(staging, config.output_dir / "adapter")
    state.wait_for_everyone()


def told(best: dict[str, float], config: RunConfig, say: Callable[..., object]) -> dict[str, float]:
    """The metrics that are printed, printed."""
    shown = {key: best[f"eval_{key}"] for key in ("accuracy", "f1_macro", "loss")}
    say("best on validation: " + "  ".join(f"{key} {value:.4f}" for key, value in shown.items()))
    say(f"wrote {config.output_dir / 'adapter'}")
    return shown


def _bar_off(state: PartialState) -> bool | None:
    return None if state.is_main_process else True  # None: only on a terminal


def _silent(*_: object) -> None:
    pass
