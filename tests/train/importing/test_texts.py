"""Texts of the user judge the int8 export; with labels they also calibrate and measure."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rows import make_rows, write_jsonl

from serve.bundle.contents import ONNX_FILE
from serve.bundle.seal import open_bundle
from serve.inference.predictor import Predictor
from tests.train.importing.checkpoints import classifier
from tests.train.importing.conftest import run
from train.config.sections import CalibrationSection
from train.importing.labels import Task
from train.importing.rows import UserRows, read_user_rows

TOPICS = ("billing", "delivery", "login")


@pytest.fixture(scope="module")
def source(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier("bert", tiny_base, tmp_path_factory.mktemp("texts") / "model", labels=TOPICS)


def table(path: Path, rows: list[dict[str, object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def user_rows(file: Path, *, label: str | None = "label", task: Task = "single_label") -> UserRows:
    return read_user_rows(
        file,
        text_columns=("text",),
        label_column=label,
        task=task,
        labels=TOPICS,
        calibration=CalibrationSection(),
    )


def test_texts_without_labels_judge_an_int8_export(source: Path, tmp_path: Path) -> None:
    texts = [{"text": row["text"]} for row in make_rows(200, seed=5)]

    code = run(source, "--output", tmp_path / "bundle", "--texts", table(tmp_path / "t.csv", texts))

    manifest = open_bundle(tmp_path / "bundle").manifest
    assert code == 0
    assert manifest.int8 is not None
    assert manifest.int8.texts >= 100
    assert manifest.int8.agreement is not None
    assert manifest.int8.accuracy_fp32 is None
    assert manifest.int8.shipped == (manifest.int8.agreement >= 0.99)
    assert (ONNX_FILE in manifest.files) == manifest.int8.shipped
    assert "labels agree" in manifest.int8.reason
    assert manifest.parity["bf16_texts"] >= 100
    assert manifest.calibration is None
    assert set(manifest.data) == {"int8_ranges", "int8_texts"}


def test_few_texts_do_not_judge_an_export_and_it_is_said(source: Path, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "few.jsonl", make_rows(60, seed=5))

    assert run(source, "--output", tmp_path / "bundle", "--texts", file) == 0

    int8 = open_bundle(tmp_path / "bundle").manifest.int8
    assert int8 is not None
    assert not int8.shipped
    assert "too few to judge it by" in int8.reason


@pytest.mark.parametrize("number", [200, pytest.param(600, marks=pytest.mark.slow)])
def test_labels_calibrate_and_measure_on_different_rows(
    number: int, source: Path, tmp_path: Path
) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", make_rows(number, seed=6))

    code = run(
        *(source, "--output", tmp_path / "bundle", "--texts", file, "--label-column", "label"),
        "calibration.max_risk=0.9",
    )

    manifest = open_bundle(tmp_path / "bundle").manifest
    fitted = manifest.calibration
    assert code == 0
    assert fitted is not None
    int8 = manifest.int8
    assert int8 is not None
    assert set(fitted.abstention) == ({"torch", "onnx"} if int8.shipped else {"torch"})
    assert (int8.accuracy_fp32 is not None) == (number == 600)  # 200 rows are too few to judge it
    assert ("test_int8" in manifest.metrics) == int8.shipped
    assert "the hash of the text" in fitted.notes[0]
    assert not any("selected the checkpoint" in note for note in fitted.notes)
    assert {"test", "validation"} <= manifest.metrics.keys()
    assert manifest.metrics["test"]["accuracy"].low is not None
    rows = user_rows(file)
    chosen, judged = set(rows.data.validation.texts), set(rows.data.test.texts)
    assert not chosen & judged
    assert manifest.data["test"] == rows.data.test.fingerprint
    # Folded into the head, the temperature is the only change to the stock model's logits.
    given = Predictor.load(tmp_path / "bundle", device="cpu", backend="torch")
    assert run(source, "--output", tmp_path / "plain") == 0
    stock = Predictor.load(tmp_path / "plain", device="cpu")
    encodings = stock.encoder.encode(["invoice paid twice", "door"])
    np.testing.assert_allclose(
        given.logits(encodings) * fitted.temperature, stock.logits(encodings), atol=1e-4
    )
    assert fitted.temperature != 1.0  # a random model is over-confident


def test_multi_label_rows_choose_thresholds(tiny_base: Path, tmp_path: Path) -> None:
    source = classifier(
        "bert",
        tiny_base,
        tmp_path / "model",
        labels=TOPICS,
        problem_type="multi_label_classification",
    )
    rows = [row | {"label": ";".join(row["label"])} for row in make_rows(200, seed=7, multi=True)]
    file = table(tmp_path / "rows.csv", rows)

    code = run(
        *(source, "--output", tmp_path / "bundle", "--texts", file, "--label-column", "label"),
        *("--label-separator", ";"),
    )

    fitted = open_bundle(tmp_path / "bundle").manifest.calibration
    assert code == 0
    assert fitted is not None
    assert fitted.thresholds is not None
    assert len(fitted.thresholds) == 3


def test_numbers_are_classes_and_names_are_names(tmp_path: Path) -> None:
    rows = make_rows(120, seed=8)
    numbered = [row | {"label": str(TOPICS.index(row["label"]))} for row in rows]

    by_name = user_rows(table(tmp_path / "names.csv", rows))
    by_number = user_rows(table(tmp_path / "numbers.csv", numbered))

    assert list(by_name.data.test.labels) == list(by_number.data.test.labels)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (
            "Billing",
            r"row 4: the model has no label 'Billing'.*did you mean `billing`.*--label-map",
        ),
        ("7", r"row 4, column `label`: the label 7 is out of range"),
        ("", r"row 4, column `label`: the label is missing"),
    ],
)
def test_a_label_that_the_model_does_not_have_is_named_with_its_row(
    label: str, message: str, tmp_path: Path
) -> None:
    rows = make_rows(120, seed=8)
    rows[3]["label"] = label

    with pytest.raises(ValueError, match=message):
        user_rows(table(tmp_path / "rows.csv", rows))


def test_rows_without_text_are_skipped_and_said(tmp_path: Path) -> None:
    texts = [{"text": "a text", "id": 1}, {"text": "  ", "id": 2}, {"text": None, "id": 3}]

    rows = user_rows(write_jsonl(tmp_path / "rows.jsonl", texts), label=None)

    assert rows.texts == ["a text"]
    assert "2 rows without a usable text skipped (row 2: the text is empty" in rows.notes[-1]


def test_a_wrong_column_is_answered_with_the_right_one(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [{"Text": "a", "y": "b"}])

    with pytest.raises(ValueError, match="no column `text`, only `Text`, `y`; did you mean `Text`"):
        user_rows(file, label=None)


def test_few_labelled_rows_are_refused(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", make_rows(50, seed=8))

    with pytest.raises(ValueError, match=r"50 labelled rows; .* at least 100"):
        user_rows(file)


def test_pairs_are_read_from_two_columns(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = classifier("bert", tiny_base, tmp_path / "model", labels=TOPICS)
    file = write_jsonl(tmp_path / "rows.jsonl", make_rows(20, seed=9, columns=2))

    code = run(
        *(source, "--output", tmp_path / "bundle", "--texts", file),
        *("--text-columns", "text,text_pair"),
    )

    assert code == 0
    assert open_bundle(tmp_path / "bundle").manifest.text_columns == ("text", "text_pair")
    assert "pairs of texts of at most 64 tokens" in capsys.readouterr().out


@pytest.fixture
def imported(source: Path, tmp_path: Path) -> Callable[..., Path]:
    def make(name: str) -> Path:
        assert run(source, "--output", tmp_path / name) == 0
        return tmp_path / name

    return make


def test_an_imported_champion_is_gated_evaluated_and_has_a_card(
    imported: Callable[..., Path], source: Path, tmp_path: Path, make_config: Callable[..., dict]
) -> None:
    from train.config.run import RunConfig
    from train.evaluation.evaluate import evaluate
    from train.gate.gate import gate
    from train.publish.publish import publish

    bundle = imported("champion")
    config = RunConfig.model_validate(make_config(tmp_path / "run"))

    report, _ = gate(config, candidates=[bundle], champions=[bundle], device="cpu")
    result = evaluate(config, bundle=bundle, device="cpu")
    lines = publish(config, bundle=bundle, to=str(tmp_path / "published"))

    assert report.test["rows"] == 60
    assert not report.passed  # the same model is no better
    metrics = json.loads((result.directory / "metrics.json").read_text())
    assert metrics["model_version"] == open_bundle(bundle).manifest.version
    assert lines[0].startswith("published: bundle")
    card = next((tmp_path / "published").rglob("README.md")).read_text()
    assert "## Origin" in card
    assert "imported from: `model`" in card
    assert "stock classes of transformers" in card
    assert "None" not in card
