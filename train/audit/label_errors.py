"""Find probable label errors with linear probes on features of the frozen base.

Probes predict rows that they were not fitted on (cross-fitting, as in confident learning:
Northcutt, Jiang and Chuang 2021, JAIR 70). A row is suspect if the odds against its labels as
given reach a threshold, which `train.audit.planted` finds by planting errors. Pure: features and
the seed are arguments.

Shape suffixes: N rows, D features, C labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from train.model.head import probes_of_folds
from train.model.loss import Loss
from train.statistics.folds import deal
from train.statistics.metrics import Choice

Floats = NDArray[np.floating[Any]]
Judged = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class LabelIssues:
    """Suspect rows, according to probes that were not fitted on them."""

    score_N: Floats
    """Log-odds of the labels as given, the lower the more suspect; inf if not checked."""

    suspect_N: NDArray[np.bool_]
    suggested_NC: Choice
    """The corrected labels of suspect rows, and the given ones of all others."""


@dataclass(frozen=True, kw_only=True)
class CrossFittedProbes:
    """Linear probes, one per fold, and their out-of-fold probabilities."""

    probs_NC: Floats
    """Probabilities of each row by the probe that was not fitted on it."""

    weights: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    task: str

    def predict_unseen(self, features_ND: Floats) -> Floats:
        """Average the probes' probabilities of rows that none was fitted on, (N, C)."""
        features = torch.from_numpy(features_ND)
        mean = torch.stack([_activate(features @ w.T + b, self.task) for w, b in self.weights])
        return np.asarray(mean.mean(dim=0).numpy())


def cross_fit(
    features_ND: Floats,
    given_NC: Choice,
    task: str,
    *,
    folds: int,
    seed: int,
    weights_C: torch.Tensor | None = None,
) -> CrossFittedProbes:
    """Fit one probe per fold on the rows of the other folds.

    Folds are stratified by label. weights_C: of the labels in the loss.
    """
    fold_N = deal(given_NC, folds, seed)
    features = torch.from_numpy(features_ND)
    multi = task == "multi_label"
    targets = torch.from_numpy(given_NC)
    targets = targets.float() if multi else targets.int().argmax(dim=1)
    loss = Loss(task="multi_label" if multi else "single_label", weights_C=weights_C)
    probs_NC = np.empty(given_NC.shape, dtype=np.float32)
    weights = []
    for held_N, weight, bias in probes_of_folds(features, targets, loss, given_NC.shape[1], fold_N):
        probs_NC[held_N] = _activate(features[held_N] @ weight.T + bias, task).numpy()
        weights.append((weight, bias))
    return CrossFittedProbes(probs_NC=probs_NC, weights=tuple(weights), task=task)


def cell_scores(probs_NC: Floats, given_NC: Choice, task: str, judged_C: Judged) -> Floats:
    """Score each label of each row as given, (N, C): the lower, the more suspect; inf: not judged.

    Single-label, the natural logarithm of the given label's probability over the most probable
    other label's, for the given label alone. Multi-label, the log-odds that the label is present
    or absent as given.
    """
    logs_NC = np.log(np.maximum(probs_NC, 1e-9))
    if task == "multi_label":
        odds_NC = logs_NC - np.log(np.maximum(1 - probs_NC, 1e-9))
        return np.where(judged_C, np.where(given_NC, odds_NC, -odds_NC), np.inf)
    others_NC = np.where(given_NC | ~judged_C, -np.inf, logs_NC)
    ratio_NC = logs_NC - others_NC.max(axis=1, keepdims=True)
    return np.where(given_NC & judged_C, ratio_NC, np.inf)


def find_label_issues(
    probs_NC: Floats,
    given_NC: Choice,
    task: str,
    *,
    threshold: float,
    judged_C: Judged,
) -> LabelIssues:
    """Compare given labels with the probabilities of probes that were not fitted on the rows.

    threshold: scores of `cell_scores` at or below it are suspect, see `train.audit.planted`.
    judged_C: labels with enough rows; rows with another label are not checked.
    """
    scores_NC = cell_scores(probs_NC, given_NC, task, judged_C)
    wrong_NC = scores_NC <= threshold
    suspect_N = np.asarray(wrong_NC.any(axis=1))
    if task == "multi_label":
        suggested_NC = given_NC ^ wrong_NC
    else:
        best_N = np.where(given_NC | ~judged_C, -1.0, probs_NC).argmax(axis=1)
        best_NC = np.arange(given_NC.shape[1]) == best_N[:, None]
        suggested_NC = np.where(suspect_N[:, None], best_NC, given_NC)
    return LabelIssues(
        score_N=scores_NC.min(axis=1), suspect_N=suspect_N, suggested_NC=suggested_NC
    )


def _activate(logits: torch.Tensor, task: str) -> torch.Tensor:
    return logits.sigmoid() if task == "multi_label" else logits.softmax(dim=1)
