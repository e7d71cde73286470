"""What `merge` fits on the validation split: a temperature, label thresholds, abstention.

The temperature is folded into the last layer, weight and bias divided by it, so that the
bundle's logits are the calibrated ones wherever it runs: the stock classes, the pipeline, the
int8 export and the server need not know. It leaves a text's best label and the order of its
labels as they are. It may change the order of texts by confidence, so abstention comes after.

The validation split serves several times: it chose the best checkpoint, and everything here
is fitted on it in turn. Figures on it are therefore somewhat rosy; those of `evaluate`, on
test rows, are not. `Calibration.notes` says so in the bundle.

Shape suffixes: N rows, C labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve.bundle.manifest import Abstention, Calibration
from serve.inference.decision import Rules
from serve.inference.scores import Array, activate, default_activation
from train.config.sections import CalibrationSection
from train.model.base import last_linear
from train.statistics.metrics import Choice
from train.statistics.probability_metrics import (
    calibration_bins,
    log_loss_rows,
    predictions_and_outcomes,
)
from train.statistics.selective import choose_threshold

TEMPERATURES = (0.05, 20.0)
"""Least and largest temperature."""

MIN_POSITIVES = 10
"""Rows with a label, and rows without it, that its threshold takes; with fewer it stays 0.5."""


def fit_temperature(logits_NC: Array, reference_NC: Choice, task: str) -> float:
    """The divisor of the logits with the least negative log-likelihood.

    Source: C. Guo et al. (2017), On calibration of modern neural networks, ICML, section 4.2.
    The likelihood has one optimum, as it is concave in the inverse of the temperature. Targets
    are softened as in J. Platt (1999), Probabilistic outputs for support vector machines,
    eq. 2: a split without an error would otherwise ask for certainty.
    Raises ValueError if the logits are not finite.
    """
    from scipy.optimize import minimize_scalar

    if not np.isfinite(logits_NC).all():
        raise ValueError("logits are not finite, so that no temperature can be fitted")
    logits = logits_NC.astype(np.float64)
    n, num_labels = logits.shape
    if task == "multi_label":
        positives = int(reference_NC.sum())
        negatives = reference_NC.size - positives
        target_NC = np.where(reference_NC, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    else:
        rest = 1 / (n + 2)
        target_NC = np.where(reference_NC, 1 - rest, rest / (num_labels - 1))

    def loss(log_temperature: float) -> float:
        scaled_NC = logits / math.exp(log_temperature)
        if task == "multi_label":
            return float((np.logaddexp(0, scaled_NC) - target_NC * scaled_NC).mean())
        best_N = scaled_NC.max(axis=1)
        total_N = best_N + np.log(np.exp(scaled_NC - best_N[:, None]).sum(axis=1))
        return float((total_N - (target_NC * scaled_NC).sum(axis=1)).mean())

    bounds = (math.log(TEMPERATURES[0]), math.log(TEMPERATURES[1]))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(math.exp(found.x))


def scale_head(model: Any, temperature: float) -> None:
    """Divide the logits of a stock classifier by the temperature, in place, by its last layer."""
    import torch

    _, last = last_linear(model)
    with torch.no_grad():
        last.weight.div_(temperature)
        if last.bias is not None:
            last.bias.div_(temperature)


def fit_thresholds(probabilities_NC: Array, reference_NC: Choice) -> NDArray[np.float64]:
    """Each label's threshold with the best F1, (C,): half-way between two probabilities.

    Among equally good ones, the nearest to 0.5. A label with fewer than `MIN_POSITIVES` rows,
    or as few rows without it, keeps 0.5: its best threshold would be that of chance.
    """
    thresholds_C = np.full(probabilities_NC.shape[1], 0.5)
    for c, (p_N, has_N) in enumerate(zip(probabilities_NC.T, reference_NC.T, strict=True)):
        support = int(has_N.sum())
        if min(support, len(has_N) - support) < MIN_POSITIVES:
            continue
        order_N = np.argsort(-p_N, kind="stable")
        sorted_N = p_N[order_N].astype(np.float64)
        hits_N = np.cumsum(has_N[order_N])
        f1_N = 2 * hits_N / (np.arange(1, len(p_N) + 1) + support)
        between_N = (sorted_N[:-1] + sorted_N[1:]) / 2
        candidates, f1 = (
            np.append(0.5, between_N),
            np.append(_f1_at(p_N, has_N, 0.5), np.where(np.diff(sorted_N) < 0, f1_N[:-1], -1.0)),
        )
        best = np.flatnonzero(f1 >= f1.max() - 1e-12)
        thresholds_C[c] = candidates[best[np.abs(candidates[best] - 0.5).argmin()]]
    return thresholds_C


def _f1_at(p_N: Array, has_N: NDArray[np.bool_], threshold: float) -> float:
    given_N = p_N >= threshold
    return 2 * float((given_N & has_N).sum()) / max(1, int(given_N.sum()) + int(has_N.sum()))


def calibrate(
    logits_NC: Array,
    reference_NC: Choice,
    temperature: float,
    section: CalibrationSection,
    *,
    task: str,
    labels: Sequence[str],
) -> Calibration | None:
    """What the bundle records; None where the configuration asks for nothing.

    logits_NC: of the validation rows, divided by the temperature already.
    The abstention threshold is that of full precision; `abstention` finds others.
    """
    wants_thresholds = section.thresholds and task == "multi_label"
    if not (section.temperature or wants_thresholds or section.max_risk is not None):
        return None
    n = len(logits_NC)
    activation = default_activation(task)
    before_NC = activate((logits_NC * temperature).astype(np.float32), activation)
    after_NC = activate(logits_NC, activation)
    notes = [
        f"fitted on {n} validation rows, which also chose the checkpoint: "
        "judge by the figures on the test split",
    ]
    if not TEMPERATURES[0] * 1.01 < temperature < TEMPERATURES[1] * 0.99:
        notes.append(
            f"the temperature {temperature:.3g} is at the end of its range: look at the data"
        )
    thresholds = None
    if wants_thresholds:
        thresholds_C = fit_thresholds(after_NC, reference_NC)
        thresholds = tuple(float(each) for each in thresholds_C.astype(np.float32))
        support_C = reference_NC.sum(axis=0)
        few = np.minimum(support_C, n - support_C) < MIN_POSITIVES
        notes.append(
            f"thresholds chosen for {int((~few).sum())} of {len(labels)} labels; "
            f"the others have fewer than {MIN_POSITIVES} rows with or without them and keep 0.5"
        )
    result = Calibration(
        temperature=temperature,
        thresholds=thresholds,
        rows=n,
        log_loss_before=float(log_loss_rows(reference_NC, before_NC, task).mean()),
        log_loss_after=float(log_loss_rows(reference_NC, after_NC, task).mean()),
        ece_before=calibration_bins(*predictions_and_outcomes(reference_NC, before_NC, task)).ece,
        ece_after=calibration_bins(*predictions_and_outcomes(reference_NC, after_NC, task)).ece,
        notes=tuple(notes),
    )
    if section.max_risk is None:
        return result
    found = abstention(logits_NC, reference_NC, result, section, task=task)
    return result.model_copy(update={"abstention": {"torch": found}})


def abstention(
    logits_NC: Array,
    reference_NC: Choice,
    calibration: Calibration,
    section: CalibrationSection,
    *,
    task: str,
) -> Abstention:
    """The abstention threshold for the logits of one backend; `section.max_risk` must be set."""
    assert section.max_risk is not None
    thresholds = calibration.thresholds
    rules = Rules(
        task=task,
        thresholds_C=None if thresholds is None else np.array(thresholds, dtype=np.float32),
        abstention=None,
    )
    decision = rules.decide(activate(logits_NC, default_activation(task)))
    return choose_threshold(
        decision.confidence_N,
        (decision.predicted_NC != reference_NC).any(axis=1),
        max_risk=section.max_risk,
        risk_confidence=section.risk_confidence,
    )
