"""The linear probe: the head's initial weights, and under `method: probe` the whole training."""

from __future__ import annotations

from functools import partial

import torch

from serve.inference.backends.torch import TorchBackend
from serve.inference.passes import batched_logits
from train.fit.adapter import Trained
from train.fit.encode import Inputs
from train.fit.run import Run
from train.fit.tokens import Tokens
from train.fit.training_metrics import ValidationMetrics
from train.model.base import Base, last_linear
from train.model.head import features, init_head
from train.model.loss import Loss
from train.model.new_rows import fit_new_rows


def init_from_probe(run: Run, base: Base, inputs: Inputs, loss: Loss) -> None:
    """Fit the head on the frozen features of the training rows, in place.

    A head that goes on from a bundle's is fitted for the labels that the bundle does not know,
    unless the probe is the whole training.
    """
    if base.new_outputs is not None and run.config.method != "probe":
        _init_new_rows(run, base, inputs, loss, base.new_outputs)
        return
    with run.progress_bar("probe", texts=len(inputs.train)) as bar:
        accuracy = init_head(
            base.model,
            base.encoder,
            Tokens(inputs.train, base.encoder.columns),
            torch.tensor(inputs.train["labels"]),
            loss,
            device=run.device,
            states=inputs.states,
            progress=bar.update,
        )
    run.say(f"head initialized from a linear probe: training accuracy {accuracy:.4f}")


def _init_new_rows(run: Run, base: Base, inputs: Inputs, loss: Loss, new: tuple[int, ...]) -> None:
    labels = run.data.labels
    names = ", ".join(labels[output] for output in new)
    run.say(
        f"head: {len(labels) - len(new)} labels keep their weights of `{run.config.model.base}`"
        + (f"; new: {names}" if new else "")
    )
    if not new:
        return
    with run.progress_bar("probe", texts=len(inputs.train)) as bar:
        features_ND = features(
            base.model,
            base.encoder,
            Tokens(inputs.train, base.encoder.columns),
            device=run.device,
            states=inputs.states,
            progress=bar.update,
        )
    _, head = last_linear(base.model)
    fit_new_rows(head, new, features_ND, torch.tensor(inputs.train["labels"]), loss)


def evaluate_probe(run: Run, base: Base, inputs: Inputs, loss: Loss) -> Trained:
    """Evaluate a model of which only the head was fitted, without the Trainer."""
    labels = torch.tensor(inputs.validation["labels"])
    encodings = Tokens(inputs.validation, base.encoder.columns)
    backend = TorchBackend(base.model, device=str(run.device))
    logits_NC = batched_logits(backend, base.encoder, encodings, batch_size=64)
    metrics = ValidationMetrics(run.config.task)
    return Trained(
        write=partial(_write_model, run, base),
        logits_NC=logits_NC,
        metrics={
            **metrics.of(logits_NC, labels.numpy()),
            "loss": float(loss({"logits": torch.from_numpy(logits_NC)}, labels)),
        },
        record={"trained_modules": base.trained_modules, "precision": "fp32", "log_history": []},
    )


def _write_model(run: Run, base: Base, directory: str) -> None:
    if run.state.is_main_process:
        base.model.save_pretrained(directory)
        assert base.encoder.tokenizer is not None
        base.encoder.tokenizer.save_pretrained(directory)
