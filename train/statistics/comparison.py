"""Is the candidate better than the champion, as good, worse, or is the test set inconclusive?

Decides the verdict on accuracy. It is the only part of the gate that can pass a candidate; the
guards of `train.gate.guards` can only refuse one. Pure: arrays of correct and wrong
predictions in, a `Comparison` out, so that its error rates can be simulated
(`scripts/check_gate`).

One candidate is compared with one champion, both fixed; the true difference is the one over
all texts that the test rows are a sample of.

- Superior: the exact one-sided McNemar test at alpha rejects that the candidate is no better.
- Non-inferior: the score test at an exact critical value rejects that it is worse by `margin`
  or more.
- Superiority is tested only where non-inferiority holds, so both can be tested at alpha each
  without a correction: a fixed sequence is a closed testing procedure. Source:
  T. Morikawa and M. Yoshida (1995), A useful testing strategy in phase III trials: combined
  test of superiority and test of equivalence, J. of Biopharmaceutical Statistics 5, 297-306.
- Inferior: neither, and McNemar's test in the other direction finds it worse.

So a candidate whose true difference is 0 or less is called superior with probability at most
alpha, and one whose true difference is -margin or less is called superior or non-inferior
with probability at most alpha: for every N, accuracy and amount of disagreement.

Shape suffixes: N examples, S bundles of the candidate, H of the champion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from serve.bundle.manifest import Measured
from serve.config import FrozenModel
from train.statistics.bisection import bisect
from train.statistics.paired import exact_critical, mcnemar, score, score_interval

Outcome = NDArray[np.bool_]
AccuracyVerdict = Literal["superior", "non_inferior", "inferior", "inconclusive"]
Requirement = Literal["superior", "non_inferior"]


class Accuracy(FrozenModel):
    """Accuracy of champion and candidate, and what is known about the difference."""

    champion: float
    """Of the champion, a fraction; over seeds the mean."""

    candidate: float
    """Of the candidate."""

    difference: float
    """Candidate minus champion, as observed."""

    low: float
    """Lower end of the interval of the difference, with error alpha on each side."""

    high: float
    """Upper end."""

    gained: float
    """Fraction of rows that only the candidate gets right; over seeds, the mean over pairs."""

    lost: float
    """Fraction of rows that only the champion gets right."""

    p_superior: float
    """One-sided p-value of "the candidate is no better"."""

    p_inferior: float
    """One-sided p-value of "the candidate is no worse"."""

    covers: str
    """The sources of variation that the error rate covers."""

    @property
    def interval(self) -> Measured:
        """The difference with its interval, to print."""
        return Measured(value=self.difference, low=self.low, high=self.high)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The verdict on accuracy and the figures behind it."""

    verdict: AccuracyVerdict
    rows: int
    accuracy: Accuracy

    @property
    def discordance(self) -> float:
        """Fraction of rows that only one side gets right, with half a row added to each side."""
        discordant = (self.accuracy.gained + self.accuracy.lost) * self.rows
        return (discordant + 1) / (self.rows + 2)


def promotes(verdict: AccuracyVerdict, require: Requirement) -> bool:
    """Whether a verdict satisfies the requirement."""
    return verdict == "superior" or verdict == require


def decide(champion: Outcome, candidate: Outcome, *, alpha: float, margin: float) -> Comparison:
    """Decide the verdict on the accuracies of champion and candidate on the same rows.

    champion, candidate: True where correct; shape (N,), or (H, N) and (S, N) for several seeds
    of a configuration each, see `_compare_seeds`. alpha: one-sided error in (0, 0.5).
    margin: in (0, 1). Raises ValueError for values out of range and for unpaired shapes.
    """
    champion_HN, candidate_SN = np.atleast_2d(champion), np.atleast_2d(candidate)
    num_champions, num_candidates = len(champion_HN), len(candidate_SN)
    if champion_HN.shape[1] != candidate_SN.shape[1] or champion_HN.shape[1] == 0:
        raise ValueError(f"{champion.shape} and {candidate.shape} are not pairs of outcomes")
    if not 0 < alpha < 0.5 or not 0 < margin < 1:
        raise ValueError(
            f"alpha {alpha} and margin {margin}: expected 0 < alpha < 0.5 and 0 < margin < 1"
        )
    check_counts(num_candidates, num_champions)
    if num_champions == num_candidates == 1:
        return _compare_pair(champion_HN[0], candidate_SN[0], alpha, margin)
    return _compare_seeds(champion_HN, candidate_SN, alpha, margin)


def check_counts(num_candidates: int, num_champions: int) -> None:
    """Raise ValueError unless there are as many champions as candidates, or one."""
    if num_champions not in (1, num_candidates):
        raise ValueError(
            f"{num_candidates} candidates and {num_champions} champions: give as many champions "
            "as candidates, or one"
        )


