"""The gate's statistics keep their level, agree with hand computation, or are inconclusive."""

from __future__ import annotations

import math
import time
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from processes import run
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest

from serve.stats import weighted_bootstrap, wilson
from train.config.sections import GateSection
from train.gate.guards import holm, recall_check
from train.gate.judge import build_gate_report
from train.statistics.comparison import decide, promotes
from train.statistics.intervals import measure_all
from train.statistics.metrics import one_hot, scores
from train.statistics.paired import (
    exact_critical,
    exact_p_value,
    max_rejection_probability,
    mcnemar,
    minimum_detectable,
    non_inferiority_power,
    rejection_boundary,
    rejection_probability,
    rows_needed,
    score,
    score_interval,
    split_discordance,
    superiority_power,
)
from train.statistics.resampling import Predictions, ece_difference, f1_difference

Outcome = NDArray[np.bool_]
NORMAL = 1.6448536269514722
BOOTSTRAP: Any = {"alpha": 0.05, "resamples": 500, "seed": 0}


def outcomes(n: int, gained: int, lost: int) -> tuple[Outcome, Outcome]:
    """Outcomes of champion and candidate on n rows, correct on all others."""
    champion_N, candidate_N = np.ones(n, dtype=bool), np.ones(n, dtype=bool)
    champion_N[:gained] = False
    candidate_N[gained : gained + lost] = False
    return champion_N, candidate_N


def by_enumeration(
    n: int, p_gained: float, p_lost: float, difference: float, least: float
) -> float:
    """Probability that the score reaches `least`, summed over every outcome."""
    total = 0.0
    for gained, lost in product(range(n + 1), repeat=2):
        rest = n - gained - lost
        if rest >= 0 and score(gained, lost, n, difference) >= least:
            ways = math.comb(n, gained) * math.comb(n - gained, lost)
            total += ways * p_gained**gained * p_lost**lost * (1 - p_gained - p_lost) ** rest
    return total


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (5, 0), (0, 5), (9, 2), (31, 25), (200, 150)])
def test_mcnemar_is_the_binomial_test_and_the_sum_by_hand(gained: int, lost: int) -> None:
    total = gained + lost
    by_hand = Fraction(sum(math.comb(total, k) for k in range(gained, total + 1)), 2**total)

    assert mcnemar(gained, lost) == pytest.approx(float(by_hand))
    if total:
        expected = binomtest(gained, total, alternative="greater").pvalue
        assert mcnemar(gained, lost) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("gained", "lost", "n", "difference"),
    [(12, 7, 100, -0.05), (3, 9, 60, 0.1), (0, 0, 500, -0.005), (0, 4, 80, -0.02), (5, 0, 40, 0.2)],
)
def test_score_is_over_the_variance_at_the_restricted_likelihood(
    gained: int, lost: int, n: int, difference: float
) -> None:
    low, high = max(0.0, -difference), (1 - difference) / 2

    def loss(p_lost: float) -> float:
        cells = (gained, p_lost + difference), (lost, p_lost), (n - gained - lost, 0)
        rest = 1 - 2 * p_lost - difference
        shares = cells[0][1], cells[1][1], rest
        counts = cells[0][0], cells[1][0], cells[2][0]
        return -sum(c * math.log(max(s, 1e-300)) for c, s in zip(counts, shares, strict=True) if c)

    p_lost = minimize_scalar(loss, bounds=(low, high), options={"xatol": 1e-12}).x
    variance = (2 * p_lost + difference - difference**2) * n
    expected = (gained - lost - n * difference) / math.sqrt(variance)

    assert float(score(gained, lost, n, difference)) == pytest.approx(expected, abs=1e-4)


def test_score_at_no_difference_is_mcnemars_statistic() -> None:
    assert float(score(15, 6, 300, 0.0)) == pytest.approx(9 / math.sqrt(21))
    assert float(score(0, 0, 300, 0.0)) == 0.0


def test_score_interval_is_that_of_the_r_package_propcis() -> None:
    """scoreci.mp(25, 28, 618, 0.90), the interval of T. Tango (1998), for (28 - 25) / 618."""
    assert score_interval(28, 25, 618, NORMAL) == pytest.approx((-0.0148, 0.0247), abs=5e-5)


