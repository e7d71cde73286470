"""Choose between a linear probe and LoRA: `method: auto`.

The probe is LoRA with no epochs, since the head starts from it. The rows decide: all of train by
models of the other folds where training on folds is affordable, else those of validation, after
the training.
"""

from __future__ import annotations

import dataclasses
import os
from functools import partial
from typing import Any

import numpy as np
from accelerate.utils import broadcast_object_list
from numpy.typing import NDArray
from torch import Tensor

from serve.inference.scores import Array
from train.config.auto import AutoSection, lora_recipe
from train.fit.arguments import training_arguments
from train.fit.choice.judge import POOLING_SHOWN, Candidate, best, is_shown, judge
from train.fit.choice.lora import FoldTraining, OverBudget
from train.fit.choice.probes import CrossFitted, best_probe, cross_fit
from train.fit.choice.race import race
from train.fit.choice.record import Choice, read_choice, resolved, write_choice
from train.fit.choice.rows import Rows, look_at_rows
from train.fit.resume import run_record
from train.fit.run import Run
from train.model.head import L2
from train.model.loss import Loss
from train.statistics.calibrated_loss import advantage
from train.statistics.metrics import given

CROSS_FIT_ROWS = 3000
"""Training rows up to which models are trained on folds. With more the validation rows tell enough
of the trained model."""

FEW_ROWS = 500
CLEARLY_SHOWN = 3.0
"""Rows up to which LoRA is tried with the mean alone if its probe is better by so many standard
errors. With more rows LoRA may turn the order: on 1,000 of SST-2 the first token is better by a
point, though its probe is six points worse; on 300 it is not."""

MIN_JUDGED = 20
"""Rows below which no choice is made."""


def choose(run: Run, loss: Loss) -> tuple[Run, Choice, Tensor | None]:
    """Choose for a run of method auto, and print the choice with its reason.

    Returns the run with the chosen configuration, the choice, and the features of the training
    rows under it; None if the same run chose before, which is kept.
    """
    config = run.config
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("true", "1"):
        raise ValueError("method: auto needs the whole model on one device; under FSDP set method")
    record = run_record(config, run.data, run.arguments)
    (choice,) = broadcast_object_list([read_choice(config.output_dir, record)])
    features_ND = None
    if choice is None and config.model.starts_from_bundle:
        choice = _going_on(run)
    elif choice is None and len(run.data.train) > CROSS_FIT_ROWS:
        choice = _many_rows(run)
    if choice is None:
        rows = look_at_rows(run)
        (choice,) = broadcast_object_list([_chosen(run, rows, loss)])
        features_ND = rows.features[choice.pooling]
        if run.state.is_main_process:
            write_choice(config.output_dir, record, choice)
    run.say(f"auto: {choice.reason}")
    run = _with(run, choice)
    config = run.config.model_copy(update={"auto": AutoSection()})  # has been used
    return dataclasses.replace(run, config=config), choice, features_ND


def settle(
    run: Run, choice: Choice, trained_NC: Array, probe_NC: Array, labels: Any
) -> tuple[Run, Choice]:
    """Compare the trained model with the probe on the validation rows, and say which is taken.

    The probe is taken if it is shown to be better. trained_NC, probe_NC: logits of the rows.
    """
    given_NC = given(labels, len(run.data.labels))
    lora, probe = (
        judge(method, choice.pooling, logits_NC, given_NC, run.config.task)
        for method, logits_NC in (("lora", trained_NC), ("probe", probe_NC))
    )
    chosen, other = (probe, lora) if is_shown(probe, lora) else (lora, probe)
    choice = dataclasses.replace(
        choice,
        method=chosen.method,
        trainer=choice.trainer if chosen is lora else {},
        loss=choice.loss if chosen is lora else {},
        reason=_reason(chosen, other, f"on {len(given_NC)} validation rows"),
        rows=len(given_NC),
        candidates=[lora.figures, probe.figures],
        awaits_validation=False,
    )
    run.say(f"auto: {choice.reason}")
    return _with(run, choice), choice


def _with(run: Run, choice: Choice) -> Run:
    config = resolved(run.config, choice)
    return dataclasses.replace(run, config=config, arguments=training_arguments(config))


def _going_on(run: Run) -> Choice:
    return Choice(
        method="lora",
        pooling=run.config.model.pooling,
        probe_l2=run.config.model.probe_l2 or L2,
        **_recipe_of(run),
        reason="LoRA, from the weights of a bundle: it may have learned from these rows, which "
        "therefore cannot judge a probe on its features",
    )


def _many_rows(run: Run) -> Choice:
    """The same LoRA as of `method: lora`, to be compared with its probe."""
    model = run.config.model
    why = f"there are {len(run.data.train)} training rows"
    return _awaiting(run, model.pooling, model.probe_l2 or L2, why)


