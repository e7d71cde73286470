"""Fine-tune: what `textloop fit` runs.

A rerun with the same configuration resumes from the latest complete checkpoint; a rerun with a
different one is refused, so that no result is ever a mixture of two.

The head is initialized from a linear probe on the frozen features. Under `method: probe` that
is the whole training, and the Trainer is not used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import Tensor
from transformers import TrainerCallback, set_seed
from transformers.trainer_utils import suppress_progress_bars

from serve.inference.placement import DoesNotFit
from serve.inference.precision import matmul_precision
from train.config.run import RunConfig
from train.data.splits import LabelledData
from train.fit.adapter import Trained, print_best_metrics, save_trained
from train.fit.arguments import compute_precision, training_arguments
from train.fit.assemble import choose_batches, make_trainer, select_parameters
from train.fit.callbacks import Console, set_console, stopped_early
from train.fit.choice.choose import choose, settle
from train.fit.choice.probe import (
    evaluate_probe,
    init_from_probe,
    keep_baseline,
    kept_baseline,
)
from train.fit.choice.record import Choice, forget_choice
from train.fit.encode import encode_splits
from train.fit.resume import is_fitted, prepare_run
from train.fit.run import Run, load_in_turn, notes_on_bundle, start_run
from train.fit.tracking import RunRecord
from train.fit.trainer import ClassifierTrainer
from train.model.adapters import check_targets
from train.model.base import Base, load_base
from train.model.loss import Loss, make_loss
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
    choice, features_ND = None, None
    if fresh and run.state.is_main_process:
        forget_choice(config.output_dir)
    with needs_one_device():
        if config.method == "auto":
            run, choice, features_ND = choose(run, loss)
            loss = replace(loss, label_smoothing=run.config.loss.label_smoothing)
    if run.config.method == "probe":
        return finish(run, train_probe(run, loss, features_ND), choice)
    set_seed(config.seed)
    base = prepare_base(run)
    inputs = encode_splits(run, base)
    packing = choose_batches(run, base, inputs)
    probe = None
    if run.config.model.head_init == "probe":
        directory = config.output_dir / "checkpoints"
        probe = kept_baseline(directory) if checkpoint else None
        if checkpoint is None:
            with needs_one_device():
                probe = init_from_probe(run, base, inputs, loss, features_ND)
            if run.state.is_main_process:
                keep_baseline(directory, probe)
    model = select_parameters(run, base)
    pushing = push_callbacks(run)
    trainer = make_trainer(run, base, model, loss, inputs, packing, [*callbacks, *pushing])
    set_console(trainer, Console(config.task, run.metric, config.early_stopping_patience))
    trainer.add_callback(RunRecord(trainer, run.config, run.data.fingerprints))
    train(run, trainer, checkpoint)
    trained = evaluate_best(run, base, trainer)
    if probe is not None:
        labels = inputs.validation["labels"]
        run.say(probe.line(trained, labels, config.task))
        if choice is not None and choice.awaits_validation:
            run, choice = settle(run, choice, trained.logits_NC, probe.validation_NC, labels)
            if choice.method == "probe":
                trained = train_probe(run, loss, features_ND)
    best = finish(run, trained, choice)
    for push in pushing:
        push.push_trained(config.output_dir / "adapter")
    return best


def prepare_base(run: Run) -> Base:
    """Load the base, check the adapters' layers, and print what the user should know."""
    base = load_base(run.config, run.data.labels)
    if run.config.method == "lora":
        check_targets(base, run.config)
    for note in [*base.notes, *run.notes, *notes_on_bundle(run.config, run.data)]:
        run.say(f"note: {note}")
    return base


def train_probe(run: Run, loss: Loss, features_ND: Tensor | None) -> Trained:
    """Fit the head alone. features_ND: its input for the training rows, if it is known."""
    set_seed(run.config.seed)
    base = prepare_base(run)
    inputs = encode_splits(run, base)
    choose_batches(run, base, inputs)
    with needs_one_device():
        probe = init_from_probe(run, base, inputs, loss, features_ND)
    return evaluate_probe(run, base, inputs, loss, probe)


def finish(run: Run, trained: Trained, choice: Choice | None) -> dict[str, float]:
    """Write the adapter with the run's choice, if it made one; return the best metrics."""
    if choice is not None:
        trained = replace(trained, record=trained.record | {"choice": asdict(choice)})
    save_trained(run, trained)
    return print_best_metrics(run, trained)


@contextmanager
def needs_one_device() -> Iterator[None]:
    """Say what to do where the probe cannot be fitted because the model is sharded."""
    try:
        yield
    except DoesNotFit as error:
        raise ValueError(
            f"{error}; the probe needs the whole model on one device: to shard it, set "
            "method: lora and model.head_init: random"
        ) from None


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


def push_callbacks(run: Run) -> list[PushCallback]:
    """Push checkpoints to the Hub from the main process, if configured."""
    pushes = run.config.trainer.get("push_to_hub") and run.state.is_main_process
    return [PushCallback(run.arguments)] if pushes else []


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
    if trainer.checkpoint_reason:
        run.say(f"checkpoint: {trainer.checkpoint_reason}")
    return Trained(
        write=trainer.save_model,
        logits_NC=trainer.compute_metrics.logits_NC,
        metrics={key.removeprefix("eval_"): value for key, value in metrics.items()},
        record={
            "trained_modules": base.trained_modules,
            "precision": run.config.quantize or compute_precision(run.arguments),
            "global_step": trainer.state.global_step,
            "checkpoint": Path(str(trainer.state.best_model_checkpoint)).name,
            "log_history": trainer.state.log_history,
        },
    )
