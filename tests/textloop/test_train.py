"""`textloop.train` and `textloop.load`: from rows in memory to predictions."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest
from rows import make_rows, write_jsonl

import textloop

ROWS = make_rows(200, seed=1)
QUICK: dict[str, Any] = {
    "method": "probe",
    "export_int8": False,
    "model.max_length": 32,
    "cpu_threads": 1,
}


@pytest.fixture(scope="module")
def train(tiny_base: Path) -> Callable[..., textloop.Run]:
    def train(data: Any, **arguments: Any) -> textloop.Run:
        return textloop.train(data, base=str(tiny_base), **QUICK, **arguments)

    return train


@pytest.fixture(scope="module")
def run(train: Any, tmp_path_factory: pytest.TempPathFactory) -> textloop.Run:
    frame = pd.DataFrame(ROWS).rename(columns={"text": "message", "label": "intent"})
    directory = tmp_path_factory.mktemp("python") / "run"
    return train(frame, text="message", label="intent", output_dir=directory, verbose=False)


def test_a_frame_becomes_a_run_with_metrics_report_and_bundle(run: textloop.Run) -> None:
    assert run.labels == ["billing", "delivery", "login"]
    assert 0 <= run.metrics["accuracy"].low <= run.metrics["accuracy"].value <= 1
    assert run.bundle == run.directory / "bundle"
    assert run.manifest.text_columns == ("message",)
    assert f"<Run: {run.directory}>\nmethod probe, 3 labels, " in repr(run)
    assert f"accuracy     {run.metrics['accuracy']}" in repr(run)
    assert run.classifier.predict("my parcel is late") in run.labels


def test_what_was_decided_is_printed_as_on_the_command_line(
    train: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(ROWS, output_dir=tmp_path / "run", **{"calibration.max_risk": 0.001})

    out = capsys.readouterr().out
    assert "abstention on torch: none: no threshold guarantees a selective risk" in out
    assert f"sealed {tmp_path / 'run' / 'bundle'}, version " in out
    assert "test metrics on " in out


def test_the_report_is_framed_in_notebooks(run: textloop.Run) -> None:
    shown = run._repr_html_()

    assert list(run.reports) == ["evaluation"]
    assert shown.count("<iframe srcdoc=") == 1
    assert "<style" not in shown.replace("&lt;style", "")
    assert 'sandbox=""' in run.reports["evaluation"]._repr_html_()


def test_a_run_is_opened_again_and_loaded(run: textloop.Run) -> None:
    texts = [row["text"] for row in ROWS[:5]]

    assert repr(textloop.Run(run.directory)) == repr(run)
    for source in (run.directory, str(run.bundle)):
        assert textloop.load(source).predict(texts) == run.classifier.predict(texts)
    with pytest.raises(ValueError, match="no bundle at `nowhere`: there is no such directory"):
        textloop.load("nowhere")


def test_its_yaml_is_that_of_the_commands(
    run: textloop.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    from textloop.__main__ import main

    assert main(["evaluate", "--config", str(run.directory / "textloop.yaml")]) == 0
    assert "accuracy" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["polars", "dicts", "path", "generator"])
def test_other_forms_train_the_same(
    form: str, train: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {
        "polars": lambda: pl.DataFrame(ROWS),
        "dicts": lambda: ROWS,
        "path": lambda: write_jsonl(tmp_path / "rows.jsonl", ROWS),
        "generator": lambda: iter(ROWS),
    }[form]()

    run = train(given, output_dir=tmp_path / "run", test=ROWS[:30], verbose=form == "path")

    assert run.manifest.data["test"]["rows"] == 30
    assert ("data: " in capsys.readouterr().out) == (form == "path")


def test_lists_and_columns_of_labels_are_multi_label(train: Any, tmp_path: Path) -> None:
    rows = make_rows(200, seed=1, multi=True)
    frame = pd.DataFrame(rows)

    run = train(frame, output_dir=tmp_path / "lists", verbose=False)

    assert run.manifest.task == "multi_label"
    assert isinstance(run.classifier.predict("parcel"), list)
    names = run.labels
    hot = frame[["text"]].assign(**{n: frame["label"].map(lambda ls, n=n: n in ls) for n in names})
    again = train(hot, label=names, output_dir=tmp_path / "columns", verbose=False)
    assert again.labels == names


def test_it_writes_nowhere_else_and_may_be_called_twice(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    level = logging.getLogger("transformers").level

    first = train(ROWS, verbose=False)
    second = train(ROWS, verbose=False)

    assert os.listdir(tmp_path) == ["runs"]
    assert sorted(os.listdir("runs")) == sorted([first.directory.name, second.directory.name])
    assert first.directory != second.directory
    assert logging.getLogger("transformers").level == level
    assert first.metrics == second.metrics


WRONG: list[tuple[Any, dict[str, Any], str]] = [
    (ROWS, {"text": "txet"}, "has no column `txet`, only .*did you mean `text`"),
    (ROWS, {"config": {"model.max_lenght": 8}}, "did you mean `model.max_length`"),
    (ROWS, {"trainer.learning_rat": 1}, "did you mean `trainer.learning_rate`"),
    (ROWS, {"seed.a": 1, "config": {"seed": 3}}, "`seed.a`: `seed` is a value"),
    (ROWS, {"config": "none.yaml"}, "no configuration file at `none.yaml`"),
    ([], {}, "the data have no rows"),
    (ROWS[:1] * 30, {}, "a classifier needs two or more"),
    ([{"text": "a", "label": object()}], {}, "row 0, column 'label': a value of type object"),
    ("none.csv", {}, "cannot read `none.csv`: there is no data file"),
    (None, {}, "key `data` is required"),
    (pd.DataFrame(ROWS).assign(label=None), {}, "200 unusable rows"),
]


@pytest.mark.parametrize(("data", "arguments", "message"), WRONG, ids=range(len(WRONG)))
def test_mistakes_are_value_errors(
    data: Any, arguments: dict[str, Any], message: str, train: Any, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        train(data, output_dir=tmp_path / "run", verbose=False, **arguments)


@pytest.mark.parametrize("data", [5, {"text": ["a"]}, ["a", "b"]])
def test_what_has_no_rows_is_a_type_error(data: Any, train: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="list of dicts"):
        train(data, output_dir=tmp_path / "run")


def test_values_of_frames_are_kept_or_missing(tmp_path: Path) -> None:
    from train.api.rows import write_rows_of

    frame = pd.DataFrame(
        {
            "text": ["a", None],
            "n": [1, 2],
            "x": [0.5, float("nan")],
            "t": pd.to_datetime(["2026"] * 2),
        }
    )
    first = write_rows_of(frame, tmp_path / "rows.jsonl")

    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert lines[0] == first == {"text": "a", "n": 1, "x": 0.5, "t": "2026-01-01T00:00:00"}
    assert lines[1] == {"text": None, "n": 2, "x": None, "t": "2026-01-01T00:00:00"}
