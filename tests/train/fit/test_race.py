"""Training on parts of the rows ends once the best candidate is clear."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from train.fit.choice.judge import judge
from train.fit.choice.race import race

ROWS, FOLDS = 400, 4
FOLD_N = np.arange(ROWS) % FOLDS
TRUTH_N = np.arange(ROWS) // FOLDS % 2
GIVEN_NC = np.stack([TRUTH_N == 0, TRUTH_N == 1], axis=1)


def logits(seed: int, gain: float) -> np.ndarray:
    """Logits that are right more often, the higher the gain."""
    noise_N = np.random.default_rng(seed).normal(size=ROWS)
    score_N = gain * (2 * TRUTH_N - 1) + noise_N
    return np.stack([-score_N, score_N], axis=1).astype(np.float32)


def raced(probes: dict[str, float], loras: dict[str, float], minutes: int = 99):
    """Race gains against each other; returns the candidates and the trainings that were made."""
    made: list[tuple[str, int]] = []
    results = {pooling: logits(len(made) + n, gain) for n, (pooling, gain) in
               enumerate(loras.items(), 10)}  # fmt: skip

    def train(pooling: str, fold: int) -> np.ndarray:
        made.append((pooling, fold))
        return results[pooling][fold == FOLD_N]

    def judged(method, pooling, logits_NC, rows_N):
        return judge(method, pooling, logits_NC[rows_N], GIVEN_NC[rows_N], "single_label")

    found = race(
        {pooling: logits(n, gain) for n, (pooling, gain) in enumerate(probes.items())},
        list(loras),
        train,
        judged,
        FOLD_N,
        np.ones(ROWS, dtype=bool),
        is_over=lambda: len(made) >= minutes,
    )
    return found, made


@pytest.mark.parametrize(
    ("probes", "loras", "trainings"),
    [
        ({"native": 0.3}, {"native": 2.0}, 1),  # LoRA is clearly better
        ({"native": 2.0}, {"native": 0.1}, 1),  # clearly worse
        ({"native": 0.8}, {"native": 0.85}, 4),  # close: all parts
    ],
)
def test_a_clear_case_takes_one_part_and_a_close_one_all(
    probes: dict[str, float], loras: dict[str, float], trainings: int
) -> None:
    found, made = raced(probes, loras)

    assert len(made) == trainings
    assert {len(each.losses_N) for each in found} == {trainings * ROWS // FOLDS}


def test_a_pooling_that_is_far_behind_is_trained_no_further() -> None:
    found, made = raced({"native": 0.8, "mean": 0.8}, {"native": 0.1, "mean": 0.85})

    assert made.count(("native", 0)) == 1
    assert [pooling for pooling, _ in made].count("native") == 1
    assert [pooling for pooling, _ in made].count("mean") == FOLDS
    assert [(each.method, each.pooling) for each in found] == [
        ("probe", "native"), ("probe", "mean"), ("lora", "mean")
    ]  # fmt: skip


def test_the_parts_that_are_done_decide_when_the_time_is_up() -> None:
    found, made = raced({"native": 0.8}, {"native": 0.85}, minutes=2)

    assert len(made) == 2
    assert {len(each.losses_N) for each in found} == {ROWS // 2}


def test_nothing_is_clear_on_few_rows() -> None:
    judged_N = np.arange(ROWS) < 8 * FOLDS
    made = []

    def train(pooling: str, fold: int) -> np.ndarray:
        made.append(fold)
        return logits(3, 9.0)[fold == FOLD_N]

    def judged(method, pooling, logits_NC, rows_N):
        return judge(method, pooling, logits_NC[rows_N], GIVEN_NC[rows_N], "single_label")

    run = partial(race, {"native": logits(0, 0.0)}, ["native"], train, judged, FOLD_N)
    run(judged_N, is_over=lambda: False)

    assert made == [0, 1, 2, 3]
