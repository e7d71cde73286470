"""Train on parts of the rows only until it is clear which candidate is best.

Every contender is trained for one fold after the other, and all candidates are compared on the
folds that are done: the idea of races (O. Maron and A. Moore 1994, Hoeffding races; M. Birattari
et al. 2002, F-Race). A clear case takes one or two folds, a close one all of them. Pure, but for
the training that is given.

Shape suffixes: N rows, C labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from serve.inference.scores import Array
from train.fit.choice.judge import Candidate, best, is_shown
from train.statistics.metrics import Choice as Flags

DECIDED = 3.0
"""Standard errors from which a candidate is clearly worse. There are at most twenty looks."""

MIN_ROWS = 40
"""Rows below which nothing is clear."""

Train = Callable[[str, int], Array]
"""Trains with a pooling on all folds but one, and returns the logits of that fold's rows."""

Judge = Callable[[str, str, Array, Flags], Candidate]
"""Judges a method with a pooling by its logits (N, C), on the rows that are true."""


def race(
    probes_NC: Mapping[str, Array],
    poolings: Sequence[str],
    train: Train,
    judge: Judge,
    fold_N: NDArray[np.int64],
    judged_N: Flags,
    *,
    is_over: Callable[[], bool],
) -> list[Candidate]:
    """Return the candidates, probes first, judged on the same rows: those of the folds done.

    probes_NC: cross-fitted logits of the probes by pooling. poolings: with which LoRA is trained.
    fold_N, judged_N: the fold of each row, and whether it counts. is_over: asked after each fold,
    whether there is no time for another.
    """
    logits_NC = {pooling: np.zeros_like(probes_NC[pooling]) for pooling in poolings}
    contenders = list(poolings)
    done_N = np.zeros(len(fold_N), dtype=bool)
    found: list[Candidate] = []
    for fold in np.unique(fold_N):
        for pooling in contenders:
            logits_NC[pooling][fold_N == fold] = train(pooling, int(fold))
        done_N |= fold_N == fold
        rows_N = done_N & judged_N
        found = [judge("probe", pooling, each, rows_N) for pooling, each in probes_NC.items()]
        found += [judge("lora", pooling, logits_NC[pooling], rows_N) for pooling in contenders]
        if is_over():
            break
        if rows_N.sum() < MIN_ROWS:
            continue
        leader = best(found)
        behind = [each for each in found if is_shown(leader, each, DECIDED)]
        contenders = [
            each.pooling for each in found if each.method == "lora" and each not in behind
        ]
        if not contenders or len(behind) == len(found) - 1:
            break
    return found
