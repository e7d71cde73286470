"""Measure how well wrong labels are found, by planting some, and choose the threshold.

A probe that knows little disagrees with many right labels. Whether suspicion is worth reporting is
therefore measured: errors are planted in a small fraction of the rows, the probes are fitted again,
and the scores of the planted errors give the fraction that each threshold finds. With the number
of rows suspected in the data as it is, this bounds the errors that the data may contain and
estimates which fraction of the suspects is wrong. If no threshold finds enough and is right often
enough, nothing is reported, and why is.

Over many labels the threshold controls the whole row: a row counts as suspect if any of its
labels is, for planted errors and for the data alike.

Shape suffixes: N rows, D features, C labels, K thresholds, M planted errors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train.audit.label_errors import (
    CrossFittedProbes,
    Floats,
    Judged,
    LabelIssues,
    cell_scores,
    cross_fit,
    find_label_issues,
)
from train.statistics.metrics import Choice

MIN_ROWS_JUDGED = 5
"""Labels with fewer rows in train are not checked: the probes hardly know them."""

PLANTED_FRACTION = 0.03
"""Fraction of the rows in which errors are planted: few enough to leave the probes as they are."""

MIN_PLANTED = 300
MAX_ROUNDS = 20
"""Planted errors wanted over all rounds, and the maximum of rounds; each fits all probes."""

MIN_FOUND = 0.5
"""Fraction of planted errors that a reported threshold must find."""

MIN_PRECISION = 0.8
"""Estimated fraction of wrong labels among suspects that a reported threshold must reach."""

MAX_ERRORS = 0.25
"""Fraction of wrong rows above which the estimate is not believed: the probes are poor."""

TAIL_FOUND = 0.1
"""Thresholds that find less than this fraction of planted errors estimate nothing."""

NEARLY_ALL = 0.9
FLAT = 0.7
"""If suspects per planted error found at MIN_FOUND are at least FLAT times those at NEARLY_ALL, the
suspects are as real as the planted errors."""


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """How well the probes find planted errors, at the threshold that is used or comes closest."""

    threshold: float | None
    """Scores at or below it are suspect; None if suspicion is not reported."""

    found: float
    """Fraction of planted errors found, 0 to 1."""

    precision: float
    """Estimated fraction of wrong labels among the suspects, 0 to 1."""

    errors: float
    """Upper estimate of the fraction of rows with a wrong label, 0 to 1."""

    @property
    def reason(self) -> str:
        """Why suspicion is not reported; '' if it is."""
        if self.threshold is not None:
            return ""
        if self.errors > MAX_ERRORS:
            return (
                f"the probes disagree with {self.errors:.0%} of the rows as strongly as with "
                "planted errors, so they know too little of these labels"
            )
        if self.found < MIN_FOUND:
            return f"the probes disagree with {self.found:.0%} of planted errors only"
        return (
            f"at best about {self.precision:.0%} of the suspects would be wrong at a threshold "
            f"that finds {self.found:.0%} of planted errors ({MIN_PRECISION:.0%} and "
            f"{MIN_FOUND:.0%} are required)"
        )


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Probes of the training rows, and how far they can be trusted."""

    probes: CrossFittedProbes
    judged_C: Judged
    """Labels with enough rows to be judged."""

    reliability: Reliability

    def issues(self, probs_NC: Floats, given_NC: Choice) -> LabelIssues:
        """Return the suspect rows among rows of the same labels; none without a threshold."""
        threshold = self.reliability.threshold
        return find_label_issues(
            probs_NC,
            given_NC,
            self.probes.task,
            threshold=-math.inf if threshold is None else threshold,
            judged_C=self.judged_C,
        )


def fit_judge(
    features_ND: NDArray[np.float32], given_NC: Choice, task: str, *, folds: int, seed: int
) -> Judge:
    """Fit probes on the training rows, and test them on planted errors."""
    probes = cross_fit(features_ND, given_NC, task, folds=folds, seed=seed)
    judged_C = np.asarray(given_NC.sum(axis=0) >= MIN_ROWS_JUDGED)
    reliability = measure_reliability(
        *(probes.probs_NC, features_ND, given_NC, task), judged_C=judged_C, folds=folds, seed=seed
    )
    return Judge(probes=probes, judged_C=judged_C, reliability=reliability)


