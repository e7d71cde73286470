"""The decision threshold of a binary model, as the bundle records it.

`train.statistics.thresholds` chooses it. Shape suffixes: N rows, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from serve.bundle.binary import BinaryScores, DecisionThreshold
from serve.inference.scores import Array
from train.config.sections import CalibrationSection
from train.merge.roles import Roles
from train.statistics.metrics import Choice
from train.statistics.selective import sure_rows
from train.statistics.thresholds import (
    MIN_POSITIVES,
    has_few,
    threshold_for_costs,
    threshold_for_f1,
    threshold_for_precision,
    threshold_for_recall,
)


def decision_threshold(
    probabilities_NC: Array,
    reference_NC: Choice,
    section: CalibrationSection,
    roles: Roles,
    *,
    labels: Sequence[str],
    checkpoints: int,
) -> DecisionThreshold:
    """Choose the threshold of one backend by the validation rows; `section.target` must be set.

    checkpoints: how many models these rows chose among; a guarantee is given for all of them.
    """
    assert section.positive_label is not None
    column = labels.index(section.positive_label)
    scores_N, positive_N = probabilities_NC[:, column], reference_NC[:, column]
    chosen = _for_wish if section.min_precision or section.min_recall else _for_rows
    found = chosen(scores_N, positive_N, section, roles, checkpoints)
    threshold = found["threshold"]
    scores: dict[Literal["at_half", "at_threshold"], BinaryScores]
    scores = {"at_half": binary_scores(probabilities_NC.argmax(axis=1) == column, positive_N)}
    if threshold is not None:
        scores["at_threshold"] = binary_scores(scores_N.astype(np.float64) >= threshold, positive_N)
    return DecisionThreshold(
        positive_label=section.positive_label,
        rows=int(roles.decide_N.sum()),
        positives=int(positive_N[roles.decide_N].sum()),
        checkpoints=checkpoints,
        validation=scores,
        **found,
    )


def binary_scores(predicted_N: Choice, positive_N: Choice) -> BinaryScores:
    """Precision, recall and F1 of the positive label."""
    hits, predicted = int((predicted_N & positive_N).sum()), int(predicted_N.sum())
    positives = int(positive_N.sum())
    return BinaryScores(
        precision=hits / predicted if predicted else None,
        recall=hits / positives if positives else None,
        f1=2 * hits / max(1, predicted + positives),
        predicted=predicted,
    )


def _for_rows(
    scores_N: Array, positive_N: Choice, section: CalibrationSection, roles: Roles, _: int
) -> dict[str, Any]:
    """The threshold for F1 or costs: the best on the rows, which promises nothing."""
    scores_N, positive_N = scores_N[roles.decide_N], positive_N[roles.decide_N]
    rows = f"{len(positive_N)} validation rows"
    few = (
        f"of {rows} {int(positive_N.sum())} have the label {section.positive_label!r} and "
        f"{int((~positive_N).sum())} the other, and at least {MIN_POSITIVES} of each are needed"
    )
    if section.costs is None:
        threshold = threshold_for_f1(scores_N, positive_N)
        reason = f"the best F1 on {rows}" if threshold is not None else f"no threshold: {few}"
        return {"threshold": threshold, "chosen_for": "f1", "reason": reason}
    costs = section.costs.model_dump()
    threshold = threshold_for_costs(scores_N, positive_N, **costs)
    if has_few(positive_N):
        reason = f"the costs imply {threshold:.4f}, if the probabilities are right: {few} to test"
    else:
        at_half, best = (_cost(scores_N >= each, positive_N, **costs) for each in (0.5, threshold))
        reason = f"the least cost on {rows}: {best:.4g} per row, {at_half:.4g} at 0.5"
    return {"threshold": threshold, "chosen_for": "costs", "costs": costs, "reason": reason}


def _cost(
    predicted_N: Choice, positive_N: Choice, *, false_positive: float, false_negative: float
) -> float:
    """Mean cost of a row."""
    return float(
        false_positive * (predicted_N & ~positive_N).mean()
        + false_negative * (~predicted_N & positive_N).mean()
    )


def _for_wish(
    scores_N: Array,
    positive_N: Choice,
    section: CalibrationSection,
    roles: Roles,
    checkpoints: int,
) -> dict[str, Any]:
    """The threshold with a guaranteed precision or recall, or why there is none."""
    level = (1 - section.threshold_confidence) / checkpoints
    tests_N = roles.decide_N
    positives = int(positive_N[tests_N].sum())
    label = repr(section.positive_label)
    if section.min_recall is not None:
        name, wish = "recall", section.min_recall
        threshold = threshold_for_recall(
            scores_N[tests_N], positive_N[tests_N], min_recall=wish, level=level
        )
        lack = (
            f"{positives} of {int(tests_N.sum())} validation rows have the label {label}, and at "
            f"least {sure_rows(wish, level)} with it are needed"
        )
    else:
        assert section.min_precision is not None
        name, wish = "precision", section.min_precision
        used_N = roles.fit_N | tests_N
        proved = threshold_for_precision(
            scores_N[used_N],
            positive_N[used_N],
            pilot_N=roles.fit_N[used_N],
            min_precision=wish,
            level=level,
        )
        threshold = proved.threshold if proved else None
        lack = (
            f"{int(tests_N.sum())} validation rows that chose nothing else, {positives} of them "
            f"with the label {label}, do not prove it; at least {sure_rows(wish, level)} rows "
            "above a threshold are needed if all have the label, more with each that does not"
        )
    among = f", for the best of {checkpoints} checkpoints" if checkpoints > 1 else ""
    promise = f"a {name} of at least {wish:g} at confidence {section.threshold_confidence:g}{among}"
    if threshold is None:
        reason = (
            f"no threshold guarantees {promise}: {lack}; provide more validation rows or lower "
            f"calibration.min_{name}"
        )
    else:
        scores_N, positive_N = scores_N[tests_N].astype(np.float64), positive_N[tests_N]
        predicted_N = scores_N >= threshold
        hits, predicted = int((predicted_N & positive_N).sum()), int(predicted_N.sum())
        reason = (
            f"{promise}: {hits} of {positives} rows with the label {label} are found, and {hits} "
            f"of {predicted} rows predicted to have it do, of {len(scores_N)} validation rows"
        )
        if predicted == len(scores_N):
            reason += f"; it predicts {label} for every one of them"
    return {
        "threshold": threshold,
        "chosen_for": name,
        "wish": wish,
        "confidence": section.threshold_confidence,
        "reason": reason,
    }
