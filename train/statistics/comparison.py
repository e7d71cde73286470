"""Is the candidate better than the champion, as good, worse, or can these rows not tell?

Decides the verdict on accuracy; it is the only part of the gate that can let a candidate
pass, the guards of `train.gate.guards` can only refuse one. Pure: arrays of right and wrong
answers in, a `Decision` out, so that its error rates can be simulated (`scripts/check_gate`).

One candidate against one champion, both fixed: the true difference is over all texts that
the test rows are a sample of.

- Superior: the exact one-sided McNemar test at alpha refutes that the candidate is no better.
- Non-inferior: the score test at an exact critical value refutes that it is worse by `margin`
  or more.
- Superiority is only looked at where non-inferiority holds, so both can be tested at alpha
  each without a correction: a fixed sequence is a closed testing procedure. Source:
  T. Morikawa and M. Yoshida (1995), A useful testing strategy in phase III trials: combined
  test of superiority and test of equivalence, J. of Biopharmaceutical Statistics 5, 297-306.
- Inferior: neither, and McNemar's test the other way round says that it is worse.

So a candidate whose true difference is 0 or less is called superior with probability at most
alpha, and one whose true difference is -margin or less is called superior or non-inferior
with probability at most alpha: for every N, accuracy and amount of disagreement.

Shape suffixes: N examples, S bundles of the candidate, H of the champion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from train.statistics.paired import exact_critical, mcnemar, score, score_interval

Outcome = NDArray[np.bool_]
Verdict = Literal["superior", "non_inferior", "inferior", "inconclusive"]
Requirement = Literal["superior", "non_inferior"]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What is known of the difference of accuracies, candidate minus champion."""

    verdict: Verdict
    rows: int
    difference: float
    """As observed, a fraction."""
    low: float
    """Lower end of the interval with error alpha on each side."""
    high: float
    """Upper end."""
    gained: float
    """Share of rows that the candidate alone gets right; over seeds, the mean over pairs."""
    lost: float
    """Share of rows that the champion alone gets right."""
    p_superior: float
    """One-sided p-value of "the candidate is no better"."""
    p_inferior: float
    """One-sided p-value of "the candidate is no worse"."""
    covers: str
    """Which variation the error rate covers."""

    @property
    def discordance(self) -> float:
        """Share of rows that only one gets right, with half a row more on either side."""
        return ((self.gained + self.lost) * self.rows + 1) / (self.rows + 2)


def promotes(verdict: Verdict, require: Requirement) -> bool:
    """Whether a verdict is enough."""
    return verdict == "superior" or verdict == require


def decide(champion: Outcome, candidate: Outcome, *, alpha: float, margin: float) -> Decision:
    """Judge the candidate on the rows that both answered.

    champion, candidate: True where right; shape (N,), or (H, N) and (S, N) for several seeds
    of a configuration each, see `_decide_over_seeds`. alpha: one-sided error in (0, 0.5).
    margin: in (0, 1). Raises ValueError for other numbers and for shapes that are no pairs.
    """
    champion_HN, candidate_SN = np.atleast_2d(champion), np.atleast_2d(candidate)
    num_champions, num_candidates = len(champion_HN), len(candidate_SN)
    if champion_HN.shape[1] != candidate_SN.shape[1] or champion_HN.shape[1] == 0:
        raise ValueError(f"{champion.shape} and {candidate.shape} are not pairs of outcomes")
    if not 0 < alpha < 0.5 or not 0 < margin < 1:
        raise ValueError(
            f"alpha {alpha} and margin {margin}: expected 0 < alpha < 0.5 and 0 < margin < 1"
        )
    if num_champions == num_candidates == 1:
        gained = int((candidate_SN & ~champion_HN).sum())
        lost = int((champion_HN & ~candidate_SN).sum())
        return _decide_pair(champion_HN.shape[1], gained, lost, alpha, margin)
    if num_champions not in (1, num_candidates):
        raise ValueError(
            f"{num_candidates} candidates and {num_champions} champions: give as many champions "
            "as candidates, or one"
        )
    return _decide_over_seeds(champion_HN, candidate_SN, alpha, margin)


