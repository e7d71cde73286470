"""Advice before training, each with the figures that it rests on. Pure.

Advice is given only where the training rows themselves show it: cross-fitted probes show what class
weights trade, and which labels are confused.

Shape suffixes: N rows, D features, C labels, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from serve.stats import weighted_bootstrap, wilson
from train.audit.label_errors import Floats, cross_fit
from train.config.data import DataConfig
from train.config.run import LossSection, RunConfig
from train.data.rows import SplitName
from train.model.loss import make_loss
from train.statistics.metrics import Choice

MIN_RATIO = 3.0
"""Rows of the most frequent label divided by those of the rarest, from which weights are tried."""

ROWS_FOR_TEN_POINTS = 93
"""Test rows with which Wilson's 95 % interval of a recall is never wider than ±10 points."""

MIN_TEST_ROWS = 10
"""Labels with fewer test rows get advice: the interval of a recall of one half is ±26 points."""

MIN_CONFUSED = 0.2
MIN_BOTH = 3
"""Fraction of the rows of two labels that are taken for each other, by the lower end of its 95 %
interval, and rows of each, from which merging them is advised."""

MIN_ACCURACY = 0.5
"""Probes that are right less often know too little of the labels to advise on them."""


@dataclass(frozen=True, kw_only=True)
class Advice:
    """One thing to do."""

    kind: str
    text: str
    settings: tuple[str, ...]
    """Overrides that do it; empty if it is not a matter of the configuration."""

    figures: dict[str, Any]


def shared_texts(count: int) -> Iterator[Advice]:
    """Advise to drop rows of which the text is in another split."""
    if count:
        yield Advice(
            kind="shared_texts",
            text=(
                f"{count} rows have a text that is in another split as well, so metrics come out "
                "too high: review fixes.jsonl, which drops them, and set data.fixes to the copy"
            ),
            settings=(),
            figures={"rows": count},
        )


def more_rows(counts: Mapping[str, Mapping[SplitName, int]], data: DataConfig) -> Iterator[Advice]:
    """Advise to add rows of labels whose recall can hardly be measured."""
    few = {label: each["test"] for label, each in counts.items() if each["test"] < MIN_TEST_ROWS}
    if not few:
        return
    worst = sorted(few, key=lambda label: (few[label], label))
    shown = ", ".join(f"{label[:40]!r} ({few[label]})" for label in worst[:3])
    more = f" and {len(worst) - 3} more" if len(worst) > 3 else ""
    lacking = ROWS_FOR_TEN_POINTS - few[worst[0]]
    needed = f"{lacking} more test rows"
    if data.test is None:
        rows = math.ceil(lacking / data.test_fraction)
        needed = f"about {rows} more rows ({lacking} of them get into test)"
    yield Advice(
        kind="more_rows",
        text=(
            f"{len(few)} labels have fewer than {MIN_TEST_ROWS} test rows, so their recall is "
            f"hardly measured: {shown}{more}; {needed} of {worst[0][:40]!r} would measure it "
            "within ±10 points"
        ),
        settings=(),
        figures={"test_rows": few, "rows_for_ten_points": ROWS_FOR_TEN_POINTS},
    )


def balanced_probs(
    features_ND: Floats, given_NC: Choice, config: RunConfig, *, folds: int, seed: int
) -> Floats | None:
    """Fit the probes with balanced weights; None for several labels, or labels as frequent.

    The thresholds of a multi-label model make up for rare labels, so weights are not tried.
    """
    count_C = given_NC.sum(axis=0)
    if config.task == "multi_label" or config.loss.class_weights is not None:
        return None
    if count_C.max() < MIN_RATIO * count_C.min() or len(given_NC) < 2 * folds:
        return None
    names = [str(c) for c in range(given_NC.shape[1])]
    rows = [(names[c],) for c in given_NC.argmax(axis=1)]
    section = LossSection(class_weights="balanced")
    weights_C = make_loss(section, config.task, names, rows).weights_C
    return cross_fit(
        features_ND, given_NC, config.task, folds=folds, seed=seed, weights_C=weights_C
    ).probs_NC


