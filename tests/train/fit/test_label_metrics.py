"""The checkpoint, early stopping and a search can go by precision, recall or F1 of one label."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rows import make_rows, write_jsonl
from searching import values_of

from train.audit.prepare import prepare
from train.config.run import RunConfig
from train.fit import fit as fitting
from train.fit.fit import fit
from train.fit.training_metrics import ValidationMetrics
from train.tune.tune import tune

MakeConfig = Callable[..., dict[str, Any]]
NAMES = {"billing": "data: loss", "delivery": "two words", "login": "a:b"}


def renamed(make_config: MakeConfig, tmp_path: Path, metric: str, **sections: Any) -> RunConfig:
    trainer = {"metric_for_best_model": metric, "num_train_epochs": 3}
    trainer |= sections.pop("trainer", {})
    data = {"label_map": NAMES}
    values = make_config(tmp_path / "run", data=data, trainer=trainer, **sections)
    return RunConfig.model_validate(values)


def record(config: RunConfig) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((config.output_dir / "adapter" / "fit.json").read_text())
    return read


@pytest.mark.parametrize(
    ("task", "metric"),
    [
        ("single_label", "f1:data: loss"),
        ("multi_label", "recall:a:b"),
    ],
)
def test_checkpoint_with_the_best_value_of_the_label_is_kept(
    make_config: MakeConfig, tmp_path: Path, task: str, metric: str
) -> None:
    config = renamed(make_config, tmp_path, metric, task=task, early_stopping_patience=2)

    fit(config)

    written = record(config)
    values = [line[f"eval_{metric}"] for line in written["log_history"] if "eval_loss" in line]
    assert len(values) == 4  # each epoch, and the best once more
    assert written["validation"][metric] == max(values)


def test_values_are_those_of_the_definition() -> None:
    logits = np.array([[2, 0], [2, 0], [0, 2], [0, 2], [0, 2]], dtype=np.float32)
    labels = np.array([0, 1, 1, 1, 0])

    found = {
        name: ValidationMetrics("single_label", ["ham", "spam"], name).of(logits, labels)[name]
        for name in ("precision:spam", "recall:spam", "f1:spam", "recall:ham")
    }

    assert found == pytest.approx(
        {"precision:spam": 2 / 3, "recall:spam": 2 / 3, "f1:spam": 2 / 3, "recall:ham": 1 / 2}
    )


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("f1:data:loss", r"names 'data:loss', which is not a label; did you mean `f1:data: loss`"),
        ("recall:Two  Words", r"did you mean `recall:two words`"),
        ("f1:x", r"not a label; the labels are a:b, data: loss, two words$"),
    ],
)
def test_label_that_does_not_exist_is_named_before_the_base_is_loaded(
    make_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    metric: str,
    message: str,
) -> None:
    monkeypatch.setattr(fitting, "load_base", None)
    config = renamed(make_config, tmp_path, metric)

    with pytest.raises(ValueError, match=message):
        fit(config)
    with pytest.raises(ValueError, match=message):
        prepare(config)


def test_label_without_validation_rows_cannot_choose(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    rows = [*make_rows(60, seed=1), {"text": "x", "label": "rare"}]
    source = write_jsonl(tmp_path / "train.jsonl", rows)
    trainer = {"metric_for_best_model": "f1:rare"}
    values = make_config(tmp_path / "run", data={"train": str(source)}, trainer=trainer)

    with pytest.raises(ValueError, match=r"would always be 0: no validation row has .* 'rare'"):
        fit(RunConfig.model_validate(values))


@pytest.mark.slow
def test_resumed_run_goes_on_by_the_same_metric(make_config: MakeConfig, tmp_path: Path) -> None:
    config = renamed(make_config, tmp_path, "f1:a:b")
    fit(config)
    whole = record(config)["log_history"]
    last = max((config.output_dir / "checkpoints").glob("checkpoint-*/complete.json"))
    last.unlink()

    fit(config)

    values = [line["eval_f1:a:b"] for line in whole if "eval_f1:a:b" in line]
    again = [line["eval_f1:a:b"] for line in record(config)["log_history"] if "eval_loss" in line]
    assert again == values


def test_search_goes_by_the_metric_of_a_label(make_config: MakeConfig, tmp_path: Path) -> None:
    values = values_of(make_config, tmp_path / "run")
    space = {"loss.label_smoothing": {"choices": [0.0, 0.1]}}
    values["method"] = "probe"
    values["tune"] |= {"metric": "recall:login", "trials": 1, "space": space}

    result = tune(RunConfig.model_validate(values))

    assert result.metric == "recall:login"
    assert result.best is not None
    values["tune"]["metric"] = "recall:logins"
    with pytest.raises(ValueError, match="did you mean `recall:login`"):
        tune(RunConfig.model_validate(values))