@lru_cache(maxsize=65536)
def _decide_pair(n: int, gained: int, lost: int, alpha: float, margin: float) -> Decision:
    critical = exact_critical(n, -margin, alpha)
    low, high = score_interval(gained, lost, n, critical)
    p_superior, p_inferior = mcnemar(gained, lost), mcnemar(lost, gained)
    return Decision(
        verdict=_verdict(
            non_inferior=bool(score(gained, lost, n, -margin) >= critical),
            better=p_superior <= alpha,
            worse=p_inferior <= alpha,
        ),
        rows=n,
        difference=(gained - lost) / n,
        low=low,
        high=high,
        gained=gained / n,
        lost=lost / n,
        p_superior=p_superior,
        p_inferior=p_inferior,
        covers="the choice of test rows, for these very bundles",
    )


def _verdict(*, non_inferior: bool, better: bool, worse: bool) -> Verdict:
    if non_inferior:
        return "superior" if better else "non_inferior"
    return "inferior" if worse else "inconclusive"


def _decide_over_seeds(
    champion_HN: Outcome, candidate_SN: Outcome, alpha: float, margin: float
) -> Decision:
    """Judge a configuration by S of its seeds, against H seeds of the champion's, or against it.

    The difference of mean correctness varies with the rows and with the seeds. Both variances
    are added; what rows and seeds do together is thereby counted twice, which errs on the
    safe side, as in the product bootstrap of A. B. Owen and D. Eckles (2012), Bootstrapping
    data arrays of arbitrary order, Annals of Applied Statistics 6, 895-927. A bootstrap over
    two or three seeds itself would understate theirs by a half or a third, so each variance
    has its own quantile of Student's t, see `_quantile`. The rows' variance has Agresti and
    Min's half observation in each cell (see `serve.stats`), for non-inferiority is no less
    than a difference of -margin has, and a whole row is taken off the difference for
    continuity (A. L. Edwards 1948, Psychometrika 13, 185-187). None of this is exact;
    `scripts/check_gate` simulates it.

    A single champion is taken as it is: another seed of its configuration is not covered.
    """
    n = champion_HN.shape[1]
    difference_N = candidate_SN.mean(axis=0) - champion_HN.mean(axis=0)
    difference = float(difference_N.mean())
    spread = max((float((difference_N**2).sum()) + 1) / (n + 2) - difference**2, 0.0)
    groups = [side_SN.mean(axis=1) for side_SN in (candidate_SN, champion_HN) if len(side_SN) > 1]
    seeds = [(float(means.var(ddof=1)) / len(means), len(means) - 1) for means in groups]
    plain = [(spread / n, n), *seeds]
    low = difference - 1 / n - _quantile(
        alpha, [(max(spread, margin * (1 - margin)) / n, n), *seeds]
    )  # fmt: skip
    high = difference + 1 / n + _quantile(alpha, plain)
    p_superior, p_inferior = (_tail(way * difference - 1 / n, plain) for way in (1, -1))
    gained_N = candidate_SN.mean(axis=0) * (1 - champion_HN.mean(axis=0))
    lost_N = champion_HN.mean(axis=0) * (1 - candidate_SN.mean(axis=0))
    return Decision(
        verdict=_verdict(
            non_inferior=low >= -margin, better=p_superior <= alpha, worse=p_inferior <= alpha
        ),
        rows=n,
        difference=difference,
        low=low,
        high=high,
        gained=float(gained_N.mean()),
        lost=float(lost_N.mean()),
        p_superior=p_superior,
        p_inferior=p_inferior,
        covers="the choice of test rows and of the "
        + ("candidate's and the champion's seeds" if len(groups) == 2 else "candidate's seeds"),
    )


def _quantile(alpha: float, parts: list[tuple[float, int]]) -> float:
    """What a sum of independent errors exceeds with probability alpha at most, about.

    parts: the variance of each and its degrees of freedom. Their quantiles of t are averaged
    with the variances as weights, which keeps the level where few degrees of freedom make the
    approximation of F. E. Satterthwaite (1946) exceed it.
    Source: W. G. Cochran and G. M. Cox (1957), Experimental Designs, 2nd edition, 4.14.
    """
    total = sum(variance for variance, _ in parts)
    if total == 0:
        return 0.0
    weighed = sum(-variance * float(stdtrit(degrees, alpha)) for variance, degrees in parts)
    return weighed / math.sqrt(total)


def _tail(distance: float, parts: list[tuple[float, int]]) -> float:
    """The alpha whose `_quantile` is `distance`: a p-value."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        if _quantile(middle, parts) > distance:
            low = middle
        else:
            high = middle
    return high