def class_weights(
    given_NC: Choice, probs_NC: Floats, balanced_NC: Floats, labels: Sequence[str], seed: int
) -> Iterator[Advice]:
    """State what balanced weights trade, if they raise the recall of the rarest label.

    That is shown by cross-fitted probes and a paired bootstrap over the rows, 95 %; the probes must
    also be shown to know more than guesses, by a mean recall above 1 / C. It is no promise of a
    higher macro-F1: on held-out rows that hardly changes, recall is paid for with precision.
    """
    plain_NC, weighted_NC = _best(probs_NC), _best(balanced_NC)
    count_C = given_NC.sum(axis=0)
    rarest = int(count_C.argmin())

    def gain(weights_NR: Any) -> Any:
        support_RC = np.maximum(weights_NR.T @ given_NC, 1)
        before_RC, after_RC = (
            weights_NR.T @ (given_NC & each) / support_RC for each in (plain_NC, weighted_NC)
        )
        more_R = (after_RC - before_RC)[:, rarest]
        return np.stack([more_R, after_RC.mean(axis=1) - 1 / given_NC.shape[1]], axis=1)

    ends_2K = weighted_bootstrap(gain, len(given_NC), seed=seed)
    if not (ends_2K[0] > 0).all():
        return
    recall = [float(each[given_NC[:, rarest], rarest].mean()) for each in (plain_NC, weighted_NC)]
    accuracy = [float((each & given_NC).any(axis=1).mean()) for each in (plain_NC, weighted_NC)]
    ratio = float(count_C.max() / count_C.min())
    low, high = ends_2K[:, 0].tolist()
    instead = (
        ", or choose a decision threshold after the training (calibration.objective)"
        if len(labels) == 2
        else ""
    )
    yield Advice(
        kind="class_weights",
        text=(
            f"labels differ in rows by a factor of {ratio:.1f}: loss.class_weights=balanced moves "
            f"the recall of {labels[rarest][:40]!r} from {recall[0]:.2f} to {recall[1]:.2f} "
            f"({low:+.2f} to {high:+.2f}) and accuracy from {accuracy[0]:.3f} to "
            f"{accuracy[1]:.3f}, by cross-fitted probes; set it if that recall matters more"
            + instead
        ),
        settings=("loss.class_weights=balanced",),
        figures={
            "ratio": ratio,
            "rarest": labels[rarest],
            "recall": recall,
            "interval": [low, high],
            "accuracy": accuracy,
        },
    )


def merge_labels(given_NC: Choice, probs_NC: Floats, labels: Sequence[str]) -> Iterator[Advice]:
    """Advise to merge, or define better, two labels that the probes take for each other."""
    best_NC = _best(probs_NC)
    if len(labels) < 3 or (best_NC & given_NC).any(axis=1).mean() < MIN_ACCURACY:
        return
    matrix_CC = given_NC.T.astype(int) @ best_NC  # true label, predicted label
    found = []
    for a in range(len(labels)):
        for b in range(a + 1, len(labels)):
            rows = int(matrix_CC[a].sum() + matrix_CC[b].sum())
            each = int(matrix_CC[a, b]), int(matrix_CC[b, a])
            if min(each) >= MIN_BOTH and wilson(sum(each), rows)[0] >= MIN_CONFUSED:
                found.append((sum(each) / rows, rows, a, b))
    for share, rows, a, b in sorted(found, reverse=True):
        rarer, other = sorted((a, b), key=lambda c: int(given_NC[:, c].sum()))
        yield Advice(
            kind="merge_labels",
            text=(
                f"{labels[a][:40]!r} and {labels[b][:40]!r} are taken for each other in "
                f"{share:.0%} of their {rows} training rows: define them better, or merge them "
                "by data.label_map if the difference does not matter"
            ),
            settings=(f"data.label_map.{labels[rarer]}={labels[other]}",),
            figures={"labels": [labels[a], labels[b]], "share": share, "rows": rows},
        )


def _best(probs_NC: Floats) -> Choice:
    best_N = np.asarray(probs_NC).argmax(axis=1)
    return np.asarray(np.arange(probs_NC.shape[1]) == best_N[:, None])
