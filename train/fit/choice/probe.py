"""The linear probe: the head's initial weights, and under `method: probe` the whole training.

Every method is compared with it: `fit` prints its accuracy beside that of the trained model.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from serve.files import open_atomic
from serve.inference.scores import Array, activate, chosen, default_activation
from train.fit.adapter import Trained
from train.fit.choice.folds import fold_numbers, judged_rows
from train.fit.choice.probes import cross_fit
from train.fit.encode import Inputs
from train.fit.run import Run
from train.fit.tokens import Tokens
from train.fit.training_metrics import ValidationMetrics
from train.model.base import Base, last_linear
from train.model.head import L2, features, fit_head
from train.model.loss import Loss
from train.model.new_rows import fit_new_rows
from train.statistics.metrics import given, shown_name

CROSS_FIT_ROWS = 5000
"""Training rows up to which the probe's accuracy is cross-fitted; with more, the validation rows
alone tell it."""

FILE = "probe.npz"
"""File beside the checkpoints with the probe's results, for a run that is resumed."""


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """What a linear probe reaches."""

    cross_fitted: float
    """Accuracy on the training rows, each by a probe of other rows; NaN if there are too many."""

    rows: int
    """Number of these rows."""

    validation_NC: Array
    """Logits of the validation rows, sorted by length."""

    def line(self, trained: Trained, labels: Any, task: str) -> str:
        """Compare it with the trained model on the validation rows."""
        given_NC = given(labels, self.validation_NC.shape[1])
        ours, probes = (
            float(
                (chosen(activate(each, default_activation(task)), task) == given_NC).all(1).mean()
            )
            for each in (trained.logits_NC, self.validation_NC)
        )
        cross = f"probe {self.cross_fitted:.4f}, cross-fitted on {self.rows} rows; "
        return (
            f"{shown_name('accuracy', task)}: {cross if self.rows else ''}on the {len(given_NC)} "
            f"validation rows probe {probes:.4f}, trained model {ours:.4f}"
        )


def init_from_probe(
    run: Run, base: Base, inputs: Inputs, loss: Loss, features_ND: Tensor | None = None
) -> Baseline:
    """Fit the head on the frozen features of the training rows, in place.

    features_ND: those features, if they are known. A head that goes on from a bundle's is only
    fitted for the labels that the bundle does not know, unless the probe is the whole training.
    """
    encodings = Tokens(inputs.train, base.encoder.columns)
    if features_ND is None:
        with run.progress("features", texts=len(inputs.train)) as bar:
            features_ND = features(
                base.model,
                base.encoder,
                encodings,
                device=run.device,
                states=inputs.states,
                progress=bar.update,
            )
    targets = torch.tensor(inputs.train["labels"])
    l2 = run.config.model.probe_l2 or L2
    _, head = last_linear(base.model)
    kept = {name: value.clone() for name, value in head.state_dict().items()}
    fit_head(base.model, features_ND, targets, loss, l2=l2)
    accuracy, rows = float("nan"), 0
    if len(targets) <= CROSS_FIT_ROWS:
        bias = last_linear(base.model)[1].bias is not None
        accuracy, rows = _cross_fitted(run, features_ND, targets, loss, l2=l2, bias=bias)
    goes_on = base.new_outputs is not None and run.config.method != "probe"
    if rows and not goes_on:
        run.say(
            f"head initialized from a linear probe: accuracy {accuracy:.4f}, cross-fitted on "
            f"{rows} rows"
        )
    validation = Tokens(inputs.validation, base.encoder.columns)
    with torch.no_grad(), run.progress("validation", texts=len(validation)) as bar:
        unseen_ND = features(
            base.model, base.encoder, validation, device=run.device, progress=bar.update
        )
        logits_NC = head(unseen_ND.to(run.device)).float().cpu().numpy()
    if base.new_outputs is not None and goes_on:
        head.load_state_dict(kept)
        _fit_new_rows(run, base.new_outputs, head, features_ND, targets, loss)
    return Baseline(cross_fitted=accuracy, rows=rows, validation_NC=logits_NC)


def _fit_new_rows(
    run: Run, new: tuple[int, ...], head: Any, features_ND: Tensor, targets: Tensor, loss: Loss
) -> None:
    labels = run.data.labels
    names = ", ".join(labels[output] for output in new)
    run.say(
        f"head: {len(labels) - len(new)} labels keep their weights of `{run.config.model.base}`"
        + (f"; new: {names}" if new else "")
    )
    if new:
        fit_new_rows(head, new, features_ND, targets, loss)


def _cross_fitted(
    run: Run, features_ND: Tensor, targets: Tensor, loss: Loss, **options: Any
) -> tuple[float, int]:
    """Return the accuracy of cross-fitted probes, and the number of rows that can be judged."""
    config, num_labels = run.config, len(run.data.labels)
    given_NC = given(targets, num_labels)
    fold_N = fold_numbers(
        run.data.train.texts, given_NC, folds=config.auto.folds_of(len(targets)), seed=config.seed
    )
    if len(np.unique(fold_N)) < 2:
        return float("nan"), 0
    judged_N = judged_rows(given_NC, fold_N, config.task)
    logits_NC = cross_fit(features_ND, targets, loss, num_labels, fold_N, **options).logits_NC
    predicted_NC = chosen(activate(logits_NC, default_activation(config.task)), config.task)
    correct_N = (predicted_NC == given_NC).all(axis=1)[judged_N]
    return float(correct_N.mean()) if len(correct_N) else float("nan"), len(correct_N)


def keep_baseline(directory: Path, baseline: Baseline) -> None:
    """Write the probe's results for a run that is resumed."""
    directory.mkdir(parents=True, exist_ok=True)
    with open_atomic(directory / FILE) as file:
        np.savez(
            file,
            cross_fitted=baseline.cross_fitted,
            rows=baseline.rows,
            validation_NC=baseline.validation_NC,
        )


def kept_baseline(directory: Path) -> Baseline | None:
    """Read what `keep_baseline` wrote; None for a run of an earlier version."""
    file = directory / FILE
    if not file.is_file():
        return None
    with np.load(file) as kept:
        return Baseline(
            cross_fitted=float(kept["cross_fitted"]),
            rows=int(kept["rows"]),
            validation_NC=kept["validation_NC"],
        )


def evaluate_probe(run: Run, base: Base, inputs: Inputs, loss: Loss, probe: Baseline) -> Trained:
    """Evaluate a model of which only the head was fitted, without the Trainer."""
    labels = torch.tensor(inputs.validation["labels"])
    logits_NC = probe.validation_NC
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