@pytest.mark.parametrize(("n", "difference"), [(7, -0.2), (20, -0.05), (20, 0.1), (33, -0.1)])
def test_level_is_the_largest_sum_over_every_outcome(n: int, difference: float) -> None:
    low, high = max(0.0, -difference), (1 - difference) / 2
    summed = [
        by_enumeration(n, max(p_lost + difference, 0.0), p_lost, difference, NORMAL)
        for p_lost in np.linspace(low, high, 40)
    ]

    assert max_rejection_probability(n, difference, NORMAL) == pytest.approx(max(summed), abs=2e-3)
    assert max_rejection_probability(n, difference, NORMAL) >= max(summed) - 1e-4


def test_score_test_alone_exceeds_its_level_and_the_exact_critical_value_does_not() -> None:
    assert max_rejection_probability(540, -0.005, NORMAL) > 0.06

    critical = exact_critical(540, -0.005, 0.05)

    least_K = rejection_boundary(540, -0.005, critical)
    finer = [
        rejection_probability(540, p - 0.005, p, least_K) for p in np.linspace(0.005, 0.5, 1500)
    ]
    assert NORMAL < critical < 2.0
    assert 0.04 < max(finer) <= 0.0501


@pytest.mark.parametrize("n", [1, 2, 10, 100])
def test_exact_critical_value_keeps_the_level_on_few_rows(n: int) -> None:
    for margin in (0.005, 0.05, 0.3):
        assert max_rejection_probability(n, -margin, exact_critical(n, -margin, 0.05)) <= 0.05


def test_region_grows_with_gained_rows_and_fewer_lost_ones() -> None:
    """Therefore the level is highest at the boundary of the hypothesis."""
    for n, difference in ((50, -0.05), (300, -0.005), (60, 0.1)):
        least_K = rejection_boundary(n, difference, NORMAL)
        reachable_K = least_K[least_K <= n - np.arange(n + 1)]
        assert (np.diff(reachable_K) >= 0).all()
        gained = np.arange(n - 10)
        assert (np.diff(score(gained, 10, n, difference)) > 0).all()


def test_exact_p_value_is_the_sum_over_outcomes_at_least_as_extreme() -> None:
    at = float(score(9, 2, 25, 0.1)) - 1e-9
    summed = max(
        by_enumeration(25, p + 0.1, p, 0.1, at) for p in np.linspace(0.0, 0.45, 60).tolist()
    )

    assert exact_p_value(9, 2, 25, 0.1) == pytest.approx(summed, abs=1e-3)


def test_power_is_the_sum_over_every_outcome() -> None:
    n, discordance, gain = 30, 0.3, 0.2
    p_gained, p_lost = split_discordance(discordance, gain)
    total = 0.0
    for gained, lost in product(range(n + 1), repeat=2):
        if gained + lost <= n and mcnemar(gained, lost) <= 0.05:
            ways = math.comb(n, gained) * math.comb(n - gained, lost)
            rest = (1 - p_gained - p_lost) ** (n - gained - lost)
            total += ways * p_gained**gained * p_lost**lost * rest

    assert superiority_power(n, discordance, gain, 0.05) == pytest.approx(total)
    critical = exact_critical(n, -0.05, 0.05)
    assert non_inferiority_power(n, discordance, gain, 0.05, 0.05) == pytest.approx(
        by_enumeration(n, p_gained, p_lost, -0.05, critical)
    )


def test_rows_needed_have_about_the_stated_power() -> None:
    for discordance, gain in ((0.06, 0.01), (0.03, 0.02)):
        rows = rows_needed(discordance, gain, 0.05)
        assert rows is not None
        assert superiority_power(rows, discordance, gain, 0.05) == pytest.approx(0.8, abs=0.05)
    rows = rows_needed(0.03, 0.0, 0.05, margin=0.005)
    assert rows is not None
    assert non_inferiority_power(rows, 0.03, 0.0, 0.05, 0.005) == pytest.approx(0.8, abs=0.05)
    assert rows_needed(0.03, -0.01, 0.05, margin=0.005) is None


def test_minimum_detectable_gain_is_found_with_power_of_four_fifths() -> None:
    gain = minimum_detectable(1000, 0.06, 0.05)

    assert gain is not None
    assert superiority_power(1000, 0.06, gain, 0.05) == pytest.approx(0.8, abs=0.01)
    assert minimum_detectable(2, 0.06, 0.05) is None


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


