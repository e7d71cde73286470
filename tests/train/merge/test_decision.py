"""`merge` chooses, seals and prints the decision threshold of a binary model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rows import BINARY

from serve.bundle.manifest import Manifest
from serve.bundle.seal import open_bundle
from serve.inference.decision import Rules
from serve.inference.predictor import Predictor
from serve.inference.scores import softmax
from train.config.run import RunConfig
from train.config.sections import CalibrationSection
from train.data.splits import load_data
from train.evaluation.evaluate import evaluate
from train.evaluation.measure import reference
from train.evaluation.summary import summary_lines as evaluation_lines
from train.merge.calibrate import calibrate
from train.merge.merge import merge
from train.merge.roles import DECISION_SHARE, assign_roles
from train.merge.summary import summary_lines
from train.publish.card_usage import threshold_note

LABELS = ("ham", "spam")


def section(**wish: Any) -> CalibrationSection:
    return CalibrationSection(positive_label="spam", **wish)


def rows(n: int, share: float, separation: float = 3.0, seed: int = 0) -> tuple[Any, Any]:
    generator = np.random.default_rng(seed)
    positive_N = np.arange(n) < round(share * n)
    odds_N = separation * (generator.standard_normal(n) + separation * (positive_N - 0.5))
    odds_N += np.log(share / (1 - share))
    logits_NC = np.stack([-odds_N / 2, odds_N / 2], axis=1).astype(np.float32)
    return logits_NC, np.stack([~positive_N, positive_N], axis=1)


def fitted(drawn: tuple[Any, Any], wish: CalibrationSection, checkpoints: int = 1) -> Any:
    found = calibrate(
        *drawn, 1.0, wish, task="single_label", labels=LABELS, checkpoints=checkpoints
    )
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("wish", "share", "words"),
    [
        ({"min_recall": 0.95}, 0.1, ["30 of 300", "'spam'", "at least 59", "min_recall"]),
        ({"min_recall": 0.95}, 0.0033, ["1 of 300", "at least 59"]),
        ({"min_precision": 0.95}, 0.1, ["at least 59 rows above a threshold", "min_precision"]),
        ({"objective": "f1"}, 0.02, ["6 have the label 'spam'", "at least 10 of each"]),
    ],
)
def test_wish_that_cannot_be_proved_says_how_many_rows_it_takes(
    wish: dict[str, Any], share: float, words: list[str]
) -> None:
    decision = fitted(rows(300, share), section(**wish)).decision["torch"]

    assert decision.threshold is None
    assert all(word in decision.reason for word in words), decision.reason
    assert "\n" not in decision.reason
    assert decision.validation.keys() == {"at_half"}


def test_guarantee_for_the_best_of_several_checkpoints_takes_more_rows() -> None:
    one, five = (
        fitted(rows(2000, 0.1), section(min_recall=0.95), count).decision["torch"]
        for count in (1, 5)
    )

    assert one.threshold is not None
    assert five.threshold < one.threshold
    assert "best of 5 checkpoints" in five.reason
    assert (one.checkpoints, five.checkpoints) == (1, 5)


@pytest.mark.parametrize(
    ("wish", "fit", "decide", "abstain"),
    [
        ({"objective": "f1"}, 1.0, 1.0, 0.0),
        ({"min_recall": 0.9}, 1.0, 1.0, 0.0),
        ({"min_precision": 0.9}, 0.3, 0.7, 0.0),
        ({"objective": "f1", "max_risk": 0.1}, 0.3, 0.3, 0.7),
        ({"min_recall": 0.9, "max_risk": 0.1}, 0.3, DECISION_SHARE, 0.35),
        ({"min_precision": 0.9, "max_risk": 0.1}, 0.3, 0.35, 0.35),
    ],
)
def test_rows_that_test_a_guarantee_choose_nothing_that_it_rests_on(
    wish: dict[str, Any], fit: float, decide: float, abstain: float
) -> None:
    roles = assign_roles(range(1000), section(**wish))

    shares = [each.mean() for each in (roles.fit_N, roles.decide_N, roles.abstain_N)]
    assert shares == pytest.approx([fit, decide, abstain], abs=0.002)
    assert not (roles.abstain_N & (roles.fit_N | roles.decide_N)).any()
    if "min_precision" in wish:
        assert not (roles.decide_N & roles.fit_N).any()


def test_abstention_is_judged_by_the_decisions_that_are_served() -> None:
    drawn = rows(4000, 0.3, separation=1.5)
    wish = section(costs={"false_positive": 1, "false_negative": 6}, max_risk=0.2)
    calibration = fitted(drawn, wish)

    abstention = calibration.abstention["torch"]
    rules = Rules.fitted(calibration, "torch", task="single_label", labels=LABELS)
    decision = rules.decide(softmax(drawn[0]))
    tests_N = assign_roles(range(4000), wish).abstain_N
    answered_N = tests_N & ~decision.abstain_N
    wrong_N = (decision.predicted_NC != drawn[1]).any(axis=1)
    assert rules.threshold < 0.4
    assert (abstention.answered, abstention.errors) == (
        int(answered_N.sum()),
        int((wrong_N & answered_N).sum()),
    )


def test_manifest_without_a_threshold_is_sealed_as_before() -> None:
    calibration = fitted(rows(300, 0.3), CalibrationSection())

    assert "decision" not in calibration.model_dump()


@pytest.fixture(scope="module")
def merged(
    bundles: Callable[[str], Path],
    make_config: Callable[..., dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> RunConfig:
    """A run merged for a recall of 0.7; its int8 export is included."""
    output = tmp_path_factory.mktemp("merged") / "run"
    shutil.copytree(bundles("binary").parent / "adapter", output / "adapter")
    config = RunConfig.model_validate(
        make_config(
            output,
            data={"label_map": BINARY},
            calibration={
                "positive_label": "login",
                "min_recall": 0.7,
                "threshold_confidence": 0.8,
            },
            export_int8=True,
            trainer={"metric_for_best_model": "accuracy"},
        )
    )
    merge(config)
    return config


def manifest_of(config: RunConfig) -> Manifest:
    return open_bundle(config.output_dir / "bundle").manifest


def test_each_backend_has_its_own_threshold_and_metrics_are_those_as_served(
    merged: RunConfig,
) -> None:
    manifest = manifest_of(merged)
    data = load_data(merged)
    reference_NC = reference(data.validation, data.labels)
    positive_N = reference_NC[:, data.labels.index("login")]

    for backend, split in (("torch", "validation"), ("onnx", "validation_int8")):
        predictor = Predictor.load(merged.output_dir / "bundle", device="cpu", backend=backend)
        sealed = manifest.calibration.decision[backend]
        predicted_NC = predictor.rules.decide(predictor.predict(data.validation.texts)).predicted_NC
        accuracy = (predicted_NC == reference_NC).all(axis=1).mean()
        recall = predicted_NC[positive_N][:, data.labels.index("login")].mean()
        assert predictor.rules.threshold == sealed.threshold is not None
        assert manifest.metrics[split]["accuracy"].value == pytest.approx(accuracy)
        assert sealed.validation["at_threshold"].recall == pytest.approx(recall)
        assert (sealed.rows, sealed.positives) == (len(positive_N), int(positive_N.sum()))


def test_merge_prints_the_positive_label_at_half_and_at_the_threshold(merged: RunConfig) -> None:
    text = "\n".join(summary_lines(open_bundle(merged.output_dir / "bundle")))

    assert "decision threshold on torch: 'login' is predicted from a probability of" in text
    assert "decision threshold on onnx" in text
    assert text.count("login at 0.5") == text.count("login at the threshold") == 2


def test_evaluation_shows_the_test_rows_at_both(merged: RunConfig) -> None:
    result = evaluate(merged, device="cpu")

    text = "\n".join(evaluation_lines(result))
    report = (merged.output_dir / "evaluation" / "report.html").read_text()
    assert "login at 0.5: precision" in text
    assert "login at the threshold" in text
    assert "Decision threshold for login" in report
    predicted_N = result.full.predicted_NC[:, 0]
    assert result.full.binary.at_threshold.predicted == predicted_N.sum()
    assert result.full.binary.at_half.predicted == (result.full.probabilities_NC[:, 0] > 0.5).sum()
    assert (merged.output_dir / "evaluation" / "metrics.json").read_text().count("at_half") >= 2


def test_card_says_that_the_stock_pipeline_does_not_know_the_threshold(merged: RunConfig) -> None:
    note = threshold_note(manifest_of(merged))

    assert "predicts `login` from a probability of" in note
    assert "they predict the label with the higher probability" in note


@pytest.mark.parametrize(
    ("label", "mapped", "message"),
    [
        ("Login", True, r"'Login', which data.train does not have.*did you mean `login`"),
        ("spam", True, r"its labels are 'login' and 'other'"),
        ("login", False, r"has 3 labels, and a decision threshold needs two"),
    ],
)
def test_positive_label_that_cannot_be_is_refused_with_the_data(
    make_config: Callable[..., dict[str, Any]],
    tmp_path: Path,
    label: str,
    mapped: bool,
    message: str,
) -> None:
    values = make_config(
        tmp_path / "run",
        data={"label_map": BINARY} if mapped else {},
        calibration={"positive_label": label, "objective": "f1"},
    )

    with pytest.raises(ValueError, match=message):
        load_data(RunConfig.model_validate(values))
