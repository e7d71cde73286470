"""Paired bootstrap intervals for differences of macro-F1 and calibration error.

That of macro-F1 is the percentile interval over the rows and two more, one that only the champion
gets right and one that only the candidate does (`serve.stats.paired_difference` does the same):
bundles that differ in few rows or none would otherwise seem equal for certain, although a rare
label could have lost much. It is approximate. The calibration error is biased upwards, and about
twice as much in a resample, so its difference has the basic interval, the quantiles mirrored
about the value (A. C. Davison and D. V. Hinkley 1997, Bootstrap Methods and their Application,
eq. 5.6). `scripts/check_gate` simulates how often it refuses a calibrated candidate.

Both metrics are functions of column sums over rows: of hits, predictions and support per
label, of outcome minus predicted probability per bin. A resample is a weight per row that
applies to both bundles, which is what pairs them.

Shape suffixes: N rows, C labels, K columns, R resamples, S seeds of a configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve.bundle.manifest import Measured
from serve.stats import weighted_bootstrap
from train.statistics.calibration_error import CalibrationError
from train.statistics.metrics import Choice, Floats, f1_macro
from train.statistics.probability_metrics import ece, gap_rows


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """One bundle's predictions on the rows, and the true labels."""

    probabilities_NC: NDArray[np.float32]
    predicted_NC: Choice
    reference_NC: Choice

    @property
    def correct_N(self) -> Choice:
        """Whether a row got exactly its labels."""
        return np.asarray((self.predicted_NC == self.reference_NC).all(axis=1))


@dataclass(frozen=True, kw_only=True)
class MetricChange:
    """A metric of the champion and of the candidate, each the mean over its seeds."""

    champion: float
    candidate: float
    difference: Measured
    """Candidate minus champion, with its interval."""

    candidate_low: float | None = None
    """Lower end, with error alpha, of the candidate's calibration error; None for macro-F1."""


def f1_difference(
    champion: Sequence[Predictions],
    candidate: Sequence[Predictions],
    *,
    alpha: float,
    resamples: int,
    seed: int,
) -> MetricChange:
    """Compare macro-F1. alpha: error of the interval on each side."""
    num_labels = candidate[0].reference_NC.shape[1]

    def columns(side: Predictions) -> Floats:
        hit_NC = side.predicted_NC & side.reference_NC
        return np.hstack([hit_NC, side.predicted_NC, side.reference_NC]).astype(np.float64)

    def value(sums: Floats) -> Floats:
        hit, predicted, support = np.split(sums, [num_labels, 2 * num_labels], axis=-1)
        return f1_macro(hit, predicted, support)

    sides = [[columns(each) for each in side] for side in (champion, candidate)]
    lost_2K = _disagreement(candidate[0].reference_NC)
    return _difference(
        sides,
        value,
        alpha=alpha,
        resamples=resamples,
        seed=seed,
        pseudo=(lost_2K, lost_2K[::-1]),
    )


def _disagreement(reference_NC: Choice) -> Floats:
    """Return the columns of `f1_difference` for an average row, (2, K): wrong, and right.

    Wrong is one decision of the row: another label in place of the true one or, where a row may
    have any number of labels, one too few or too many.
    """
    support_C = reference_NC.mean(axis=0)
    labels = len(support_C)
    if (reference_NC.sum(axis=1) == 1).all():
        hit_C, predicted_C = 0 * support_C, (1 - support_C) / (labels - 1)
    else:
        hit_C = support_C * (1 - 1 / labels)
        predicted_C = hit_C + (1 - support_C) / labels
    return np.array(
        [
            np.concatenate([hit_C, predicted_C, support_C]),
            np.concatenate([support_C, support_C, support_C]),
        ]
    )


def ece_difference(
    champion: Sequence[Predictions],
    candidate: Sequence[Predictions],
    *,
    task: str,
    alpha: float,
    resamples: int,
    seed: int,
) -> MetricChange:
    """Compare the expected calibration error. alpha: error of the interval on each side.

    `candidate_low` is the mean over the candidate's seeds.
    """
    num_rows, num_labels = candidate[0].reference_NC.shape
    num_predictions = num_rows * (num_labels if task == "multi_label" else 1)

    def columns(side: Predictions) -> Floats:
        return gap_rows(side.reference_NC, side.probabilities_NC, task)

    def value(sums: Floats) -> Floats:
        return ece(sums, num_predictions)

    sides = [[columns(each) for each in side] for side in (champion, candidate)]
    found = _difference(sides, value, alpha=alpha, resamples=resamples, seed=seed)
    difference = found.difference
    assert difference.low is not None
    assert difference.high is not None
    low, high = (2 * difference.value - end for end in (difference.high, difference.low))
    lows = [
        CalibrationError(gap_NB, num_predictions, seed=seed).interval(2 * alpha)[0]
        for gap_NB in sides[1]
    ]
    return MetricChange(
        champion=found.champion,
        candidate=found.candidate,
        difference=Measured(value=difference.value, low=low, high=high),
        candidate_low=float(np.mean(lows)),
    )


def _difference(
    sides: Sequence[Sequence[Floats]],
    value: Callable[[Floats], Floats],
    *,
    alpha: float,
    resamples: int,
    seed: int,
    pseudo: tuple[Floats, Floats] | None = None,
) -> MetricChange:
    """Bootstrap over rows, and over the seeds of each side where it has several.

    sides: champion and candidate, for each seed the columns, (N, K), whose sums `value` takes.
    pseudo: for champion and candidate the columns of rows that are resampled with the others.
    Source for resampling two ways at once: A. B. Owen and D. Eckles (2012), Bootstrapping
    data arrays of arbitrary order, Annals of Applied Statistics 6, 895-927.
    """
    generator = np.random.default_rng([seed, 1])

    def resampled(weights_NR: Floats) -> Floats:
        means = []
        for side in sides:
            values_SR = np.stack([value(weights_NR.T @ columns_NK) for columns_NK in side])
            chosen_SR = generator.integers(0, len(side), values_SR.shape)
            means.append(np.take_along_axis(values_SR, chosen_SR, axis=0).mean(axis=0))
        return np.asarray(means[1] - means[0])[:, None]

    champion, candidate = (
        float(np.mean([value(columns_NK.sum(axis=0)) for columns_NK in side])) for side in sides
    )
    if pseudo is not None:
        sides = [
            [np.vstack([columns_NK, rows]) for columns_NK in side]
            for side, rows in zip(sides, pseudo, strict=True)
        ]
    interval_21 = weighted_bootstrap(
        resampled, len(sides[0][0]), seed=seed, resamples=resamples, alpha=2 * alpha
    )
    low, high = interval_21[:, 0].tolist()
    difference = Measured(value=candidate - champion, low=low, high=high)
    return MetricChange(champion=champion, candidate=candidate, difference=difference)
