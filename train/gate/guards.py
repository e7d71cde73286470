"""Guards that can refuse a candidate whose accuracy is good enough.

A guard can only refuse, so none of them adds to the rate of false promotions that
`train.statistics.comparison` bounds. There are four kinds of rule, by how precisely the
value can be measured:

- macro-F1 must be shown not to drop by `f1_margin` (the lower end of an interval);
- no label's recall may drop by significantly more than `max_recall_drop` (one label has few
  rows, so only a significant drop refuses, corrected for the number of labels);
- the calibration error, and its increase, may not be shown to be over their limits: that of a
  small test set is mostly chance, so only the lower end of an interval refuses;
- latency, and the recall and precision of labels that the champion does not know, have limits,
  compared with the measured value.

Shape suffixes: N rows, C labels, K hypotheses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve.bundle.manifest import Measured
from serve.config import FrozenModel
from train.statistics.paired import exact_p_value
from train.statistics.resampling import MetricChange, Predictions
from train.statistics.score_intervals import proportion_ends


class Check(FrozenModel):
    """Result of one guard."""

    name: str
    """What was checked."""

    passed: bool
    """Whether the candidate passes it."""

    value: float
    """The measured value that is compared with the limit."""

    limit: float
    """The limit, in the unit of the value."""

    detail: str
    """The figures in words, and what to do if it refuses."""

    champion: float | None = None
    """The metric of the champion; null where the guard compares no metric."""

    candidate: float | None = None
    """The metric of the candidate."""

    difference: Measured | None = None
    """Candidate minus champion, with its interval."""


def finite_check(side: Sequence[Predictions]) -> Check:
    """Refuse scores that are not finite, as damaged weights give them."""
    bad = sum(int((~np.isfinite(each.probabilities_NC).all(axis=1)).sum()) for each in side)
    return Check(
        name="finite scores",
        passed=bad == 0,
        value=bad,
        limit=0,
        detail=f"texts with scores that are not finite: {bad}",
    )


def rows_check(rows: int, min_rows: int) -> Check:
    """Refuse to decide on fewer rows than the configuration requires."""
    return Check(
        name="test rows",
        passed=rows >= min_rows,
        value=rows,
        limit=min_rows,
        detail=f"{rows:,} test rows; at least {min_rows:,} are required (gate.min_test_rows)",
    )


def f1_check(change: MetricChange, *, margin: float) -> Check:
    """Require that the interval of the macro-F1 difference is above -margin."""
    low = change.difference.low
    assert low is not None
    return Check(
        name="macro-F1",
        passed=low > -margin,
        value=low,
        limit=-margin,
        detail=f"{_figures(change)} (approximate); the lower end must be above {-margin:+.4f}; "
        "more test rows narrow it (gate.f1_margin)",
        champion=change.champion,
        candidate=change.candidate,
        difference=change.difference,
    )


def calibration_checks(
    change: MetricChange, *, max_ece: float | None, max_increase: float
) -> list[Check]:
    """Refuse if the expected calibration error, or its increase, is shown to be over its limit."""
    increase = change.difference.low
    assert increase is not None
    assert change.candidate_low is not None
    checks = [
        Check(
            name="calibration error increase",
            passed=increase <= max_increase,
            value=increase,
            limit=max_increase,
            detail=f"{_figures(change)}; refused if the lower end is over {max_increase:+.4f}"
            + _not_shown(change.difference.value, increase, max_increase),
            champion=change.champion,
            candidate=change.candidate,
            difference=change.difference,
        )
    ]
    if max_ece is not None:
        checks.append(
            Check(
                name="calibration error",
                passed=change.candidate_low <= max_ece,
                value=change.candidate_low,
                limit=max_ece,
                detail=f"{change.candidate:.4f}, at least {change.candidate_low:.4f} beyond what "
                f"chance shows; refused if that is over {max_ece:.4f}"
                + _not_shown(change.candidate, change.candidate_low, max_ece),
            )
        )
    return checks


def _not_shown(observed: float, low: float, limit: float) -> str:
    """State that a value over the limit was let through."""
    over = observed > limit >= low
    return (
        "; the observed value is over it, which these rows do not show to be true" if over else ""
    )


def latency_check(champion_s: float, candidate_s: float, max_ratio: float) -> Check:
    """Compare the ratio of median times of a single text with its limit."""
    ratio = candidate_s / champion_s
    return Check(
        name="latency",
        passed=ratio <= max_ratio,
        value=ratio,
        limit=max_ratio,
        detail=f"median for one text {candidate_s * 1e3:.2f} ms, champion "
        f"{champion_s * 1e3:.2f} ms: {ratio:.2f} times; at most {max_ratio:.2f} is allowed",
    )


def holm(p_K: NDArray[np.float64], alpha: float) -> NDArray[np.bool_]:
    """Which hypotheses Holm's procedure rejects at a family-wise error of at most alpha.

    Valid under any dependence between the tests.
    Source: S. Holm (1979), A simple sequentially rejective multiple test procedure,
    Scandinavian Journal of Statistics 6, 65-70.
    """
    order_K = np.argsort(p_K, kind="stable")
    allowed_K = alpha / np.arange(len(p_K), 0, -1)
    over_K = p_K[order_K] > allowed_K
    count = int(over_K.argmax()) if over_K.any() else len(p_K)
    rejected_K = np.zeros(len(p_K), dtype=bool)
    rejected_K[order_K[:count]] = True
    return rejected_K


def recall_check(
    champion: Sequence[Predictions],
    candidate: Sequence[Predictions],
    labels: Sequence[str],
    *,
    max_drop: float,
    alpha: float,
) -> Check:
    """Refuse if the recall of any label drops by significantly more than `max_drop`.

    Per label an exact test on its own rows (`exact_p_value`), over all labels Holm's
    procedure: a candidate none of whose recalls drops by more than `max_drop` is refused with
    probability at most alpha. With several seeds a label's p-value is twice the mean over
    pairs of bundles, which is a p-value under any dependence (L. Rueschendorf 1982, Random
    variables with maximum sums, Advances in Applied Probability 14, 623-632), for the
    hypothesis that the recall drops too far in no pair.
    """
    pairs = list(zip([*champion] * (len(candidate) // len(champion)), candidate, strict=True))
    reference_NC = candidate[0].reference_NC
    support_C = reference_NC.sum(axis=0)
    present = [c for c in range(len(labels)) if support_C[c]]
    drops, p_values = [], []
    for c in present:
        rows = reference_NC[:, c]
        counts = [_counts(old.predicted_NC[rows, c], new.predicted_NC[rows, c])
                  for old, new in pairs]  # fmt: skip
        drops.append(float(np.mean([lost - gained for gained, lost in counts])) / support_C[c])
        each = [_drop_p_value(*count, int(support_C[c]), max_drop) for count in counts]
        p_values.append(min(1.0, float(np.mean(each)) * (2 if len(each) > 1 else 1)))
    significant = holm(np.array(p_values), alpha)
    worst = sorted(range(len(present)), key=lambda k: -drops[k])[:3]
    changes = ", ".join(f"{labels[present[k]]} {0.0 - drops[k]:+.3f}" for k in worst)
    named = ", ".join(labels[present[k]] for k in np.flatnonzero(significant))
    # A label that lost all of its n rows has p-value q^n, where q = (1 + max_drop) / 2 is the
    # largest probability of losing a row under the hypothesis.
    needed = math.ceil(math.log(alpha / len(present)) / math.log((1 + max_drop) / 2))
    too_few = sum(int(support_C[c]) < needed for c in present)
    return Check(
        name="per-label recall",
        passed=not significant.any(),
        value=max(drops),
        limit=max_drop,
        detail=(f"significant drop of more than {max_drop:.3f}: {named}; " if named else "")
        + f"worst observed changes: {changes}; {too_few} of {len(present)} labels have too few "
        f"rows (fewer than {needed}) to detect even a complete loss of recall",
    )


def _counts(old_N: NDArray[np.bool_], new_N: NDArray[np.bool_]) -> tuple[int, int]:
    return int((new_N & ~old_N).sum()), int((old_N & ~new_N).sum())


def new_label_checks(
    reference_NC: NDArray[np.bool_],
    predicted_SNC: NDArray[np.bool_],
    labels: Sequence[str],
    *,
    min_recall: float,
    min_precision: float,
) -> list[Check]:
    """Refuse labels that only the candidate knows if it finds too few of their rows.

    reference_NC, predicted_SNC: on all test rows, one column per such label; of S seeds the mean
    counts. A label without test rows is refused: nothing is known of it.
    """
    hits_C = (predicted_SNC & reference_NC).sum(axis=1).mean(axis=0)
    support_C = reference_NC.sum(axis=0)
    chosen_C = predicted_SNC.sum(axis=1).mean(axis=0)
    return [
        _floor_check("recall", hits_C, support_C, labels, min_recall),
        _floor_check("precision", hits_C, chosen_C, labels, min_precision),
    ]


def _floor_check(
    kind: str, hits_C: Any, trials_C: Any, labels: Sequence[str], floor: float
) -> Check:
    values_C = hits_C / np.maximum(trials_C, 1)
    figures = []
    for c in np.argsort(values_C, kind="stable")[:3]:
        of = f"{hits_C[c]:g} of {trials_C[c]:g}"
        if trials_C[c]:
            low, high = proportion_ends(values_C[c], np.array(float(trials_C[c])))
            of += f", 95 % interval {float(low):.2f} to {float(high):.2f}"
        figures.append(f"{labels[c]} {values_C[c]:.3f} ({of})")
    unknown = "test rows" if kind == "recall" else "predictions"
    none = [label for label, trials in zip(labels, trials_C, strict=True) if not trials]
    return Check(
        name=f"{kind} of new labels",
        passed=bool((values_C >= floor).all()),
        value=float(values_C.min()),
        limit=floor,
        detail=(f"no {unknown} of {', '.join(none)}; " if none else "")
        + f"lowest: {', '.join(figures)}; at least {floor:.3f} is required "
        f"(gate.min_new_{kind})",
    )


def _drop_p_value(gained: int, lost: int, rows: int, max_drop: float) -> float:
    """p-value that recall drops by at most `max_drop`; 1 where the observed drop is no larger."""
    return exact_p_value(lost, gained, rows, max_drop) if lost - gained > max_drop * rows else 1.0


def _figures(change: MetricChange) -> str:
    return (
        f"{change.candidate:.4f}, champion {change.champion:.4f}, "
        f"difference {change.difference:+.4f}"
    )
