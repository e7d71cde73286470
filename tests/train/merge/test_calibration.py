"""Temperature, thresholds and abstention, fitted on validation rows, keep their guarantees."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peft import PeftModel
from processes import ROOT, run
from scipy.stats import binom
from sklearn.metrics import f1_score

from serve.bundle.seal import open_bundle
from serve.inference.backends.torch import TorchBackend
from serve.inference.decision import Rules
from serve.inference.passes import batched_logits
from serve.inference.predictor import Predictor
from serve.inference.scores import (
    activate,
    chosen,
    confidence,
    default_activation,
    sigmoid,
    softmax,
)
from serve.inference.text import TextEncoder
from train.config.run import RunConfig
from train.config.sections import CalibrationSection
from train.data.splits import load_data
from train.evaluation.measure import reference
from train.merge.calibrate import calibrate, choose_temperature, fit_temperature
from train.merge.merge import merge, num_checkpoints
from train.merge.roles import fitting_rows
from train.model.adapters import peft_warnings_off
from train.model.base import load_base
from train.statistics.metrics import one_hot
from train.statistics.selective import PILOT_SHARE, choose_threshold, pilot_rows, risk_curve
from train.statistics.thresholds import MIN_POSITIVES, fit_thresholds

Remerge = Callable[..., RunConfig]


@pytest.fixture
def remerge(
    bundles: Callable[[str], Path], make_config: Callable[..., dict[str, Any]], tmp_path: Path
) -> Remerge:
    """Merge a trained run again with another calibration, into a new directory."""

    def make(kind: str, **calibration: Any) -> RunConfig:
        output = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(bundles(kind).parent / "adapter", output / "adapter")
        config = RunConfig.model_validate(
            make_config(
                output,
                task="multi_label" if kind == "multi" else "single_label",
                calibration=calibration,
                trainer={"metric_for_best_model": "f1_micro" if kind == "multi" else "accuracy"},
            )
        )
        merge(config)
        return config

    return make


# Temperature


def test_temperature_of_single_label_logits_is_found() -> None:
    generator = np.random.default_rng(0)
    true_NC = generator.normal(0, 2, (20_000, 5))
    p_NC = softmax(true_NC.astype(np.float32))
    drawn_N = (generator.random(20_000)[:, None] > p_NC.cumsum(axis=1)).sum(axis=1).clip(0, 4)

    found = fit_temperature((true_NC * 2.5).astype(np.float32), one_hot(drawn_N, 5), "single_label")

    assert found == pytest.approx(2.5, rel=0.05)


def test_temperature_of_multi_label_logits_is_found() -> None:
    generator = np.random.default_rng(1)
    true_NC = generator.normal(-1, 2, (10_000, 4)).astype(np.float32)
    reference_NC = generator.random(true_NC.shape) < sigmoid(true_NC)

    found = fit_temperature(true_NC * 0.4, reference_NC, "multi_label")

    assert found == pytest.approx(0.4, rel=0.05)


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_split_without_an_error_does_not_make_the_model_certain(task: str) -> None:
    reference_NC = one_hot(np.arange(60) % 3, 3)
    logits_NC = np.where(reference_NC, 2.0, -2.0).astype(np.float32)

    temperature = fit_temperature(logits_NC, reference_NC, task)

    p_NC = activate(logits_NC / np.float32(temperature), default_activation(task))
    assert 0.9 < p_NC.max() < 1 - 1 / 200


def test_logits_that_are_not_finite_have_no_temperature() -> None:
    with pytest.raises(ValueError, match="not finite"):
        fit_temperature(np.array([[np.nan, 1.0]], np.float32), one_hot(np.array([0]), 2), "x")


def calibrated_rows(n: int, seed: int, task: str, scale: float = 1.0) -> tuple[Any, Any]:
    """Logits of a model that is calibrated once they are divided by `scale`, and the labels."""
    generator = np.random.default_rng(seed)
    true_NC = generator.normal(-1 if task == "multi_label" else 0, 1.5, (n, 6))
    if task == "multi_label":
        # Labels that come in pairs: the decisions of a row are not independent.
        true_NC[:, 3:], uniform_NC = true_NC[:, :3], np.tile(generator.random((n, 3)), 2)
        return (true_NC * scale).astype(np.float32), uniform_NC < sigmoid(true_NC)
    drawn_N = (true_NC + generator.gumbel(0, 1, (n, 6))).argmax(axis=1)
    return (true_NC * scale).astype(np.float32), one_hot(drawn_N, 6)


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
@pytest.mark.parametrize("n", [20, 96, 300])
def test_temperature_of_a_calibrated_model_seldom_leaves_one(task: str, n: int) -> None:
    """Always fitting one makes the log-loss on fresh rows worse in 70 to 95 % of draws."""
    used = 0
    for seed in range(60):
        temperature, note = choose_temperature(*calibrated_rows(n, seed, task), task)
        used += temperature != 1.0
        assert (temperature == 1.0) == note.startswith("the temperature stays 1: ")

    assert used <= binom.ppf(0.999, 60, 0.16)


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_temperature_of_an_overconfident_model_is_used(task: str) -> None:
    used = [
        choose_temperature(*calibrated_rows(300, seed, task, 2.0), task)[0] for seed in range(9)
    ]

    assert all(1.3 < temperature < 3.0 for temperature in used)


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_temperature_that_makes_its_own_rows_worse_is_not_used(task: str) -> None:
    """Rows without an error: smoothed targets soften a model that was right each time."""
    reference_NC = one_hot(np.arange(138) % 2, 2)
    logits_NC = np.where(reference_NC, 8.0, -8.0).astype(np.float32)
    assert fit_temperature(logits_NC, reference_NC, task) > 1.1

    temperature, note = choose_temperature(logits_NC, reference_NC, task)

    assert temperature == 1.0
    assert "138 rows have too few errors to fit one" in note


@pytest.mark.parametrize(
    ("logits", "reference"),
    [
        pytest.param(np.eye(3) * 10, np.roll(np.eye(3, dtype=bool), 1, axis=1), id="all wrong"),
        pytest.param(np.eye(3) * 1e-3, np.eye(3, dtype=bool), id="far too small"),
    ],
)
def test_temperature_at_the_end_of_its_range_is_not_used(
    logits: np.ndarray, reference: np.ndarray
) -> None:
    logits_NC, reference_NC = (
        np.tile(logits, (10, 1)).astype(np.float32),
        np.tile(reference, (10, 1)),
    )

    temperature, note = choose_temperature(logits_NC, reference_NC, "single_label")

    assert temperature == 1.0
    assert "is at the limit of its range; inspect the data" in note


@pytest.mark.parametrize(
    ("logits", "reference", "task"),
    [
        pytest.param([[2.0]] * 5, [[True]] * 5, "single_label", id="one label"),
        pytest.param([[0.0, 0.0, 0.0]] * 5, [[True, False, False]] * 5, "single_label", id="flat"),
        pytest.param([[1e6, -1e6]] * 5, [[True, False]] * 5, "multi_label", id="huge"),
        pytest.param([[3.0, 1.0]], [[True, False]], "single_label", id="one row"),
        pytest.param([[3.0, 1.0]], [[False, True]], "single_label", id="one wrong row"),
    ],
)
def test_rows_that_say_nothing_of_a_temperature_leave_it_at_one(
    logits: list[list[float]], reference: list[list[bool]], task: str
) -> None:
    found, _ = choose_temperature(np.array(logits, np.float32), np.array(reference), task)

    assert found == 1.0


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_stock_model_of_the_bundle_gives_the_trained_logits_divided_by_the_temperature(
    kind: str, remerge: Remerge
) -> None:
    config = remerge(kind)
    bundle = open_bundle(config.output_dir / "bundle")
    data = load_data(config)
    adapter = config.output_dir / "adapter"
    encoder = TextEncoder.from_directory(adapter, max_length=32, is_pair=False)
    encodings = encoder.encode(data.test.texts)
    with peft_warnings_off():
        model = PeftModel.from_pretrained(load_base(config, data.labels).model, adapter)
    trained_NC = batched_logits(
        TorchBackend(model, device="cpu"), encoder, encodings, batch_size=32
    )

    sealed_NC = Predictor.load(bundle.path, device="cpu", backend="torch").logits(encodings)

    fitted = bundle.manifest.calibration
    assert fitted.temperature != 1.0
    assert sealed_NC == pytest.approx(trained_NC / fitted.temperature, abs=1e-4)
    assert fitted.log_loss_after <= fitted.log_loss_before
    assert fitted.rows == len(data.validation)
    validation_NC = Predictor.load(bundle.path, device="cpu", backend="torch").predict(
        data.validation.texts
    )
    again = fit_temperature(
        np.log(validation_NC / (1 if kind == "single" else 1 - validation_NC)),
        reference(data.validation, data.labels),
        config.task,
    )
    assert again == pytest.approx(1.0, abs=1e-3)


def test_without_calibration_the_logits_are_those_of_training(remerge: Remerge) -> None:
    config = remerge("single", temperature=False)

    assert open_bundle(config.output_dir / "bundle").manifest.calibration is None


def test_risk_confidence_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="max_risk"):
        CalibrationSection(risk_confidence=0.9)


# Thresholds


def test_threshold_of_each_label_has_the_best_f1_of_all() -> None:
    generator = np.random.default_rng(2)
    reference_NC = generator.random((120, 4)) < [0.15, 0.3, 0.5, 0.8]
    p_NC = sigmoid((generator.normal(0, 1, (120, 4)) + 1.5 * reference_NC - 2).astype(np.float32))

    thresholds_C = fit_thresholds(p_NC, reference_NC)

    for c in range(4):
        every = [f1_score(reference_NC[:, c], p_NC[:, c] >= t) for t in p_NC[:, c]]
        found = f1_score(reference_NC[:, c], p_NC[:, c] >= thresholds_C[c])
        assert found == pytest.approx(max(every))


def test_label_with_too_few_rows_keeps_one_half() -> None:
    few_N = np.arange(100) < MIN_POSITIVES - 1
    enough_N = np.arange(100) < MIN_POSITIVES
    p_N = np.where(np.arange(100) < 20, 0.3, 0.1).astype(np.float32)

    thresholds_C = fit_thresholds(
        np.column_stack([p_N] * 3), np.column_stack([few_N, enough_N, ~few_N])
    )

    assert thresholds_C.tolist() == pytest.approx([0.5, 0.2, 0.5])


def test_among_equally_good_thresholds_the_nearest_to_one_half_is_taken() -> None:
    p_N = np.linspace(0, 1, 101).astype(np.float32)

    (threshold,) = fit_thresholds(p_N[:, None], (p_N > 0.5)[:, None])

    assert 0.5 < threshold < 0.51
    assert (
        chosen(p_N[:, None], "multi_label", np.array([threshold]))[:, 0].tolist()
        == (p_N > 0.5).tolist()
    )


# Abstention


def test_confidence_is_that_of_the_whole_answer() -> None:
    p_NC = np.array([[0.9, 0.2, 0.4]], np.float32)
    predicted_NC = chosen(p_NC, "multi_label")

    assert confidence(p_NC, predicted_NC, "multi_label") == pytest.approx([0.9 * 0.8 * 0.6])
    assert confidence(p_NC, chosen(p_NC, "single_label"), "single_label") == pytest.approx([0.9])


def test_risk_curve_answers_equal_confidences_together() -> None:
    curve = risk_curve(np.array([0.9, 0.5, 0.9, 0.1]), np.array([False, True, True, False]))

    assert curve.threshold_K.tolist() == [0.9, 0.5, 0.1]
    assert curve.coverage_K.tolist() == [0.5, 0.75, 1.0]
    assert curve.risk_K == pytest.approx([0.5, 2 / 3, 0.5])


def error_rate(confidence_N: np.ndarray, shape: str) -> np.ndarray:
    """Probability that an answer of a confidence is wrong; for two shapes not falling in it."""
    if shape == "overconfident":
        return 0.03 + 1.2 * (1 - confidence_N)
    if shape == "bump":
        return np.where((confidence_N > 0.85) & (confidence_N < 0.9), 0.5, 1 - confidence_N)
    return 1 - confidence_N


@pytest.mark.parametrize("shape", ["calibrated", "overconfident", "bump"])
@pytest.mark.parametrize("max_risk", [0.05, 0.1])
def test_risk_of_the_answers_keeps_the_bound_as_often_as_promised(
    shape: str, max_risk: float
) -> None:
    """200 draws of 800 rows, against the true risk of 200,000."""
    generator = np.random.default_rng(3)
    population = 1 / (1 + np.exp(-generator.normal(2.5, 1.5, 200_000)))
    rate = np.clip(error_rate(population, shape), 0, 1)
    order = np.argsort(-population)
    true_risk = np.cumsum(rate[order]) / np.arange(1, len(order) + 1)
    falling = -population[order]
    broken = found = 0
    for _ in range(200):
        rows = generator.integers(0, len(population), 800)
        wrong_N = generator.random(800) < rate[rows]
        result = choose_threshold(
            population[rows],
            wrong_N,
            pilot_N=np.arange(800) < 240,
            max_risk=max_risk,
            risk_confidence=0.9,
        )
        if result.abstain_below is not None:
            found += 1
            answered = int(np.searchsorted(falling, -result.abstain_below, side="right"))
            broken += bool(true_risk[answered - 1] > max_risk)

    assert broken <= binom.ppf(0.999, 200, 0.1)
    assert found >= (1 if shape == "overconfident" else 100)


def test_threshold_without_multiplicity_would_break_its_promise() -> None:
    """The test above can fail: the plain "smallest threshold that looks good" does break it."""
    generator = np.random.default_rng(4)
    broken = 0
    for _ in range(50):
        confidence_N = generator.random(800)
        wrong_N = generator.random(800) < 0.1  # whatever the confidence
        curve = risk_curve(confidence_N, wrong_N)
        broken += bool((curve.risk_K[100:] <= 0.095).any())
        assert choose_threshold(
            confidence_N,
            wrong_N,
            pilot_N=np.arange(800) < 240,
            max_risk=0.3,
            risk_confidence=0.9,
        ).abstain_below == pytest.approx(0.0)

    assert broken > 25


def test_where_no_threshold_is_proved_there_is_none_and_the_reason_is_said() -> None:
    result = choose_threshold(
        np.linspace(0.9, 1, 50),
        np.zeros(50, bool),
        pilot_N=np.arange(50) < 15,
        max_risk=0.01,
        risk_confidence=0.95,
    )

    assert result.abstain_below is None
    assert "larger calibration.max_risk" in result.reason
    assert "35 validation rows" in result.reason


def test_equal_texts_have_the_same_role_and_the_order_of_rows_does_not_matter() -> None:
    texts = [f"text {n % 40}" for n in range(100)]

    pilot_N = pilot_rows(texts)

    assert all(pilot_N[n] == pilot_N[n % 40] for n in range(100))
    assert PILOT_SHARE * 100 <= pilot_N.sum() < PILOT_SHARE * 100 + 3
    assert (pilot_rows(texts[::-1]) == pilot_N[::-1]).all()
    assert pilot_rows([("one", "pair")]).tolist() == [True]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_or_equal_rows_give_no_threshold_and_the_reason(n: int) -> None:
    found = calibrate(
        np.array([[3.0, -3.0]] * n, np.float32),
        one_hot(np.zeros(n, dtype=np.int64), 2),
        1.0,
        CalibrationSection(max_risk=0.1),
        task="single_label",
        labels="ab",
        texts=["the same"] * n,
    )

    assert found.abstention["torch"].abstain_below is None
    assert found.abstention["torch"].rows == 0
    assert "29 error-free high-confidence rows are needed" in found.abstention["torch"].reason


@pytest.mark.parametrize("num_labels", [20, 28])
def test_thresholds_of_labels_do_not_break_the_promise_of_abstention(num_labels: int) -> None:
    """60 draws of a whole calibration; chosen and tested on the same rows, half of them break."""
    generator = np.random.default_rng(num_labels)
    max_risk = num_labels / 100

    def draw(n: int) -> tuple[Any, Any]:
        reference_NC = generator.random((n, num_labels)) < 0.08
        evidence_NC = generator.normal(0, 1, (n, num_labels)) + 3.9 * reference_NC
        logits_NC = 3.9 * evidence_NC - 3.9**2 / 2 + np.log(0.08 / 0.92)
        return logits_NC.astype(np.float32), reference_NC

    fresh_NC, true_NC = draw(10_000)
    fresh_NC = sigmoid(fresh_NC)
    offered = broken = 0
    for _ in range(60):
        section = CalibrationSection(max_risk=max_risk)
        found = calibrate(*draw(400), 1.0, section, task="multi_label", labels="x" * num_labels)
        abstention = found.abstention["torch"]
        rules = Rules(
            task="multi_label", thresholds_C=np.float32(found.thresholds), abstention=abstention
        )
        decision = rules.decide(fresh_NC)
        if decision.abstain_N is not None:
            offered += 1
            wrong_N = (decision.predicted_NC != true_NC).any(axis=1)
            broken += bool(wrong_N[~decision.abstain_N].mean() > max_risk)

    assert broken <= binom.ppf(0.999, 60, 0.05)
    assert offered >= 30


def test_promise_covers_the_choice_of_a_checkpoint() -> None:
    """The best of five independent checkpoints on the rows that test the threshold."""
    generator = np.random.default_rng(6)
    population = np.sort(1 / (1 + np.exp(-generator.normal(2.5, 1.5, 100_000))))[::-1]
    true_risk = np.cumsum(1 - population) / np.arange(1, len(population) + 1)
    broken = {1: 0, 5: 0}
    for _ in range(150):
        draws = []
        for _ in range(5):
            confidence_N = generator.choice(population, 500)
            draws.append((confidence_N, generator.random(500) > confidence_N))
        confidence_N, wrong_N = min(draws, key=lambda each: each[1].sum())
        for checkpoints in broken:
            below = choose_threshold(
                confidence_N,
                wrong_N,
                pilot_N=np.arange(500) < 150,
                max_risk=0.1,
                risk_confidence=0.95,
                checkpoints=checkpoints,
            ).abstain_below
            if below is not None:
                answered = int((population >= below).sum())
                broken[checkpoints] += bool(true_risk[answered - 1] > 0.1)

    assert broken[5] <= binom.ppf(0.999, 150, 0.05)
    assert broken[1] > broken[5]


def test_checkpoints_are_counted_by_the_steps_that_were_evaluated() -> None:
    history = [
        {"loss": 1.0, "step": 5},
        {"eval_loss": 0.9, "step": 10},
        {"eval_loss": 0.8, "step": 20},
        {"eval_loss": 0.8, "step": 20},  # the best one again, at the end
    ]

    assert num_checkpoints(history) == 2
    assert num_checkpoints([]) == 1


def test_merge_chooses_a_threshold_for_full_precision(remerge: Remerge) -> None:
    config = remerge("single", max_risk=0.6)

    found = open_bundle(config.output_dir / "bundle").manifest.calibration.abstention["torch"]

    predictor = Predictor.load(config.output_dir / "bundle", device="cpu", backend="torch")
    data = load_data(config)
    decision = predictor.rules.decide(predictor.predict(data.validation.texts))
    tests_N = ~fitting_rows(data.validation.texts, config.calibration)
    answered_N = ~decision.abstain_N & tests_N
    assert predictor.rules.abstain_below == found.abstain_below is not None
    assert int(tests_N.sum()) == found.rows
    assert int(answered_N.sum()) == found.answered
    right_N = (decision.predicted_NC == reference(data.validation, data.labels)).all(axis=1)
    assert int((~right_N[answered_N]).sum()) == found.errors
    assert found.checkpoints > 1


def test_script_holds_the_promise_against_rows_of_its_own(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    generator = np.random.default_rng(5)
    confidence_N = 1 / (1 + np.exp(-generator.normal(3, 1.5, 3000)))
    correct_N = generator.random(3000) < confidence_N
    file = tmp_path / "predictions.parquet"
    parquet.write_table(pa.table({"confidence": confidence_N, "correct": correct_N}), file)

    result = run(ROOT / "scripts" / "check_abstention", "--predictions", file, "--max-risk", "0.04")

    assert result.returncode == 0, result.stdout + result.stderr
    assert "refuted in " in result.stdout
    assert result.stdout.count("coverage") >= 15


def test_script_simulates_whole_calibrations() -> None:
    result = run(ROOT / "scripts" / "check_abstention", "--draws", "4", "--design", "0")

    assert result.returncode == 0, result.stdout + result.stderr
    assert "promise broken in 0 of 4" in result.stdout