def measure_reliability(
    probs_NC: Floats,
    features_ND: NDArray[np.float32],
    given_NC: Choice,
    task: str,
    *,
    judged_C: Judged,
    folds: int,
    seed: int,
) -> Reliability:
    """Plant errors, fit the probes again, and choose the threshold.

    probs_NC: of each row by a probe that was not fitted on it, for the data as it is.
    """
    random = np.random.default_rng(seed)
    per_round = max(1, round(PLANTED_FRACTION * len(given_NC)))
    confusion_CC = probs_NC.T @ given_NC / np.maximum(given_NC.sum(axis=0), 1)
    planted = []
    for _ in range(min(MAX_ROUNDS, math.ceil(MIN_PLANTED / per_round))):
        changed_NC, rows = plant_errors(
            given_NC, task, per_round, random, judged_C=judged_C, confusion_CC=confusion_CC
        )
        refitted_NC = cross_fit(features_ND, changed_NC, task, folds=folds, seed=seed).probs_NC
        scores_NC = cell_scores(refitted_NC, changed_NC, task, judged_C)
        planted.append(scores_NC[rows].min(axis=1))
    scores_N = cell_scores(probs_NC, given_NC, task, judged_C).min(axis=1)
    return choose_threshold(scores_N, np.concatenate(planted))


def plant_errors(
    given_NC: Choice,
    task: str,
    count: int,
    random: np.random.Generator,
    *,
    judged_C: Judged | None = None,
    confusion_CC: Floats | None = None,
) -> tuple[Choice, NDArray[np.int64]]:
    """Change the labels of up to `count` random rows; returns all labels and the changed rows.

    Single-label, a random other label, or for every second row, if given, one drawn by
    confusion_CC: [a, b] is the mean probability of label a for rows with label b. Multi-label, a
    label is replaced, removed or added, a third each; new ones by their frequency. judged_C: only
    these labels are removed or added.
    """
    changed_NC = given_NC.copy()
    judged_C = np.ones(given_NC.shape[1], dtype=bool) if judged_C is None else judged_C
    rows = np.flatnonzero((given_NC <= judged_C).all(axis=1))
    rows = random.choice(rows, min(count, len(rows)), replace=False)
    frequency_C = given_NC.mean(axis=0)
    for number, row in enumerate(rows):
        on, off_C = np.flatnonzero(given_NC[row]), ~given_NC[row] & judged_C
        if task == "multi_label":
            kind, weight_C = int(random.integers(3)), frequency_C * off_C
        elif confusion_CC is None or number % 2:
            kind, weight_C = 0, off_C.astype(float)
        else:
            kind, weight_C = 0, confusion_CC[on[0]] * off_C
        if kind < 2 and len(on):
            changed_NC[row, random.choice(on)] = False
        if (kind != 1 or not len(on)) and weight_C.sum():
            changed_NC[row, random.choice(len(off_C), p=weight_C / weight_C.sum())] = True
    return changed_NC, rows


def choose_threshold(scores_N: Floats, planted_M: Floats) -> Reliability:
    """Return the highest threshold that finds MIN_FOUND at an estimated MIN_PRECISION.

    With s(t) the fraction of rows suspected at t and f(t) the fraction of planted errors found,
    and real errors found like planted ones, s(t) = e f(t) + false suspects. The fraction e of
    real errors is thus at most s(t) / f(t), and the precision at t is about e f(t) / s(t). e is
    taken where false suspects are fewest, at the most extreme thresholds; or, if s(t) / f(t)
    hardly rises to thresholds that find nearly all planted errors, where half of them are found.
    One suspect is added to s(t), so that none in a small sample does not mean 0.
    """
    candidates = np.quantile(planted_M, [TAIL_FOUND, MIN_FOUND, NEARLY_ALL], method="higher")
    tail, half, nearly_all = candidates.tolist()

    def ratio(thresholds: Floats) -> Floats:
        suspects = np.searchsorted(np.sort(scores_N), thresholds, side="right")
        found = np.searchsorted(np.sort(planted_M), thresholds, side="right") / len(planted_M)
        return np.asarray((suspects + 1) / len(scores_N) / np.maximum(found, 1e-9))

    thresholds_K = np.unique([*scores_N, *candidates])
    thresholds_K = thresholds_K[thresholds_K < 0]
    ratio_K = ratio(thresholds_K)
    errors = float(ratio_K[thresholds_K >= tail].min(initial=1.0))
    at_half, at_nearly_all = ratio(np.array([half, nearly_all])).tolist()
    if nearly_all < 0 and at_half >= FLAT * at_nearly_all:
        errors = at_half
    precision_K = np.minimum(errors / ratio_K, 1.0)
    finds = np.flatnonzero(thresholds_K >= half)
    chosen = finds[precision_K[finds] >= MIN_PRECISION] if errors <= MAX_ERRORS else finds[:0]
    if len(chosen):
        best = int(chosen[-1])
    elif len(finds):
        best = int(finds[precision_K[finds].argmax()])
    else:
        found = float((planted_M < 0).mean())
        return Reliability(threshold=None, found=found, precision=0.0, errors=errors)
    return Reliability(
        threshold=float(thresholds_K[best]) if len(chosen) else None,
        found=float((planted_M <= thresholds_K[best]).mean()),
        precision=float(precision_K[best]),
        errors=errors,
    )