def test_holm_stops_at_the_first_that_is_not_small_enough() -> None:
    """0.01 <= 0.05/4, 0.014 <= 0.05/3, 0.03 > 0.05/2, so 0.04 is not tested."""
    refuted = holm(np.array([0.04, 0.01, 0.03, 0.014]), 0.05)

    assert refuted.tolist() == [False, True, False, True]
    assert holm(np.array([0.001]), 0.05).tolist() == [True]


def answers_of(
    chosen_N: NDArray[np.int64], true_N: NDArray[np.int64], num_labels: int, confidence: float = 0.9
) -> Predictions:
    predicted_NC = one_hot(chosen_N, num_labels)
    rest = (1 - confidence) / (num_labels - 1)
    return Predictions(
        probabilities_NC=np.where(predicted_NC, confidence, rest).astype(np.float32),
        predicted_NC=predicted_NC,
        reference_NC=one_hot(true_N, num_labels),
    )


def some_answers(n: int, num_labels: int, accuracy: float, seed: int) -> Predictions:
    generator = np.random.default_rng(seed)
    true_N = np.arange(n) % num_labels
    other_N = (true_N + generator.integers(1, num_labels, n)) % num_labels
    return answers_of(np.where(generator.random(n) < accuracy, true_N, other_N), true_N, num_labels)


def test_macro_f1_is_that_of_the_metrics_and_its_interval_that_of_resampled_rows() -> None:
    champion, candidate = some_answers(400, 5, 0.8, 1), some_answers(400, 5, 0.9, 2)

    found = f1_difference([champion], [candidate], **BOOTSTRAP)

    def f1(answers: Predictions, rows: NDArray[np.int64]) -> float:
        return scores(answers.reference_NC[rows], answers.predicted_NC[rows])["f1_macro"]

    assert found.champion == pytest.approx(f1(champion, np.arange(400)))
    assert found.candidate == pytest.approx(f1(candidate, np.arange(400)))
    generator = np.random.default_rng(0)
    one_by_one = []
    for _ in range(500):
        rows = generator.integers(0, 400, 400)
        one_by_one.append(f1(candidate, rows) - f1(champion, rows))
    assert (found.difference.low, found.difference.high) == pytest.approx(
        np.quantile(one_by_one, [0.05, 0.95]), abs=1e-9
    )


def test_a_model_against_itself_has_an_interval_of_no_width() -> None:
    same = some_answers(100, 4, 0.8, 3)

    for found in (
        f1_difference([same], [same], **BOOTSTRAP),
        ece_difference([same], [same], **BOOTSTRAP, task="single_label"),
    ):
        assert found.difference.low == found.difference.high == 0.0


def test_bootstrap_of_seeds_is_wider_than_that_of_one() -> None:
    champion = some_answers(300, 3, 0.8, 1)
    seeds = [some_answers(300, 3, accuracy, 5) for accuracy in (0.7, 0.8, 0.9)]

    several = f1_difference([champion], seeds, **BOOTSTRAP).difference

    one = f1_difference([champion], [seeds[1]], **BOOTSTRAP).difference
    assert several.high - several.low > one.high - one.low


def test_bootstrap_of_a_full_test_set_takes_less_than_five_seconds_of_cpu() -> None:
    champion, candidate = some_answers(3080, 77, 0.92, 1), some_answers(3080, 77, 0.93, 2)
    started = time.process_time()

    f1_difference([champion], [candidate], **BOOTSTRAP | {"resamples": 2000})

    assert time.process_time() - started < 5


def test_resamples_draw_every_row_with_the_same_probability() -> None:
    blocks = []

    def record(weights_NR: NDArray[np.float64]) -> NDArray[np.float64]:
        blocks.append(weights_NR.T)
        return weights_NR.T

    weighted_bootstrap(record, 50, resamples=3000, seed=0)

    counts_RN = np.concatenate(blocks)
    assert (counts_RN.sum(axis=1) == 50).all()
    assert counts_RN.mean(axis=0) == pytest.approx(1, abs=0.1)
    assert counts_RN.var(axis=0).mean() == pytest.approx(1 - 1 / 50, abs=0.02)


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_calibration_error_is_that_of_the_evaluation(task: str) -> None:
    answers = some_answers(400, 5, 0.8, 4)
    found = ece_difference([answers], [answers], **BOOTSTRAP, task=task)

    measured = measure_all(
        answers.reference_NC,
        answers.predicted_NC,
        answers.probabilities_NC,
        task=task,
        labels=[str(c) for c in range(5)],
        seed=0,
        resamples=10,
    ).overall["ece"]

    assert found.candidate == pytest.approx(measured.value)


