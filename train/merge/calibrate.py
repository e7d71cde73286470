"""What `merge` fits on the validation split: temperature, thresholds, abstention.

The temperature is folded into the last layer, whose weight and bias are divided by it, so the
bundle's logits are calibrated wherever it runs: in the stock classes, the pipeline, the int8
export and the server. It does not change the ranking of a text's labels. It may change the
ranking of texts by confidence, so the abstention threshold is chosen after it.

`train.merge.roles` says which rows choose what. Metrics on the validation split are somewhat
optimistic; those of `evaluate`, on test rows, are not. `Calibration.notes` states this in the
bundle.

Shape suffixes: N rows, C labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from serve.bundle.manifest import Calibration
from serve.inference.decision import Rules
from serve.inference.scores import Array, activate, default_activation
from train.config.sections import CalibrationSection
from train.merge.decision import decision_threshold
from train.merge.roles import assign_roles
from train.model.base import last_linear
from train.statistics.metrics import Choice, Floats
from train.statistics.probability_metrics import (
    calibration_bins,
    log_loss_rows,
    predictions_and_outcomes,
)
from train.statistics.selective import choose_threshold
from train.statistics.thresholds import MIN_POSITIVES, fit_thresholds

TEMPERATURES = (0.05, 20.0)
"""Lower and upper bound of the temperature; one at a bound is not used."""


def choose_temperature(logits_NC: Array, reference_NC: Choice, task: str) -> tuple[float, str]:
    """Fit a temperature and decide whether to use it; return it, or 1, and a note on why.

    It is used if it lowers the log-loss, summed over the rows, by more than one fitted
    parameter does by chance: H. Akaike (1974), A new look at the statistical model
    identification, IEEE Transactions on Automatic Control 19. For multi-label, where the labels
    of a row are not independent, the parameter counts as variance of the rows' scores over
    information (K. Takeuchi 1976), at least as one.
    """
    fitted = fit_temperature(logits_NC, reference_NC, task)
    if not TEMPERATURES[0] * 1.01 < fitted < TEMPERATURES[1] * 0.99:
        return 1.0, (
            f"the temperature stays 1: the best on these {len(logits_NC)} rows, {fitted:.3g}, is "
            "at the limit of its range; inspect the data"
        )
    before_N, *_ = _fit_terms(logits_NC, reference_NC, task)
    after_N, score_N, information = _fit_terms(logits_NC / fitted, reference_NC, task)
    gain = float((before_N - after_N).sum())
    noise = max(1.0, float(score_N.var()) / max(information, 1e-12))
    if gain > noise:
        return fitted, ""
    if gain > 0:
        why = f"lowers the log-loss of {len(before_N)} rows no more than chance does"
    else:
        why = f"does not lower the log-loss: {len(before_N)} rows have too few errors to fit one"
    return 1.0, f"the temperature stays 1: the fitted {fitted:.3f} {why}"


def _fit_terms(logits_NC: Array, reference_NC: Choice, task: str) -> tuple[Floats, Floats, float]:
    """Terms of a fit of the logits' scale.

    Of each row, (N,), the negative log-likelihood and its derivative by the log of the scale;
    and the mean Fisher information of a row.
    """
    from scipy.special import expit, log_softmax

    logits = logits_NC.astype(np.float64)
    if task == "multi_label":
        p_NC = expit(logits)
        loss_N = (np.logaddexp(0, logits) - reference_NC * logits).sum(axis=1)
        score_N = ((p_NC - reference_NC) * logits).sum(axis=1)
        return loss_N, score_N, float((p_NC * (1 - p_NC) * logits**2).sum(axis=1).mean())
    log_p_NC = log_softmax(logits, axis=1)
    p_NC = np.exp(log_p_NC)
    mean_N = (p_NC * logits).sum(axis=1)
    variance_N = (p_NC * logits**2).sum(axis=1) - mean_N**2
    return -log_p_NC[reference_NC], mean_N - logits[reference_NC], float(variance_N.mean())


def fit_temperature(logits_NC: Array, reference_NC: Choice, task: str) -> float:
    """Fit the divisor of the logits that minimizes the negative log-likelihood.

    Source: C. Guo et al. (2017), On calibration of modern neural networks, ICML, section 4.2.
    The optimum is unique: the likelihood is concave in the inverse temperature. Targets are
    smoothed as in J. Platt (1999), Probabilistic outputs for support vector machines, eq. 2;
    otherwise a split without errors would drive the probabilities to 0 and 1. 1 for a single
    label of a single-label task, whose probability is always 1.
    Raises ValueError if the logits are not finite.
    """
    from scipy.optimize import minimize_scalar

    if not np.isfinite(logits_NC).all():
        raise ValueError("cannot fit a temperature: logits are not finite")
    logits = logits_NC.astype(np.float64)
    n, num_labels = logits.shape
    if task == "multi_label":
        positives = int(reference_NC.sum())
        negatives = reference_NC.size - positives
        target_NC = np.where(reference_NC, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    else:
        if num_labels == 1:
            return 1.0
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
    """Divide a stock classifier's logits by the temperature: scale its last layer, in place."""
    import torch

    _, last = last_linear(model)
    with torch.no_grad():
        last.weight.div_(temperature)
        if last.bias is not None:
            last.bias.div_(temperature)


