"""Choose between a linear probe and LoRA: `method: auto`.

The probe is LoRA with no epochs, since the head starts from it. The rows decide: all of train by
models of the other folds where training on folds is affordable, else those of validation, after
the training.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from numpy.typing import NDArray
from torch import Tensor

from train.config.names import BUNDLE
from train.fit.arguments import training_arguments
from train.fit.choice.folds import fold_numbers, judged_rows
from train.fit.choice.judge import Candidate, advantage, best, is_shown, judge
from train.fit.choice.lora import OverBudget, cross_fit_lora
from train.fit.choice.probe import given
from train.fit.choice.probes import CrossFitted, best_probe, cross_fit
from train.fit.choice.record import Choice, read_choice, resolved, write_choice
from train.fit.encode import Inputs, encode_splits
from train.fit.resume import run_record
from train.fit.run import Run
from train.fit.tokens import Tokens
from train.model.base import Base, last_linear, load_base
from train.model.head import L2, features, features_by_pooling
from train.model.loss import Loss
from train.statistics.metrics import Choice as Flags

PROBE_ROWS = 4000
"""Rows that choose the probe's penalty and pooling, drawn at random if there are more."""

CROSS_FIT_ROWS = 3000
"""Training rows up to which LoRA is trained on folds. With more, a tenth of them, the validation
rows, tell as much."""

MIN_JUDGED = 20
"""Rows below which no choice is made."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The training rows as the choice sees them."""

    targets: Tensor
    given_NC: Flags
    fold_N: NDArray[np.int64]
    judged_N: Flags
    features: dict[str, Tensor]
    """By pooling, (N, D)."""

    bias: bool
    """Whether the head has one."""


def choose(run: Run, loss: Loss) -> tuple[Run, Choice, Tensor | None]:
    """Choose for a run of method auto, and print the choice with its reason.

    Returns the run with the chosen configuration, the choice, and the features of the training
    rows under it; None if the same run chose before, which is kept.
    """
    config = run.config
    record = run_record(config, run.data, run.arguments)
    (choice,) = broadcast_object_list([read_choice(config.output_dir, record)])
    features_ND = None
    if choice is None and config.model.base.startswith(BUNDLE):
        choice = _going_on(run)
    if choice is None:
        rows = _look(run)
        (choice,) = broadcast_object_list([_chosen(run, rows, loss)])
        features_ND = rows.features[choice.pooling]
        if run.state.is_main_process:
            write_choice(config.output_dir, record, choice)
    run.say(f"auto: {choice.reason}")
    return _with(run, choice), choice, features_ND


def _with(run: Run, choice: Choice) -> Run:
    config = resolved(run.config, choice)
    return dataclasses.replace(run, config=config, arguments=training_arguments(config))


def _going_on(run: Run) -> Choice:
    return Choice(
        method="lora",
        pooling=run.config.model.pooling,
        probe_l2=run.config.model.probe_l2 or L2,
        trainer=recipe(len(run.data.train), run.config.trainer),
        reason="LoRA, from the weights of a bundle: it may have learned from these rows, which "
        "therefore cannot judge a probe on its features",
        judged_on="",
        rows=0,
    )


def _chosen(run: Run, rows: Rows, loss: Loss) -> Choice:
    probes = {
        pooling: _probe(run, rows, features_ND, loss)
        for pooling, features_ND in rows.features.items()
    }
    judged = partial(_judged, run, rows, loss)
    found = [judged("probe", pooling, probe.logits_NC) for pooling, probe in probes.items()]
    start = best(found)
    if (count := int(rows.judged_N.sum())) < MIN_JUDGED:
        return _choice(
            run,
            probes,
            start,
            f"the linear probe, since {count} training rows that can be judged show nothing",
            [],
            0,
        )
    if len(rows.targets) > CROSS_FIT_ROWS:
        return _awaiting(run, probes, start, found, "there are enough of them")
    try:
        for pooling in rows.features:
            if pooling == "mean" and len(found) > 2 and not is_shown(found[1], found[0]):
                continue
            found.append(judged("lora", pooling, _lora(run, rows, probes, pooling, loss)))
    except OverBudget as error:
        config = run.config.auto
        why = (
            f"training on {config.folds} parts of the rows would take {error.minutes:.0f} min, "
            f"over auto.budget_minutes = {config.budget_minutes:g}"
        )
        return _awaiting(run, probes, start, found, why)
    chosen = best(found)
    rival = min((each for each in found if each is not chosen), key=lambda each: each.log_loss)
    reason = (
        f"{chosen.name}: log-loss {chosen.log_loss:.4f}, accuracy {chosen.accuracy:.4f}, against "
        f"{rival.log_loss:.4f} and {rival.accuracy:.4f} for {rival.name}, cross-fitted on {count} "
        f"rows ({advantage(chosen.losses_N, rival.losses_N):+.1f} standard errors)"
    )
    return _choice(run, probes, chosen, reason, found, count)