def test_label_without_recall_is_named_and_one_lost_row_is_not() -> None:
    true_N = np.arange(600) % 20
    perfect = answers_of(true_N, true_N, 20)
    labels = [f"label-{c}" for c in range(20)]
    dead = answers_of(np.where(true_N == 7, 8, true_N), true_N, 20)
    nearly_N = true_N.copy()
    nearly_N[7] = 8
    nearly = answers_of(nearly_N, true_N, 20)

    refused = recall_check([perfect], [dead], labels, max_drop=0.1, alpha=0.05)
    passed = recall_check([perfect], [nearly], labels, max_drop=0.1, alpha=0.05)

    assert not refused.passed
    assert "significant drop of more than 0.100: label-7;" in refused.detail
    assert passed.passed
    assert "0 of 20 labels have too few rows" in passed.detail
    assert not recall_check([perfect], [dead] * 3, labels, max_drop=0.1, alpha=0.05).passed


def test_recall_check_seldom_refuses_a_candidate_whose_recalls_dropped_by_less() -> None:
    generator = np.random.default_rng(0)
    true_N = np.arange(300) % 10
    perfect = answers_of(true_N, true_N, 10)
    refused = 0
    for _ in range(100):
        chosen_N = np.where(generator.random(300) < 0.1, (true_N + 1) % 10, true_N)
        check = recall_check(
            [perfect],
            [answers_of(chosen_N, true_N, 10)],
            list("abcdefghij"),
            max_drop=0.1,
            alpha=0.05,
        )
        refused += not check.passed

    assert wilson(refused, 100)[0] <= 0.05


def test_guards_refuse_what_accuracy_would_promote_and_say_why() -> None:
    true_N = np.arange(900) % 3
    champion = answers_of(np.where(np.arange(900) % 10 == 0, (true_N + 1) % 3, true_N), true_N, 3)
    unsure = answers_of(true_N, true_N, 3, confidence=0.5)
    section = GateSection(max_ece=0.1, max_latency_ratio=1.2)

    report = build_gate_report(
        section, [champion], [unsure], "abc", task="single_label", seed=0, times_s=(0.01, 0.02)
    )

    assert report.verdict == "superior"
    assert not report.passed
    assert [check.name for check in report.checks if not check.passed] == [
        "calibration error increase",
        "calibration error",
        "latency",
    ]
    assert any("2.00 times" in reason for reason in report.reasons)


def test_scores_that_are_not_finite_are_refused() -> None:
    good = some_answers(600, 3, 0.9, 1)
    probabilities_NC = good.probabilities_NC.copy()
    probabilities_NC[5] = np.nan
    broken = Predictions(
        probabilities_NC=probabilities_NC,
        predicted_NC=good.predicted_NC,
        reference_NC=good.reference_NC,
    )

    report = build_gate_report(
        GateSection(require="non_inferior"),
        [good],
        [broken],
        "abc",
        task="single_label",
        seed=0,
    )

    assert not report.passed
    assert any("not finite: 1" in reason for reason in report.reasons)


def test_too_few_rows_are_inconclusive_whatever_they_say() -> None:
    true_N = np.arange(150) % 3
    bad, good = answers_of((true_N + 1) % 3, true_N, 3), answers_of(true_N, true_N, 3)

    report = build_gate_report(GateSection(), [bad], [good], "abc", task="single_label", seed=0)

    assert report.verdict == "inconclusive"
    assert any("at least 200 are required" in reason for reason in report.reasons)


def test_inconclusive_says_how_many_rows_it_would_take() -> None:
    same = some_answers(300, 3, 0.9, 1)

    report = build_gate_report(
        GateSection(require="non_inferior"), [same], [same], "abc", task="single_label", seed=0
    )

    assert report.verdict == "inconclusive"
    assert "probability 0.8, there are 300" in report.reasons[0]
    assert [each.gain for each in report.power] == [0.0, 0.01, 0.02, 0.05]
    assert report.power[0].power < 0.1


def test_the_decision_needs_neither_torch_nor_a_model() -> None:
    code = "import sys, train.gate.judge; sys.exit('torch' in sys.modules)"

    assert run("-c", code).returncode == 0