def calibrate(
    logits_NC: Array,
    reference_NC: Choice,
    temperature: float,
    section: CalibrationSection,
    *,
    task: str,
    labels: Sequence[str],
    texts: Sequence[object] | None = None,
    checkpoints: int = 1,
    notes: Sequence[str] = (),
) -> Calibration | None:
    """Fit thresholds and abstention; return what the bundle records, or None if all is off.

    logits_NC: of the validation rows, already divided by the temperature. texts: of the same
    rows, which assign them to their roles; None: no two are equal. checkpoints: how many the
    rows chose among. notes: on the temperature. The thresholds of a binary model and of
    abstention are for full precision; `for_backend` chooses those of other backends.
    """
    wants_thresholds = section.thresholds and task == "multi_label"
    wants_rules = section.target is not None or section.max_risk is not None
    if not (section.temperature or wants_thresholds or wants_rules):
        return None
    texts = range(len(logits_NC)) if texts is None else texts
    roles = assign_roles(texts, section)
    fit_N = roles.fit_N
    result, fitted = _fit(
        logits_NC[fit_N], reference_NC[fit_N], temperature, task=task, thresholds=wants_thresholds
    )
    result = result.model_copy(update={"notes": (roles.note, *notes, *fitted)})
    return for_backend(
        *(logits_NC, reference_NC, result, section, "torch"),
        task=task,
        labels=labels,
        texts=texts,
        checkpoints=checkpoints,
    )


def _fit(
    logits_NC: Array, reference_NC: Choice, temperature: float, *, task: str, thresholds: bool
) -> tuple[Calibration, tuple[str, ...]]:
    """Fit the label thresholds on these rows, and measure before and after; with a note."""
    n, num_labels = logits_NC.shape
    activation = default_activation(task)
    before_NC = activate((logits_NC * temperature).astype(np.float32), activation)
    after_NC = activate(logits_NC, activation)
    chosen_C: tuple[float, ...] | None = None
    notes: tuple[str, ...] = ()
    if thresholds:
        thresholds_C = fit_thresholds(after_NC, reference_NC)
        chosen_C = tuple(float(each) for each in thresholds_C.astype(np.float32))
        support_C = reference_NC.sum(axis=0)
        few = np.minimum(support_C, n - support_C) < MIN_POSITIVES
        notes = (
            f"thresholds chosen for {int((~few).sum())} of {num_labels} labels; "
            f"the others have fewer than {MIN_POSITIVES} rows with or without them and keep 0.5",
        )
    result = Calibration(
        temperature=temperature,
        thresholds=chosen_C,
        rows=n,
        log_loss_before=float(log_loss_rows(reference_NC, before_NC, task).mean()),
        log_loss_after=float(log_loss_rows(reference_NC, after_NC, task).mean()),
        ece_before=calibration_bins(*predictions_and_outcomes(reference_NC, before_NC, task)).ece,
        ece_after=calibration_bins(*predictions_and_outcomes(reference_NC, after_NC, task)).ece,
    )
    return result, notes


def for_backend(
    logits_NC: Array,
    reference_NC: Choice,
    calibration: Calibration,
    section: CalibrationSection,
    backend: str,
    *,
    task: str,
    labels: Sequence[str],
    texts: Sequence[object],
    checkpoints: int,
) -> Calibration:
    """Add the decision threshold and the abstention threshold of one backend.

    The decision comes first: abstention is judged by the decisions that are served.
    """
    roles = assign_roles(texts, section)
    probabilities_NC = activate(logits_NC, default_activation(task))
    if section.target is not None:
        decision = decision_threshold(
            probabilities_NC, reference_NC, section, roles, labels=labels, checkpoints=checkpoints
        )
        both = {**calibration.decision, backend: decision}
        calibration = calibration.model_copy(update={"decision": both})
    if section.max_risk is None:
        return calibration
    decided = Rules.fitted(calibration, backend, task=task, labels=labels).decide(probabilities_NC)
    used_N = roles.fit_N | roles.abstain_N
    abstention = choose_threshold(
        decided.confidence_N[used_N],
        (decided.predicted_NC != reference_NC).any(axis=1)[used_N],
        pilot_N=roles.fit_N[used_N],
        max_risk=section.max_risk,
        risk_confidence=section.risk_confidence,
        checkpoints=checkpoints,
    )
    return calibration.model_copy(
        update={"abstention": {**calibration.abstention, backend: abstention}}
    )
