"""Verdicts on accuracy keep their error rate, over one seed and over several."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from outcomes import outcomes

from serve.stats import wilson
from train.statistics.comparison import decide, promotes
from train.statistics.paired import (
    split_discordance,
)


@pytest.mark.parametrize(
    ("n", "gained", "lost", "verdict"),
    [
        (3080, 90, 50, "superior"),
        (3080, 45, 35, "non_inferior"),
        (3080, 0, 0, "non_inferior"),
        (300, 0, 0, "inconclusive"),
        (300, 9, 9, "inconclusive"),
        (3080, 30, 70, "inferior"),
        (300, 5, 4, "inconclusive"),
        (20000, 100, 135, "non_inferior"),
    ],
)
def test_verdicts(n: int, gained: int, lost: int, verdict: str) -> None:
    decision = decide(*outcomes(n, gained, lost), alpha=0.05, margin=0.005)

    assert decision.verdict == verdict
    accuracy = decision.accuracy
    assert accuracy.difference == pytest.approx((gained - lost) / n)
    assert accuracy.low < accuracy.difference < accuracy.high


def test_interval_that_includes_the_margin_is_never_non_inferior() -> None:
    for n, gained, lost in product((100, 540, 3080), (0, 3, 20), (0, 3, 20, 40)):
        decision = decide(*outcomes(n, gained, lost), alpha=0.05, margin=0.01)
        shown = decision.verdict in ("superior", "non_inferior")
        assert shown == (decision.accuracy.low >= -0.01)


def test_superior_is_enough_for_both_requirements_and_non_inferior_for_one() -> None:
    assert promotes("superior", "superior")
    assert promotes("superior", "non_inferior")
    assert promotes("non_inferior", "non_inferior")
    assert not promotes("non_inferior", "superior")
    assert not promotes("inconclusive", "non_inferior")
    assert not promotes("inferior", "non_inferior")


@pytest.mark.parametrize(
    ("require", "gain"), [("superior", 0.0), ("non_inferior", -0.02), ("superior", -0.01)]
)
@pytest.mark.parametrize("discordance", [0.02, 0.06])
def test_false_promotions_are_at_most_alpha(require: str, gain: float, discordance: float) -> None:
    generator = np.random.default_rng(0)
    p_gained, p_lost = split_discordance(discordance, gain)
    promoted = 0
    for _ in range(1000):
        place_N = generator.random(300)
        champion_N, candidate_N = place_N >= p_gained, place_N < 1 - p_lost
        decision = decide(champion_N, candidate_N, alpha=0.05, margin=0.02)
        promoted += promotes(decision.verdict, require)  # type: ignore[arg-type]

    assert wilson(promoted, 1000)[0] <= 0.05


def test_identical_seeds_are_no_more_certain_than_one_and_different_seeds_less() -> None:
    champion_N, candidate_N = outcomes(3080, 80, 50)
    one = decide(champion_N, candidate_N, alpha=0.05, margin=0.005).accuracy
    alike_SN = np.stack([candidate_N] * 3)
    alike = decide(champion_N, alike_SN, alpha=0.05, margin=0.005).accuracy
    apart_SN = np.stack([candidate_N] * 3)
    apart_SN[1, 200:230] = False
    apart_SN[2, :50] = True
    apart_SN[2, 130:140] = False
    apart = decide(champion_N, apart_SN, alpha=0.05, margin=0.005).accuracy

    assert alike.difference == one.difference
    assert alike.low == pytest.approx(one.low, abs=1e-3)
    assert alike.low < one.low
    assert apart.high - apart.low > alike.high - alike.low
    assert "seeds" in apart.covers


@pytest.mark.parametrize(("require", "gain"), [("superior", 0.0), ("non_inferior", -0.02)])
@pytest.mark.parametrize("spread", [0.0, 0.02])
def test_false_promotions_of_three_seeds_are_at_most_alpha(
    require: str, gain: float, spread: float
) -> None:
    """A fifth of the rows are random for each seed; `spread` is the deviation between seeds."""
    generator = np.random.default_rng(0)
    promoted = 0
    for _ in range(400):
        coin_N = generator.random(400) < 0.2
        luck_S1 = gain + generator.normal(0, spread, (3, 1))
        candidate_SN = ~coin_N | (generator.random((3, 400)) < 0.5 + luck_S1 / 0.2)
        champion_N = ~coin_N | (generator.random(400) < 0.5)
        decision = decide(champion_N, candidate_SN, alpha=0.05, margin=0.02)
        promoted += promotes(decision.verdict, require)  # type: ignore[arg-type]

    assert wilson(promoted, 400)[0] <= 0.05


def test_wrong_numbers_of_bundles_and_rows_and_alpha_out_of_range_are_refused() -> None:
    right_SN = np.ones((3, 10), dtype=bool)
    with pytest.raises(ValueError, match="3 candidates and 2 champions"):
        decide(right_SN[:2], right_SN, alpha=0.05, margin=0.01)
    with pytest.raises(ValueError, match="not pairs"):
        decide(right_SN[0], right_SN[0, :9], alpha=0.05, margin=0.01)
    with pytest.raises(ValueError, match="expected 0 < alpha"):
        decide(right_SN[0], right_SN[0], alpha=0.5, margin=0.01)
