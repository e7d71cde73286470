"""Fine-tune: what `textloop fit` runs.

A rerun with the same configuration resumes from the latest complete checkpoint; a rerun with a
different one is refused, so that no result is ever a mixture of two.

The head is initialized from a linear probe on the frozen features. Under `method: probe` that
is the whole training, and the Trainer is not used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import EarlyStoppingCallback, TrainerCallback, set_seed
from transformers.trainer_utils import suppress_progress_bars

from serve.inference.masks import build_masks_without_waiting
from serve.inference.placement import DoesNotFit
from serve.inference.precision import matmul_precision
from serve.inference.text import Encoding
from train.config.run import RunConfig
from train.data.splits import LabelledData
from train.fit.adapter import Trained, print_best_metrics, save_trained
from train.fit.arguments import (
    compute_precision,
    global_batch,
    head_learning_rate,
    training_arguments,
    uses_activation_checkpointing,
)
from train.fit.callbacks import RunCallback, stopped_early
from train.fit.encode import Collator, Inputs, encode_splits
from train.fit.probe import evaluate_probe, init_from_probe
from train.fit.resume import is_fitted, prepare_run
from train.fit.run import Run, load_in_turn, notes_on_bundle, start_run
from train.fit.sampler import TrainingSampler
from train.fit.tokens import Tokens
from train.fit.tracking import RunRecord
from train.fit.trainer import ClassifierTrainer
from train.fit.training_metrics import ValidationMetrics
from train.model.adapters import add_lora, check_targets, freeze_below
from train.model.base import Base, load_base
from train.model.last_layer import shorten_last_layer
from train.model.loss import Loss, make_loss
from train.model.packing import PackedTraining, packing_is_faster, without_padding
from train.publish.push import PushCallback


@matmul_precision("highest")
def fit(
    config: RunConfig,
    *,
    fresh: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    data: LabelledData | None = None,
) -> dict[str, float]:
    """Train as configured, write `output_dir/adapter`, and return the best validation metrics.

    fresh: delete the run's checkpoints instead of resuming. callbacks: for the Trainer, in
    addition to Textloop's own. data: of this configuration, if it is loaded already.
    Raises ValueError for a configuration, data or checkpoints that do not fit together.
    """
    run = start_run(config, data)
    checkpoint = prepare_run(run, fresh=fresh)
    set_seed(config.seed)
    loss = make_loss(config.loss, config.task, run.data.labels, run.data.train.labels)
    base = load_base(config, run.data.labels)
    if config.method == "lora":
        check_targets(base, config)
    for note in [*base.notes, *run.notes, *notes_on_bundle(config, run.data)]:
        run.say(f"note: {note}")
    inputs = encode_splits(run, base)
    packing = choose_batches(run, base, inputs)
    fits_probe = config.method == "probe" or config.model.head_init == "probe"
    if fits_probe and checkpoint is None:
        try:
            init_from_probe(run, base, inputs, loss)
        except DoesNotFit as error:
            raise ValueError(
                f"{error}; the probe needs the whole model on one device: to shard it, set "
                "model.head_init: random"
            ) from None
    if config.method == "probe":
        trained = evaluate_probe(run, base, inputs, loss)
        save_trained(run, trained)
        return print_best_metrics(run, trained)
    model = select_parameters(run, base)
    pushing = push_callbacks(run)
    trainer = make_trainer(run, base, model, loss, inputs, packing, [*callbacks, *pushing])
    train(run, trainer, checkpoint)
    trained = evaluate_best(run, base, trainer)
    save_trained(run, trained)
    best = print_best_metrics(run, trained)
    for push in pushing:
        push.push_trained(config.output_dir / "adapter")
    return best


def fit_unless_done(config: RunConfig, *, fresh: bool = False) -> None:
    """Fit, unless `output_dir/adapter` is the result of this run already.

    fresh: fit in any case, without the run's checkpoints.
    """
    arguments = training_arguments(config)
    state = PartialState()
    data = load_in_turn(config, state)
    (fitted,) = broadcast_object_list([not fresh and is_fitted(config, data, arguments)])
    if not fitted:
        fit(config, data=data, fresh=fresh)
    elif state.is_main_process:
        print(f"fit: `{config.output_dir / 'adapter'}` is up to date")


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


def push_callbacks(run: Run) -> list[PushCallback]:
    """Push checkpoints to the Hub from the main process, if configured."""
    pushes = run.config.trainer.get("push_to_hub") and run.state.is_main_process
    return [PushCallback(run.arguments)] if pushes else []


def make_trainer(
    run: Run,
    base: Base,
    model: Any,
    loss: Loss,
    inputs: Inputs,
    packing: PackedTraining | None,
    callbacks: Sequence[TrainerCallback],
) -> ClassifierTrainer:
    """Put the Trainer together."""
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
        train_collator=dataclasses.replace(collator, packing=packing),
        processing_class=base.encoder.tokenizer,
        compute_loss_func=loss,
        compute_metrics=ValidationMetrics(config.task),
        callbacks=[
            *([EarlyStoppingCallback(patience)] if patience is not None else []),
            *callbacks,
            RunCallback(sampler, config.output_dir / "checkpoints"),
        ],
    )
    trainer.add_callback(RunRecord(trainer, config, run.data.fingerprints))
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


def train(run: Run, trainer: ClassifierTrainer, checkpoint: Path | None) -> None:
    """Train to the end and load the best checkpoint."""
    if checkpoint and stopped_early(checkpoint, run.config.early_stopping_patience):
        trainer.load_best(checkpoint)
        return
    pushes = run.config.trainer.get("push_to_hub")
    with (
        matmul_precision("high" if run.arguments.tf32 else "highest"),
        suppress_progress_bars() if pushes else nullcontext(),  # of the pushes' uploads
    ):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)


def evaluate_best(run: Run, base: Base, trainer: ClassifierTrainer) -> Trained:
    """Evaluate the best checkpoint on the validation split."""
    with matmul_precision("highest"):  # accelerate may have left TF32 on
        metrics = trainer.evaluate()
    return Trained(
        write=trainer.save_model,
        logits_NC=trainer.compute_metrics.logits_NC,
        metrics={key.removeprefix("eval_"): value for key, value in metrics.items()},
        record={
            "trained_modules": base.trained_modules,
            "precision": run.config.quantize or compute_precision(run.arguments),
            "global_step": trainer.state.global_step,
            "log_history": trainer.state.log_history,
        },
    )
