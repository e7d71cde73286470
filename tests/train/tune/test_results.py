"""The results of a search: importances, intervals and YAML that reads back unchanged."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from searching import MakeConfig, values_of

from serve.config import load_config
from train.config.run import RunConfig
from train.tune.report import importances, to_yaml, write_results
from train.tune.study import SeededSampler


def test_importance_finds_the_key_that_matters() -> None:
    study = optuna.create_study(direction="maximize", sampler=SeededSampler(0))
    assert importances(study, seed=0) == {}

    for _ in range(20):
        trial = study.ask()
        idle, matters = trial.suggest_float("idle", 0, 1), trial.suggest_float("matters", 0, 1)
        study.tell(trial, matters + 0.01 * idle)

    found = importances(study, seed=0)
    assert list(found) == ["matters", "idle"]
    assert found["matters"] > 0.8


def test_other_metrics_than_accuracy_get_no_interval(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = RunConfig.model_validate(values_of(make_config, tmp_path / "run"))
    study = optuna.create_study(study_name="s", direction="minimize")
    study.add_trial(optuna.create_trial(value=0.4))
    study.add_trial(optuna.create_trial(value=0.3))

    result = write_results(
        study, tmp_path, config=config, space={}, metric="loss", num_validation=30
    )

    assert result.best.number == 1
    assert result.interval is None
    assert "loss 0.3000\n" in result.summary


@pytest.mark.parametrize(
    "text",
    [
        "1e-5", "2e-5", "1.5", ".inf", "no", "true", "null", "~", "12:30", "2024-01-31", "007",
        "1_000", "0x10", "=", "<<", "a: b", "[", "", "é\n", "#x", "- a", "!x", "&x", "x\u2028y",
    ],
)  # fmt: skip
def test_strings_come_back_from_yaml_as_strings(text: str, tmp_path: Path) -> None:
    values = {
        "output_dir": "x",
        "data": {"train": "t.csv", "label_map": {text or "k": text, "a": "b"}},
        "model": {"base": "b"},
        "trainer": {"learning_rate": 1e-05, "run_name": text},
    }
    (tmp_path / "run.yaml").write_text(to_yaml(values))

    config = load_config(RunConfig, tmp_path / "run.yaml")

    assert config.data.label_map == {text or "k": text, "a": "b"}
    assert config.trainer == {"learning_rate": 1e-05, "run_name": text}
