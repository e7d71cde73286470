"""Deal rows to the folds of a cross-fit. Pure. Shape suffixes: N rows, C labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from train.statistics.metrics import Choice


def deal(given_NC: Choice, folds: int, seed: int) -> NDArray[np.int64]:
    """Assign each row to a fold, (N,); rows with the same labels are dealt to the folds in turn."""
    _, group_N = np.unique(np.packbits(given_NC, axis=1), axis=0, return_inverse=True)
    shuffled_N = np.random.default_rng(seed).permutation(len(given_NC))
    order_N = shuffled_N[np.argsort(group_N.ravel()[shuffled_N], kind="stable")]
    fold_N = np.empty(len(given_NC), dtype=np.int64)
    fold_N[order_N] = np.arange(len(given_NC)) % folds
    return fold_N
