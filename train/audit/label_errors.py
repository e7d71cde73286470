"""Find probable label errors: confident learning on features of the frozen base.

Linear probes predict rows that they were not fitted on. A row is suspect if its probe gives another
label at least that label's average self-confidence (Northcutt, Jiang and Chuang 2021, "Confident
Learning", JAIR 70, section 3.1). Pure: features and the seed are arguments.

Shape suffixes: N rows, D features, C labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from train.model.head import fit_probe
from train.model.loss import Loss
from train.statistics.metrics import Choice

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class LabelIssues:
    """Suspect rows, according to probes that were not fitted on them."""

    score_N: Floats
    """-1 to 1, the lower the more suspect; 1 for rows that are not checked."""

    suspect_N: NDArray[np.bool_]
    suggested_NC: Choice
    """The predicted labels of suspect rows, and the given ones of all others."""


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
    features_ND: Floats, given_NC: Choice, task: str, *, folds: int, seed: int
) -> CrossFittedProbes:
    """Fit one probe per fold on the rows of the other folds.

    Folds are stratified by label.
    """
    fold_N = _folds(given_NC, folds, seed)
    features = torch.from_numpy(features_ND)
    multi = task == "multi_label"
    targets = torch.from_numpy(given_NC)
    targets = targets.float() if multi else targets.int().argmax(dim=1)
    loss = Loss(task="multi_label" if multi else "single_label")
    probs_NC = np.empty(given_NC.shape, dtype=np.float32)
    weights = []
    for fold in range(folds):
        seen = torch.from_numpy(fold_N != fold)
        if not bool(seen.any()) or bool(seen.all()):
            continue
        weight, bias = fit_probe(features[seen], targets[seen], loss, given_NC.shape[1])
        logits = features[~seen] @ weight.T + bias
        probs_NC[~seen.numpy()] = _activate(logits, task).numpy()
        weights.append((weight, bias))
    return CrossFittedProbes(probs_NC=probs_NC, weights=tuple(weights), task=task)


def find_label_issues(
    probs_NC: Floats,
    given_NC: Choice,
    task: str,
    *,
    thresholds_2C: Floats,
    judged_C: NDArray[np.bool_],
) -> LabelIssues:
    """Compare given labels with the probabilities of probes that were not fitted on the rows.

    thresholds_2C: from `class_thresholds`. judged_C: labels with enough rows; rows with another
    label are not checked.
    """
    if task == "multi_label":
        return _multi_label_issues(probs_NC, given_NC, thresholds_2C, judged_C)
    given_N = given_NC.argmax(axis=1)
    rows_N = np.arange(len(given_N))
    own_N = probs_NC[rows_N, given_N]
    others_NC = np.where(given_NC, -1.0, probs_NC)
    # The most probable of the labels that reach their thresholds (eq. 1 there).
    confident_NC = np.where((probs_NC >= thresholds_2C[1]) & judged_C, probs_NC, -1.0)
    best_N = confident_NC.argmax(axis=1)
    judged_N = judged_C[given_N]
    suspect_N = judged_N & (confident_NC[rows_N, best_N] >= 0) & (best_N != given_N)
    suggested_NC = given_NC.copy()
    suggested_NC[suspect_N] = np.arange(given_NC.shape[1]) == best_N[suspect_N, None]
    margin_N = np.where(judged_N, own_N - others_NC.max(axis=1), 1.0)
    return LabelIssues(
        score_N=margin_N.astype(np.float32), suspect_N=suspect_N, suggested_NC=suggested_NC
    )


def _multi_label_issues(
    probs_NC: Floats, given_NC: Choice, thresholds_2C: Floats, judged_C: NDArray[np.bool_]
) -> LabelIssues:
    """Check each label separately, present or absent; the lowest margin is the row's score."""
    missing_NC = ~given_NC & (probs_NC >= thresholds_2C[1])
    extra_NC = given_NC & (1 - probs_NC >= thresholds_2C[0])
    wrong_NC = (missing_NC | extra_NC) & judged_C
    own_NC = np.where(given_NC, probs_NC, 1 - probs_NC)
    margin_NC = np.where(judged_C, 2 * own_NC - 1, 1.0)
    return LabelIssues(
        score_N=margin_NC.min(axis=1).astype(np.float32),
        suspect_N=wrong_NC.any(axis=1),
        suggested_NC=given_NC ^ wrong_NC,
    )


def class_thresholds(probs_NC: Floats, given_NC: Choice) -> Floats:
    """Return the average self-confidence that a label is absent (row 0) or present (row 1), (2, C).

    The average is over the rows where it is given so; 2, which no probability reaches, without any.
    """
    num_present_C, num_absent_C = given_NC.sum(axis=0), (~given_NC).sum(axis=0)
    present_C = (probs_NC * given_NC).sum(axis=0) / np.maximum(num_present_C, 1)
    absent_C = ((1 - probs_NC) * ~given_NC).sum(axis=0) / np.maximum(num_absent_C, 1)
    thresholds_2C = np.where([num_absent_C > 0, num_present_C > 0], [absent_C, present_C], 2.0)
    return np.asarray(thresholds_2C, dtype=np.float32)


def _folds(given_NC: Choice, folds: int, seed: int) -> NDArray[np.int64]:
    """Assign each row to a fold; rows with the same labels are dealt to the folds in turn."""
    random = np.random.default_rng(seed)
    _, group_N = np.unique(np.packbits(given_NC, axis=1), axis=0, return_inverse=True)
    shuffled_N = random.permutation(len(given_NC))
    order_N = shuffled_N[np.argsort(group_N.ravel()[shuffled_N], kind="stable")]
    fold_N = np.empty(len(given_NC), dtype=np.int64)
    fold_N[order_N] = np.arange(len(given_NC)) % folds
    return fold_N


def _activate(logits: torch.Tensor, task: str) -> torch.Tensor:
    return logits.sigmoid() if task == "multi_label" else logits.softmax(dim=1)
