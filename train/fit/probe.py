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
from train.model.base import Base
from train.model.head import init_head
from train.model.loss import Loss


def init_from_probe(run: Run, base: Base, inputs: Inputs, loss: Loss) -> None:
    """Fit the head on the frozen features of the training rows, in place."""
    with run.progress("probe", texts=len(inputs.train)) as bar:
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


def evaluate_probe(run: Run, base: Base, inputs: Inputs, loss: Loss) -> Trained:
    """Evaluate a model of which only the head was fitted, without the Trainer."""
    labels = torch.tensor(inputs.validation["labels"])
    encodings = Tokens(inputs.validation, base.encoder.columns)
    backend = TorchBackend(base.model, device=str(run.device))
    logits_NC = batched_logits(backend, base.encoder, encodings, batch_size=64)
    metrics = ValidationMetrics(run.config.task, run.data.labels, run.metric)
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
