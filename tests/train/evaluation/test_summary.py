"""What `evaluate` prints of labels, and its verdict on a model that is of no use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rows import make_rows, write_jsonl

from serve.inference.decision import Decision
from train.config.run import RunConfig
from train.evaluation.evaluate import evaluate
from train.evaluation.result import Evaluation, Measurement
from train.evaluation.slices import Slices
from train.evaluation.summary import label_lines, summary_lines, verdict_lines
from train.evaluation.usefulness import commonest_answer
from train.fit.fit import fit
from train.merge.merge import merge
from train.statistics.intervals import measure_all


def measurement(
    reference_NC: Any, probabilities_NC: Any, labels: Sequence[str], task: str = "single_label"
) -> Measurement:
    probabilities_NC = np.asarray(probabilities_NC, dtype=np.float32)
    reference_NC = np.asarray(reference_NC, dtype=bool)
    predicted_NC = probabilities_NC >= 0.5
    if task == "single_label":
        best_N = probabilities_NC.argmax(axis=1)
        predicted_NC = np.arange(len(labels)) == best_N[:, None]
    return Measurement(
        probabilities_NC=probabilities_NC,
        decision=Decision(
            predicted_NC=predicted_NC, confidence_N=probabilities_NC.max(axis=1), abstain_N=None
        ),
        reference_NC=reference_NC,
        metrics=measure_all(
            reference_NC, predicted_NC, probabilities_NC, task=task, labels=labels, seed=0
        ),
        abstention=None,
    )


def result_of(full: Measurement, commonest: tuple[str, ...], task: str, path: Path) -> Evaluation:
    return Evaluation(
        full=full,
        int8=None,
        difference=None,
        agreement=None,
        slices=Slices(slices=[], num_skipped=0),
        task=task,
        positive=None,
        commonest=commonest,
        directory=path,
    )


def binary(positives: int, negatives: int, scores_N: Any) -> Measurement:
    """Rows of ham and spam, spam first, with the probability of spam."""
    spam_N = np.arange(positives + negatives) < positives
    scores_N = np.asarray(scores_N, dtype=float)
    labels_NC = np.stack([~spam_N, spam_N], axis=1)
    return measurement(labels_NC, np.stack([1 - scores_N, scores_N], axis=1), ["ham", "spam"])


def test_positive_label_is_one_line_with_counts_and_intervals() -> None:
    full = binary(20, 140, [*[0.9] * 18, *[0.1] * 2, *[0.9] * 2, *[0.1] * 138])

    (line,) = label_lines(full, "spam")

    assert line.startswith("positive label 'spam' (20 of 160 rows, predicted for 20): precision ")
    assert "recall 0.900 [0." in line
    assert "F1 0.900 [0." in line


@pytest.mark.parametrize("num_labels", [3, 12])
def test_many_labels_are_the_worst_five(num_labels: int) -> None:
    labels = [f"label {c}" for c in range(num_labels)]
    true_N = np.repeat(np.arange(num_labels - 1), 20)  # the last one has no rows
    scores_NC = np.full((len(true_N), num_labels), 0.01)
    scores_NC[np.arange(len(true_N)), true_N] = 0.9
    for c in range(num_labels - 1):  # label c is wrong for c rows
        scores_NC[20 * c : 21 * c, c] = 0.0
    full = measurement(true_N[:, None] == np.arange(num_labels), scores_NC, labels)

    head, *lines = label_lines(full, None)

    assert head.split() == ["label", "rows", "predicted", "precision", "recall", "F1"]
    if num_labels == 3:
        assert [line[:7] for line in lines] == ["label 1", "label 0", "1 label"]
        return
    assert [line[:8] for line in lines[:2]] == ["label 0 ", "label 10"]  # 0 gets all wrong ones
    assert lines[5] == "these have the lowest F1; 6 more labels in report.html"
    assert lines[6] == "1 labels have no test rows"


def test_long_and_hostile_labels_do_not_break_the_table() -> None:
    full = measurement(np.eye(3), np.eye(3), ["x" * 99, "a\x1b[2J\nb", "c"])

    lines = [*label_lines(full, None)]

    assert all("\x1b" not in line and "\n" not in line and len(line) < 120 for line in lines)


@pytest.mark.parametrize(
    ("scores", "verdict"),
    [
        (lambda random: random.random(200), "verdict: the model is not shown to be of use"),
        (lambda _: np.full(200, 0.2), "verdict: the model is not shown to be of use"),
        (lambda _: [*np.linspace(0.3, 0.45, 20), *[0.2] * 180], "note: always answering 'ham'"),
        (lambda _: [*[0.9] * 20, *[0.2] * 180], None),
    ],
)
def test_model_that_a_constant_answer_equals_is_said_to_be_so(
    tmp_path: Path, scores: Callable[[Any], Any], verdict: str | None
) -> None:
    """A model that ranks well, though 0.5 never decides for spam, is not called useless."""
    full = binary(20, 180, scores(np.random.default_rng(0)))

    lines = [*verdict_lines(result_of(full, ("ham",), "single_label", tmp_path))]

    assert [line.startswith(verdict or "-") for line in lines] == ([True] if verdict else [])
    assert all("always answering 'ham' is right for 90.0% of the rows" in line for line in lines)


def test_verdict_for_several_labels_compares_whole_rows(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    reference_NC = random.random((100, 4)) < 0.1
    full = measurement(reference_NC, random.random((100, 4)), "abcd", "multi_label")

    (line,) = verdict_lines(result_of(full, (), "multi_label", tmp_path))

    assert "always answering no label is right for" in line


def test_random_answers_are_called_useful_in_one_of_twenty_draws(tmp_path: Path) -> None:
    random, silent = np.random.default_rng(2), 0
    for _ in range(400):
        full = binary(50, 50, random.random(100))
        silent += not [*verdict_lines(result_of(full, ("ham",), "single_label", tmp_path))]

    assert silent <= 28  # 5 % of 400, and 1.8 standard deviations


def test_commonest_answer_is_a_whole_row() -> None:
    assert commonest_answer([("a",), ("b", "a"), ("a", "b"), ("c",)]) == ("a", "b")
    assert commonest_answer([(), (), ("a",)]) == ()


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_lines_of_a_real_run(
    make_config: Callable[..., dict[str, Any]], tmp_path: Path, task: str
) -> None:
    multi = task == "multi_label"
    rows = make_rows(300, seed=1, multi=multi)
    if not multi:
        rows = [row for row in rows if row["label"] != "login"]
    values = make_config(tmp_path / "run", task=task, method="probe")
    values["trainer"] = {}
    values["data"] = {"train": str(write_jsonl(tmp_path / "a.jsonl", rows))}
    config = RunConfig.model_validate(values)
    fit(config)
    merge(config)

    lines = "\n".join(summary_lines(evaluate(config, device="cpu")))

    assert ("\nall labels right 0." in lines) == multi
    assert ("positive label '" in lines) == (not multi)
    assert "verdict" not in lines
