"""The parts of a training: batches, trained parameters, the Trainer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from transformers import EarlyStoppingCallback, TrainerCallback

from serve.inference.backends.masks import build_masks_without_waiting
from serve.inference.text import Encoding
from train.fit.arguments import global_batch, head_learning_rate, uses_activation_checkpointing
from train.fit.callbacks import RunCallback
from train.fit.encode import Collator, Inputs
from train.fit.run import Run
from train.fit.sampler import TrainingSampler
from train.fit.tokens import Tokens
from train.fit.trainer import ClassifierTrainer
from train.fit.training_metrics import ValidationMetrics
from train.model.adapters import add_lora, freeze_below
from train.model.base import Base
from train.model.last_layer import shorten_last_layer
from train.model.loss import Loss
from train.model.packing import PackedTraining, packing_is_faster, without_padding


def choose_batches(run: Run, base: Base, inputs: Inputs) -> PackedTraining | None:
    """Remove padding or else shorten the last layer, where the logits stay the same."""
    longest = longest_validation_encodings(base, inputs)
    packing = None
    if run.device.type == "cuda":
        build_masks_without_waiting()
    if packing_is_faster(run.device, bf16=run.arguments.bf16):
        reason = "activation checkpointing runs layers outside the forward pass"
        if not uses_activation_checkpointing(run.arguments):
            packing, reason = without_padding(base.model, base.encoder, longest, run.device)
        run.say("batches: without padding" if packing else f"batches: padded, since {reason}")
    if packing is None and shorten_last_layer(base.model, base.encoder, longest, run.device):
        run.say("last layer: computed for the first token only")
    return packing


def longest_validation_encodings(base: Base, inputs: Inputs) -> list[Encoding]:
    """Return the eight longest validation texts, on which logits are compared."""
    return Tokens(inputs.validation, base.encoder.columns)[-8:]


def select_parameters(run: Run, base: Base) -> Any:
    """Add LoRA adapters or freeze the lower layers; print how many parameters are trained."""
    config = run.config
    model = add_lora(base, config) if config.method == "lora" else freeze_below(base, config)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    run.say(
        f"model: {config.model.base}, method {config.method}, {trainable:,} trainable parameters"
    )
    return model


def make_trainer(
    run: Run,
    base: Base,
    model: Any,
    loss: Loss,
    inputs: Inputs,
    packing: PackedTraining | None,
    callbacks: Sequence[TrainerCallback],
) -> ClassifierTrainer:
    """Put the Trainer together, without the record of the run."""
    config = run.config
    sampler = make_sampler(run, base, inputs)
    collator = Collator(base.encoder, config.task, inputs.states)
    patience = config.early_stopping_patience
    trainer = ClassifierTrainer(
        model=model,
        args=run.arguments,
        sampler=sampler,
        head=base.trained_modules,
        head_lr=head_learning_rate(config, run.arguments),
        train_dataset=inputs.train,
        eval_dataset=inputs.validation,
        data_collator=collator,
        prefers_last="metric_for_best_model" not in config.trainer,
        train_collator=dataclasses.replace(collator, packing=packing),
        processing_class=base.encoder.tokenizer,
        compute_loss_func=loss,
        compute_metrics=ValidationMetrics(config.task, run.data.labels, run.metric),
        callbacks=[
            *([EarlyStoppingCallback(patience)] if patience is not None else []),
            *callbacks,
            RunCallback(sampler, config.output_dir / "checkpoints"),
        ],
    )
    return trainer


def make_sampler(run: Run, base: Base, inputs: Inputs) -> TrainingSampler:
    """Create the sampler of the training rows, by length if configured."""
    lengths = None
    if run.config.data.group_by_length:
        lengths = Tokens(inputs.train, base.encoder.columns).lengths.tolist()
    return TrainingSampler(
        len(inputs.train),
        lengths,
        global_batch=global_batch(run.arguments),
        seed=run.config.seed,
    )