def _look(run: Run) -> Rows:
    """Compute the features of the training rows, and divide the rows into folds."""
    config, data = run.config, run.data
    base = load_base(config, data.labels)
    inputs = encode_splits(run, base)
    targets = torch.tensor(inputs.train["labels"])
    given_NC = given(targets, len(data.labels))
    fold_N = fold_numbers(data.train.texts, given_NC, folds=config.auto.folds, seed=config.seed)
    poolings = ["native"] if config.auto.stock else ["native", "mean"]
    if config.model.pooling == "mean":
        poolings = ["mean"]
    features = _features(run, base, inputs, poolings)
    return Rows(
        targets=targets,
        given_NC=given_NC,
        fold_N=fold_N,
        judged_N=judged_rows(given_NC, fold_N, config.task),
        features=features,
        bias=last_linear(base.model)[1].bias is not None,
    )


def _features(run: Run, base: Base, inputs: Inputs, poolings: list[str]) -> dict[str, Tensor]:
    """Compute the features of the training rows under each pooling that the base has."""
    settings: dict[str, Any] = {"device": run.device, "states": inputs.states}
    encodings = Tokens(inputs.train, base.encoder.columns)
    has_own = hasattr(base.model.config, "classifier_pooling")  # ModernBERT
    passes = len(poolings) if has_own else 1
    with run.progress("features", texts=passes * len(encodings)) as bar:
        settings["progress"] = bar.update
        if len(poolings) == 2 and not has_own:
            return features_by_pooling(base.model, base.encoder, encodings, **settings)
        found = {poolings[0]: features(base.model, base.encoder, encodings, **settings)}
        if len(poolings) == 2:
            model = run.config.model.model_copy(update={"pooling": "mean"})
            config = run.config.model_copy(update={"model": model})
            other = load_base(config, run.data.labels)
            encode_splits(run, other)  # where layers are frozen, it makes them skippable
            found["mean"] = features(other.model, base.encoder, encodings, **settings)
        return found


def _probe(run: Run, rows: Rows, features_ND: Tensor, loss: Loss) -> CrossFitted:
    def fit(l2: float) -> CrossFitted:
        return cross_fit(
            features_ND,
            rows.targets,
            loss,
            len(run.data.labels),
            rows.fold_N,
            bias=rows.bias,
            l2=l2,
        )

    if run.config.model.probe_l2 is not None:
        return fit(run.config.model.probe_l2)
    return best_probe(fit, rows.given_NC, rows.judged_N, run.config.task)


def _lora(
    run: Run, rows: Rows, probes: dict[str, CrossFitted], pooling: str, loss: Loss
) -> NDArray[np.float32]:
    """Cross-fit LoRA with this pooling from its probe."""
    choice = Choice(
        method="lora",
        pooling=pooling,
        probe_l2=probes[pooling].l2,
        trainer=recipe(len(rows.targets), run.config.trainer),
        reason="",
        judged_on="",
        rows=0,
    )
    return cross_fit_lora(
        _with(run, choice),
        rows.features[pooling],
        rows.targets,
        loss,
        rows.fold_N,
        f"training on {run.config.auto.folds} parts of the rows, {pooling} pooling",
    )


def _judged(
    run: Run, rows: Rows, loss: Loss, method: str, pooling: str, logits_NC: NDArray[np.float32]
) -> Candidate:
    keep_N = rows.judged_N
    weights_C = None if loss.weights_C is None else loss.weights_C.double().numpy()
    return judge(
        method, pooling, logits_NC[keep_N], rows.given_NC[keep_N], run.config.task, weights_C
    )


def _awaiting(
    run: Run, probes: dict[str, CrossFitted], start: Candidate, found: list[Candidate], why: str
) -> Choice:
    """LoRA, to be compared with the probe on the validation rows once it is trained."""
    native = next(each for each in found if each.pooling == "native" or len(found) == 1)
    reason = f"LoRA first, to be compared with the probe on the validation rows: {why}"
    choice = _choice(
        run, probes, dataclasses.replace(native, method="lora"), reason, found, len(start.losses_N)
    )
    return dataclasses.replace(choice, awaits_validation=True, judged_on="validation rows")


def _choice(
    run: Run,
    probes: dict[str, CrossFitted],
    chosen: Candidate,
    reason: str,
    found: list[Candidate],
    rows: int,
) -> Choice:
    return Choice(
        method=chosen.method,
        pooling=chosen.pooling,
        probe_l2=probes[chosen.pooling].l2,
        trainer=recipe(len(run.data.train), run.config.trainer) if chosen.method == "lora" else {},
        reason=reason,
        judged_on="cross-fitted training rows",
        rows=rows,
        candidates=[each.figures for each in found],
    )


def recipe(rows: int, explicit: dict[str, Any]) -> dict[str, Any]:
    """Return the Trainer's settings for so many training rows, without those that are set."""
    if "max_steps" in explicit:
        return {}
    settings = {"num_train_epochs": max(4, min(40, round(4 + 3600 / rows)))}
    return {key: value for key, value in settings.items() if key not in explicit}
