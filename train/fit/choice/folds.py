"""Parts of the training rows, each of which is judged by models that never saw it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from serve.inference.text import Text
from train.audit.normalization import joined, normalizer
from train.statistics.folds import deal
from train.statistics.metrics import Choice

_same = normalizer(("unicode", "case", "punctuation", "whitespace"))


def fold_numbers(
    texts: Sequence[Text], given_NC: Choice, *, folds: int, seed: int
) -> NDArray[np.int64]:
    """Assign each row to a fold, (N,): texts by label in turn, equal texts together.

    Texts are equal if they differ only in case, punctuation and spaces. given_NC: the labels of
    the rows, bool.
    """
    _, text_N = np.unique([joined(text, _same) for text in texts], return_inverse=True)
    _, first_M = np.unique(text_N, return_index=True)
    fold_M = deal(given_NC[first_M], folds, seed)
    return np.asarray(fold_M[text_N])


def judged_rows(given_NC: Choice, fold_N: NDArray[np.int64], task: str) -> Choice:
    """Return which rows can be judged, (N,): not those whose label no other fold has.

    No model that leaves their fold out can know the label. A multi-label row always can.
    """
    if task == "multi_label":
        return np.ones(len(given_NC), dtype=bool)
    folds = int(fold_N.max()) + 1
    in_fold_FC = np.stack([given_NC[fold_N == fold].sum(axis=0) for fold in range(folds)])
    elsewhere_FC = in_fold_FC.sum(axis=0) - in_fold_FC
    return np.asarray((elsewhere_FC[fold_N] * given_NC).sum(axis=1) > 0)
