"""What else may stop a candidate whose accuracy is good enough.

Every guard can only refuse, so none of them adds to the rate of false promotions that
`train.statistics.comparison` bounds. There are three kinds of rule, each as strict as its
figure is certain:

- macro-F1 must be shown not to fall by `f1_margin` (the lower end of an interval);
- a label's recall must not be shown to fall by more than `max_recall_drop` (rows of one
  label are few, so a fall is refused once it is proved, over all labels together);
- calibration and latency are budgets, held against what was measured.

Shape suffixes: N rows, C labels, K hypotheses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve.config import FrozenModel
from train.statistics.paired import exact_p_value
from train.statistics.resampling import (
    Answers,
    Bootstrap,
    Difference,
    ece_difference,
    f1_difference,
)


class Check(FrozenModel):
    """What one guard found."""

    name: str
    """What was looked at."""

    passed: bool
    """Whether it lets the candidate pass."""

    value: float
    """The figure that is held against the limit."""

    limit: float
    """The limit, in the unit of the value."""

    detail: str
    """The figures in words, and what to do where it refuses."""


def finite_check(answers: Sequence[Answers]) -> Check:
    """Refuse scores that are no numbers, as of a model whose weights were damaged."""
    bad = sum(int((~np.isfinite(each.probabilities_NC).all(axis=1)).sum()) for each in answers)
    return Check(
        name="finite scores",
        passed=bad == 0,
        value=bad,
        limit=0,
        detail=f"texts with scores that are not finite: {bad}",
    )


def rows_check(rows: int, least: int) -> Check:
    """Refuse to decide on fewer rows than the configuration asks for."""
    return Check(
        name="test rows",
        passed=rows >= least,
        value=rows,
        limit=least,
        detail=f"{rows:,} test rows, at least {least:,} are asked for (gate.min_test_rows)",
    )


def f1_check(
    champion: Sequence[Answers], candidate: Sequence[Answers], bootstrap: Bootstrap, *,
    margin: float,
) -> Check:  # fmt: skip
    """Ask that macro-F1 is shown to fall by less than `margin`, at the bootstrap's alpha."""
    found = f1_difference(champion, candidate, bootstrap)
    return Check(
        name="macro-F1",
        passed=found.low > -margin,
        value=found.low,
        limit=-margin,
        detail=f"{_change(found)}; the lower end must be over {-margin:+.4f}",
    )


def calibration_checks(
    champion: Sequence[Answers],
    candidate: Sequence[Answers],
    bootstrap: Bootstrap,
    *,
    task: str,
    max_ece: float | None,
    max_increase: float,
) -> list[Check]:
    """Hold the expected calibration error, and its rise, against their limits."""
    found = ece_difference(champion, candidate, bootstrap, task=task)
    increase = found.candidate - found.champion
    checks = [
        Check(
            name="calibration error rises",
            passed=increase <= max_increase,
            value=increase,
            limit=max_increase,
            detail=f"{_change(found)}; the rise may be up to {max_increase:.4f}",
        )
    ]
    if max_ece is not None:
        checks.append(
            Check(
                name="calibration error",
                passed=found.candidate <= max_ece,
                value=found.candidate,
                limit=max_ece,
                detail=f"{found.candidate:.4f}, up to {max_ece:.4f} is allowed",
            )
        )
    return checks


def latency_check(champion_s: float, candidate_s: float, max_ratio: float) -> Check:
    """Hold the ratio of median times of a single text against its limit."""
    ratio = candidate_s / champion_s
    return Check(
        name="latency",
        passed=ratio <= max_ratio,
        value=ratio,
        limit=max_ratio,
        detail=f"median of one text {candidate_s * 1e3:.2f} ms, champion {champion_s * 1e3:.2f} "
        f"ms: {ratio:.2f} times, up to {max_ratio:.2f} is allowed",
    )