def _compare_pair(
    champion_N: Outcome, candidate_N: Outcome, alpha: float, margin: float
) -> Comparison:
    n = len(champion_N)
    gained, lost = int((candidate_N & ~champion_N).sum()), int((champion_N & ~candidate_N).sum())
    critical = exact_critical(n, -margin, alpha)
    low, high = score_interval(gained, lost, n, critical)
    p_superior, p_inferior = mcnemar(gained, lost), mcnemar(lost, gained)
    verdict = _verdict(
        non_inferior=bool(score(gained, lost, n, -margin) >= critical),
        better=p_superior <= alpha,
        worse=p_inferior <= alpha,
    )
    accuracy = Accuracy(
        champion=float(champion_N.mean()),
        candidate=float(candidate_N.mean()),
        difference=(gained - lost) / n,
        low=low,
        high=high,
        gained=gained / n,
        lost=lost / n,
        p_superior=p_superior,
        p_inferior=p_inferior,
        covers="the sampling of test rows, for these two bundles",
    )
    return Comparison(verdict=verdict, rows=n, accuracy=accuracy)


def _verdict(*, non_inferior: bool, better: bool, worse: bool) -> AccuracyVerdict:
    if non_inferior:
        return "superior" if better else "non_inferior"
    return "inferior" if worse else "inconclusive"


def _compare_seeds(
    champion_HN: Outcome, candidate_SN: Outcome, alpha: float, margin: float
) -> Comparison:
    """Compare S seeds of a configuration with H seeds of the champion's, or with one bundle.

    The difference of mean correctness varies with the rows and with the seeds. Both variances
    are added; their interaction is thereby counted twice, which is conservative, as in the
    product bootstrap of A. B. Owen and D. Eckles (2012), Bootstrapping data arrays of
    arbitrary order, Annals of Applied Statistics 6, 895-927. A bootstrap over two or three
    seeds alone would understate their variance by a half or a third, so each variance has its
    own quantile of Student's t, see `_quantile`. The variance over rows includes Agresti and
    Min's half observation in each cell (see `serve.stats`), for non-inferiority is at least
    that of a difference of -margin, and one row is taken off the difference as a continuity
    correction (A. L. Edwards 1948, Psychometrika 13, 185-187). None of this is exact;
    `scripts/check_gate` simulates it.

    A single champion is taken as fixed: the error does not cover another seed of it.
    """
    n = champion_HN.shape[1]
    difference_N = candidate_SN.mean(axis=0) - champion_HN.mean(axis=0)
    difference = float(difference_N.mean())
    variance = max((float((difference_N**2).sum()) + 1) / (n + 2) - difference**2, 0.0)
    groups = [side_SN.mean(axis=1) for side_SN in (candidate_SN, champion_HN) if len(side_SN) > 1]
    seeds = [(float(means.var(ddof=1)) / len(means), len(means) - 1) for means in groups]
    plain = [(variance / n, n), *seeds]
    at_margin = [(max(variance, margin * (1 - margin)) / n, n), *seeds]
    low = difference - 1 / n - _quantile(alpha, at_margin)
    high = difference + 1 / n + _quantile(alpha, plain)
    p_superior, p_inferior = (_tail(sign * difference - 1 / n, plain) for sign in (1, -1))
    gained_N = candidate_SN.mean(axis=0) * (1 - champion_HN.mean(axis=0))
    lost_N = champion_HN.mean(axis=0) * (1 - candidate_SN.mean(axis=0))
    whose = "candidate's and the champion's seeds" if len(groups) == 2 else "candidate's seeds"
    verdict = _verdict(
        non_inferior=low >= -margin, better=p_superior <= alpha, worse=p_inferior <= alpha
    )
    accuracy = Accuracy(
        champion=float(champion_HN.mean()),
        candidate=float(candidate_SN.mean()),
        difference=difference,
        low=low,
        high=high,
        gained=float(gained_N.mean()),
        lost=float(lost_N.mean()),
        p_superior=p_superior,
        p_inferior=p_inferior,
        covers=f"the sampling of test rows and of the {whose}",
    )
    return Comparison(verdict=verdict, rows=n, accuracy=accuracy)


def _quantile(alpha: float, parts: list[tuple[float, int]]) -> float:
    """Approximate upper alpha quantile of a sum of independent errors.

    parts: the variance of each and its degrees of freedom. Their quantiles of t are averaged
    with the variances as weights, which keeps the level where few degrees of freedom make the
    approximation of F. E. Satterthwaite (1946) exceed it.
    Source: W. G. Cochran and G. M. Cox (1957), Experimental Designs, 2nd edition, 4.14.
    """
    total = sum(variance for variance, _ in parts)
    if total == 0:
        return 0.0
    weighted = sum(-variance * float(stdtrit(degrees, alpha)) for variance, degrees in parts)
    return weighted / math.sqrt(total)


def _tail(distance: float, parts: list[tuple[float, int]]) -> float:
    """The p-value: the alpha whose `_quantile` is `distance`."""

    def is_above(alpha: float) -> bool:
        return _quantile(alpha, parts) <= distance

    return bisect(is_above, 0.0, 1.0, tolerance=1e-15)[1]
