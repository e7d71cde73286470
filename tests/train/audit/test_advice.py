"""Advice is given where the training rows show that it helps, and a clean set gets none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rows import make_rows, write_jsonl

from serve.stats import wilson
from train.audit.advice import (
    ROWS_FOR_TEN_POINTS,
    Advice,
    balanced_probs,
    class_weights,
    merge_labels,
    more_rows,
)
from train.audit.label_errors import cross_fit
from train.audit.prepare import prepare, summary_lines
from train.config.data import DataConfig
from train.config.run import RunConfig
from train.statistics.metrics import one_hot

CONFIG = RunConfig.model_validate(
    {"output_dir": "x", "data": {"train": "x"}, "model": {"base": "x"}}
)


def advised(counts: list[int], noise: float, *, seed: int = 0) -> list[Advice]:
    """Advice on class weights for labels around random centres."""
    random = np.random.default_rng(seed)
    given = one_hot(np.repeat(np.arange(len(counts)), counts), len(counts))
    features = given @ random.normal(size=(len(counts), 16))
    features = (features + random.normal(scale=noise, size=features.shape)).astype(np.float32)
    probs = cross_fit(features, given, "single_label", folds=5, seed=0).probs_NC
    balanced = balanced_probs(features, given, CONFIG, folds=5, seed=0)
    if balanced is None:
        return []
    names = [f"label {c}" for c in range(len(counts))]
    return [*class_weights(given, probs, balanced, names, 0)]


def test_weights_are_advised_where_they_help_a_rare_label() -> None:
    advice, *_ = (each for seed in range(3) for each in advised([600, 30, 30, 30], 3.0, seed=seed))

    assert advice.settings == ("loss.class_weights=balanced",)
    assert advice.figures["interval"][0] > 0
    assert advice.figures["recall"][1] > advice.figures["recall"][0]
    assert "differ in rows by a factor of 20.0" in advice.text


@pytest.mark.parametrize(
    ("counts", "noise"), [([200, 200, 200], 2.0), ([600, 30, 30], 0.1), ([200, 100], 2.0)]
)
def test_weights_are_not_advised_where_labels_are_alike_in_number_or_easy(
    counts: list[int], noise: float
) -> None:
    assert advised(counts, noise) == []


def test_weights_are_rarely_advised_where_nothing_can_be_learned() -> None:
    """Guesses have a higher macro-F1 than the commonest label alone, and are no improvement."""
    found = sum(bool(advised([150, 40], 500.0, seed=seed)) for seed in range(20))

    assert found <= 4


def probs_of(matrix: list[list[int]]) -> tuple[Any, Any]:
    """Rows with these true and predicted labels."""
    pairs = [(a, b) for a, row in enumerate(matrix) for b, n in enumerate(row) for _ in range(n)]
    true_N, predicted_N = np.array(pairs).T
    return one_hot(true_N, len(matrix)), one_hot(predicted_N, len(matrix)).astype(float)


@pytest.mark.parametrize(
    ("matrix", "advised"),
    [
        ([[40, 25, 0], [20, 45, 0], [0, 0, 60]], True),
        ([[60, 3, 0], [2, 60, 0], [0, 1, 60]], False),
        ([[65, 0, 0], [45, 20, 0], [0, 0, 60]], False),  # one way: a matter of balance
        ([[20, 20, 20], [20, 20, 20], [20, 20, 20]], False),  # the probes know nothing
        ([[3, 3, 0], [3, 3, 0], [0, 0, 60]], True),
        ([[40, 25], [20, 45]], False),  # nothing would be left to predict
    ],
)
def test_labels_that_are_taken_for_each_other_are_named(
    matrix: list[list[int]], advised: bool
) -> None:
    given, probs = probs_of(matrix)

    found = [*merge_labels(given, probs, ["a", "b", "c"][: len(matrix)])]

    assert [each.figures["labels"] for each in found] == ([["a", "b"]] if advised else [])


def test_rows_that_are_missing_are_counted() -> None:
    counts: Any = {"many": {"train": 900, "test": 100}, "few": {"train": 30, "test": 3}}

    (split,) = more_rows(counts, DataConfig(train="x"))
    (named,) = more_rows(counts, DataConfig(train="x", test="y"))

    assert "about 900 more rows (90 of them get into test) of 'few'" in split.text
    assert "90 more test rows of 'few'" in named.text
    assert split.figures["test_rows"] == {"few": 3}


def test_rows_for_ten_points_are_enough_for_every_recall() -> None:
    def widest(rows: int) -> float:
        ends = (wilson(hits, rows) for hits in range(rows + 1))
        return max((high - low) / 2 for low, high in ends)

    assert widest(ROWS_FOR_TEN_POINTS) <= 0.1
    assert widest(ROWS_FOR_TEN_POINTS - 2) > 0.1


def test_clean_balanced_set_gets_no_advice_and_a_bad_one_gets_it_in_report_and_console(
    make_config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    clean = prepare(RunConfig.model_validate(make_config(tmp_path / "clean")), device="cpu")
    values = make_config(tmp_path / "bad")
    test = [*make_rows(60, seed=2), {"text": "never seen", "label": "rare"}]
    rows = [
        *make_rows(300, seed=1),
        test[0],
        *({"text": f"rare {n}", "label": "rare"} for n in (1, 2)),
    ]
    values["data"] |= {
        "train": str(write_jsonl(tmp_path / "train.jsonl", rows)),
        "test": str(write_jsonl(tmp_path / "test.jsonl", test)),
    }
    bad = prepare(RunConfig.model_validate(values), device="cpu")

    assert [each.kind for each in clean.audit.advice if each.kind != "shared_texts"] == []
    kinds = [each.kind for each in bad.audit.advice]
    assert kinds[:2] == ["shared_texts", "more_rows"]
    report = json.loads((bad.directory / "report.json").read_text())
    assert [each["kind"] for each in report["advice"]] == kinds
    assert sum(line.startswith("advice: ") for line in summary_lines(bad)) == len(kinds)
