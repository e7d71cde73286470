"""Which validation rows choose what.

All of them chose the checkpoint. Rows that test a guarantee fit nothing that it rests on, so
where one is wanted the hash of each text gives it one of up to three roles. F1 and costs
promise nothing, and a guaranteed recall rests on the order of the scores alone, which a
temperature keeps: these may use the rows that fit.

Shape suffix: N rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from train.config.sections import CalibrationSection
from train.statistics.metrics import Choice
from train.statistics.selective import PILOT_SHARE, pilot_rows

DECISION_SHARE = (1 + PILOT_SHARE) / 2
"""Fraction of the rows that do not test abstention where two guarantees are wanted: the rows
beside the pilot are divided equally."""


@dataclass(frozen=True, kw_only=True)
class Roles:
    """The validation rows that choose what, each (N,)."""

    fit_N: Choice
    """Fit temperature and label thresholds; and decide where tests start."""
    decide_N: Choice
    """Choose a decision threshold or, for a guaranteed precision, test it."""
    abstain_N: Choice
    """Test the abstention threshold."""

    @property
    def note(self) -> str:
        """Which rows chose what, in one sentence."""
        n, fit = len(self.fit_N), int(self.fit_N.sum())
        if fit == n:
            return (
                f"fitted on {n} validation rows, which also selected the checkpoint: "
                "rely on the metrics on the test split"
            )
        decide, abstain = (
            int((each_N & ~self.fit_N).sum()) for each_N in (self.decide_N, self.abstain_N)
        )
        tests = {"decision": decide, "abstention": abstain}
        shown = " and ".join(
            f"{count} tested the {name} threshold" for name, count in tests.items() if count
        )
        return (
            f"fitted on {fit} of {n} validation rows; the other {shown} and fitted nothing. All "
            "of them selected the checkpoint, which the guarantee allows for; settings that were "
            "tuned on these rows it does not allow for: rely on the metrics on the test split"
        )


def assign_roles(texts: Sequence[object], section: CalibrationSection) -> Roles:
    """Give each validation row its role, equal texts the same."""
    all_N = np.ones(len(texts), dtype=bool)
    if section.max_risk is None and section.min_precision is None:
        return Roles(fit_N=all_N, decide_N=all_N, abstain_N=~all_N)
    pilot_N = pilot_rows(texts)
    if section.max_risk is None:
        return Roles(fit_N=pilot_N, decide_N=~pilot_N, abstain_N=~all_N)
    if section.min_precision is None and section.min_recall is None:
        return Roles(fit_N=pilot_N, decide_N=pilot_N, abstain_N=~pilot_N)
    decide_N = pilot_rows(texts, DECISION_SHARE)
    return Roles(
        fit_N=pilot_N,
        decide_N=decide_N if section.min_precision is None else decide_N & ~pilot_N,
        abstain_N=~decide_N,
    )


def fitting_rows(texts: Sequence[object], section: CalibrationSection) -> Choice:
    """Choose the validation rows that fit temperature and label thresholds, (N,)."""
    return assign_roles(texts, section).fit_N
