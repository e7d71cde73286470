"""Which given labels are probably wrong: confident learning on features of the frozen base.

Linear models judge rows that they were not fitted on; a row is suspected where such a model is
surer of another label than it usually is of that label's own rows (Northcutt, Jiang and Chuang
2021, "Confident Learning", JAIR 70, section 3.1). Pure apart from the seed; features come in.

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
    """What a model that did not see the rows makes of their labels."""

    score_N: Floats
    """-1 to 1, the lower the more suspect; 1 for rows that are not judged."""

    suspect_N: NDArray[np.bool_]
    suggested_NC: Choice
    """The labels it would give; the given ones where a row is not suspected."""


@dataclass(frozen=True, kw_only=True)
class CrossFittedProbes:
    """Linear models of the folds, and how sure they are of each label's rows."""

    probs_NC: Floats
    """Of the rows that they were fitted on, each by the model that did not see it."""

    weights: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    task: str

    def of_others(self, features_ND: Floats) -> Floats:
        """Probabilities of rows that no model saw: the mean over the models, (N, C)."""
        features = torch.from_numpy(features_ND)
        mean = torch.stack([_activate(features @ w.T + b, self.task) for w, b in self.weights])
        return np.asarray(mean.mean(dim=0).numpy())


def cross_fit(
    features_ND: Floats, given_NC: Choice, task: str, *, folds: int, seed: int
) -> CrossFittedProbes:
    """Fit a model per fold on the rows of the other folds.

    Folds are drawn label by label, so that each has its share of every label.
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
    """Compare given labels with the probabilities of models that did not see the rows.

    thresholds_2C: from `class_thresholds`. judged_C: labels with enough rows to be judged; rows
    with another label are skipped.
    """
    if task == "multi_label":
        return _judge_multi(probs_NC, given_NC, thresholds_2C, judged_C)
    given_N = given_NC.argmax(axis=1)
    rows_N = np.arange(len(given_N))
    own_N = probs_NC[rows_N, given_N]
    others_NC = np.where(given_NC, -1.0, probs_NC)
    # Of the labels that the model is as sure of as usual, the likeliest (eq. 1 there).
    sure_NC = np.where((probs_NC >= thresholds_2C[1]) & judged_C, probs_NC, -1.0)
    best_N = sure_NC.argmax(axis=1)
    judged_N = judged_C[given_N]
    suspect_N = judged_N & (sure_NC[rows_N, best_N] >= 0) & (best_N != given_N)
    suggested_NC = given_NC.copy()
    suggested_NC[suspect_N] = np.arange(given_NC.shape[1]) == best_N[suspect_N, None]
    margin_N = np.where(judged_N, own_N - others_NC.max(axis=1), 1.0)
    return LabelIssues(
        score_N=margin_N.astype(np.float32), suspect_N=suspect_N, suggested_NC=suggested_NC
    )


def _judge_multi(
    probs_NC: Floats, given_NC: Choice, thresholds_2C: Floats, judged_C: NDArray[np.bool_]
) -> LabelIssues:
    """Each label for itself, has it or not; the worst one is the row's score."""
    missing_NC = ~given_NC & (probs_NC >= thresholds_2C[1])
    needless_NC = given_NC & (1 - probs_NC >= thresholds_2C[0])
    wrong_NC = (missing_NC | needless_NC) & judged_C
    own_NC = np.where(given_NC, probs_NC, 1 - probs_NC)
    margin_NC = np.where(judged_C, 2 * own_NC - 1, 1.0)
    return LabelIssues(
        score_N=margin_NC.min(axis=1).astype(np.float32),
        suspect_N=wrong_NC.any(axis=1),
        suggested_NC=given_NC ^ wrong_NC,
    )


def class_thresholds(probs_NC: Floats, given_NC: Choice) -> Floats:
    """How sure the models are on average that a label is absent (row 0) or present (row 1)
    where it is so given, (2, C); 2, which nothing reaches, for a label without such rows."""
    present_C, absent_C = given_NC.sum(axis=0), (~given_NC).sum(axis=0)
    sure_C = (probs_NC * given_NC).sum(axis=0) / np.maximum(present_C, 1)
    not_C = ((1 - probs_NC) * ~given_NC).sum(axis=0) / np.maximum(absent_C, 1)
    thresholds_2C = np.where([absent_C > 0, present_C > 0], [not_C, sure_C], 2.0)
    return np.asarray(thresholds_2C, dtype=np.float32)


def _folds(given_NC: Choice, folds: int, seed: int) -> NDArray[np.int64]:
    """A fold for each row; rows of the same set of labels go round the folds in turn."""
    random = np.random.default_rng(seed)
    _, group_N = np.unique(np.packbits(given_NC, axis=1), axis=0, return_inverse=True)
    shuffled_N = random.permutation(len(given_NC))
    order_N = shuffled_N[np.argsort(group_N.ravel()[shuffled_N], kind="stable")]
    fold_N = np.empty(len(given_NC), dtype=np.int64)
    fold_N[order_N] = np.arange(len(given_NC)) % folds
    return fold_N


def _activate(logits: torch.Tensor, task: str) -> torch.Tensor:
    return logits.sigmoid() if task == "multi_label" else logits.softmax(dim=1)