def _chosen(run: Run, rows: Rows, loss: Loss) -> Choice:
    config, total = run.config, len(rows.targets)
    count = int(rows.judged_N.sum())
    if count < MIN_JUDGED:
        return Choice(
            method="probe",
            pooling=next(iter(rows.features)),
            probe_l2=config.model.probe_l2 or L2,
            reason=f"the linear probe: {count} training rows can be judged, too few to choose by",
            rows=count,
        )
    probes = {
        pooling: _probe(run, rows, features_ND, loss)
        for pooling, features_ND in rows.features.items()
    }
    judged = partial(_judged, run, rows, loss)
    found = [
        judged("probe", pooling, probe.logits_NC, rows.judged_N)
        for pooling, probe in probes.items()
    ]
    poolings = list(probes)
    if len(found) == 2 and not is_shown(found[1], found[0], POOLING_SHOWN):
        poolings.pop()
    elif len(found) == 2 and total <= FEW_ROWS and is_shown(found[1], found[0], CLEARLY_SHOWN):
        del poolings[0]
    runs = {pooling: _with_lora(run, pooling, probes[pooling].l2) for pooling in poolings}
    try:
        with FoldTraining(runs, rows, loss, minutes=config.auto.budget_minutes) as training:
            found = race(
                {pooling: probe.logits_NC for pooling, probe in probes.items()},
                poolings,
                training.train,
                judged,
                rows.fold_N,
                rows.judged_N,
                is_over=training.is_over,
            )
    except OverBudget as error:
        why = (
            f"training on one of {config.auto.folds_of(total)} parts of the rows would take "
            f"{error.minutes:.1f} min, over auto.budget_minutes = {config.auto.budget_minutes:g}"
        )
        likely = found[1] if "mean" in poolings[1:] and is_shown(found[1], found[0]) else found[0]
        return _awaiting(run, likely.pooling, probes[likely.pooling].l2, why)
    chosen = best(found)
    rival = min((each for each in found if each is not chosen), key=lambda each: each.log_loss)
    count = len(chosen.losses_N)
    if count < MIN_JUDGED:
        why = f"auto.budget_minutes = {config.auto.budget_minutes:g} were over with {count} judged"
        return _awaiting(run, chosen.pooling, probes[chosen.pooling].l2, why)
    return Choice(
        method=chosen.method,
        pooling=chosen.pooling,
        probe_l2=probes[chosen.pooling].l2,
        **(_recipe_of(run) if chosen.method == "lora" else {}),
        reason=_reason(chosen, rival, f"cross-fitted on {count} training rows"),
        rows=count,
        candidates=[each.figures for each in found],
    )


def _awaiting(run: Run, pooling: str, probe_l2: float, why: str) -> Choice:
    """LoRA, to be compared with the probe on the validation rows once it is trained."""
    return Choice(
        method="lora",
        pooling=pooling,
        probe_l2=probe_l2,
        **_recipe_of(run),
        reason=f"LoRA, to be compared with the linear probe on the validation rows, since {why}",
        awaits_validation=True,
    )


def _reason(chosen: Candidate, rival: Candidate, where: str) -> str:
    return (
        f"{chosen.name}: log-loss {chosen.log_loss:.4f}, accuracy {chosen.accuracy:.4f}, against "
        f"{rival.log_loss:.4f} and {rival.accuracy:.4f} for {rival.name}, {where} "
        f"({advantage(chosen.losses_N, rival.losses_N):+.1f} standard errors)"
    )


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


def _with_lora(run: Run, pooling: str, l2: float) -> Run:
    """The run of a training of LoRA with this pooling from its probe."""
    return _with(run, Choice(method="lora", pooling=pooling, probe_l2=l2, **_recipe_of(run)))


def _judged(
    run: Run,
    rows: Rows,
    loss: Loss,
    method: str,
    pooling: str,
    logits_NC: Array,
    rows_N: NDArray[np.bool_],
) -> Candidate:
    weights_C = None if loss.weights_C is None else loss.weights_C.double().numpy()
    given_NC = rows.given_NC[rows_N]
    return judge(method, pooling, logits_NC[rows_N], given_NC, run.config.task, weights_C)


def _recipe_of(run: Run) -> dict[str, Any]:
    """What a choice of LoRA sets for these rows and labels, where the configuration is silent."""
    config = run.config
    recipe = lora_recipe(len(run.data.train), len(run.data.labels), config.task)
    trainer: dict[str, Any] = {}
    if not {"max_steps", "num_train_epochs"} & set(config.trainer):
        trainer["num_train_epochs"] = recipe.epochs
    if "learning_rate" not in config.trainer:
        trainer["learning_rate"] = recipe.learning_rate
    is_open = "label_smoothing" not in config.loss.model_fields_set
    return {
        "trainer": trainer,
        "loss": {"label_smoothing": recipe.label_smoothing} if is_open else {},
    }