def holm(p_K: NDArray[np.float64], alpha: float) -> NDArray[np.bool_]:
    """Which hypotheses are refuted; the chance of refuting any true one is at most alpha.

    This bounds the family-wise error, under any dependence between the tests.
    Source: S. Holm (1979), A simple sequentially rejective multiple test procedure,
    Scandinavian Journal of Statistics 6, 65-70.
    """
    order_K = np.argsort(p_K, kind="stable")
    allowed_K = alpha / np.arange(len(p_K), 0, -1)
    over_K = p_K[order_K] > allowed_K
    count = int(over_K.argmax()) if over_K.any() else len(p_K)
    refuted_K = np.zeros(len(p_K), dtype=bool)
    refuted_K[order_K[:count]] = True
    return refuted_K


def floor_check(
    champion: Sequence[Answers],
    candidate: Sequence[Answers],
    labels: Sequence[str],
    *,
    drop: float,
    alpha: float,
) -> Check:
    """Refuse if the recall of any label is shown to have fallen by more than `drop`.

    Per label an exact test on its own rows (`exact_p_value`), over all labels Holm's
    procedure: the chance of refusing a candidate none of whose recalls falls by more than
    `drop` is at most alpha. With several seeds a label's p-value is twice the mean over
    pairs of bundles, which is a p-value under any dependence (L. Rueschendorf 1982, Random
    variables with maximum sums, Advances in Applied Probability 14, 623-632), for the
    hypothesis that it falls too far under no pair.
    """
    pairs = list(zip([*champion] * (len(candidate) // len(champion)), candidate, strict=True))
    reference_NC = candidate[0].reference_NC
    support_C = reference_NC.sum(axis=0)
    present = [c for c in range(len(labels)) if support_C[c]]
    falls, p_values = [], []
    for c in present:
        rows = reference_NC[:, c]
        counts = [_counts(old.predicted_NC[rows, c], new.predicted_NC[rows, c])
                  for old, new in pairs]  # fmt: skip
        falls.append(float(np.mean([lost - gained for gained, lost in counts])) / support_C[c])
        each = [_p_of_fall(*count, int(support_C[c]), drop) for count in counts]
        p_values.append(min(1.0, float(np.mean(each)) * (2 if len(each) > 1 else 1)))
    fallen = holm(np.array(p_values), alpha)
    worst = sorted(range(len(present)), key=lambda k: -falls[k])[:3]
    shown = ", ".join(f"{labels[present[k]]} {0.0 - falls[k]:+.3f}" for k in worst)
    named = ", ".join(labels[present[k]] for k in np.flatnonzero(fallen))
    # A label all of whose rows were lost has this p-value: lost with probability (1 + drop) / 2.
    least = math.ceil(math.log(alpha / len(present)) / math.log((1 + drop) / 2))
    blind = sum(int(support_C[c]) < least for c in present)
    return Check(
        name="recall of each label",
        passed=not fallen.any(),
        value=max(falls),
        limit=drop,
        detail=(f"shown to fall by more than {drop:.3f}: {named}; " if named else "")
        + f"worst observed changes: {shown}; {blind} of {len(present)} labels have fewer than the "
        f"{least} rows on which a loss of all could be shown",
    )


def _counts(old_N: NDArray[np.bool_], new_N: NDArray[np.bool_]) -> tuple[int, int]:
    return int((new_N & ~old_N).sum()), int((old_N & ~new_N).sum())


def _p_of_fall(gained: int, lost: int, rows: int, drop: float) -> float:
    """p-value that recall falls by at most `drop`; 1 where it was not seen to fall by more."""
    return exact_p_value(lost, gained, rows, drop) if lost - gained > drop * rows else 1.0


def _change(found: Difference) -> str:
    change: Any = found.candidate - found.champion
    return (
        f"{found.candidate:.4f}, champion {found.champion:.4f}, difference {change:+.4f} "
        f"[{found.low:+.4f}, {found.high:+.4f}]"
    )
