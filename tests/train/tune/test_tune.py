"""A search never reads the test rows, and writes a configuration for `fit`."""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.trial import TrialState
from rows import make_rows, write_jsonl
from searching import MakeConfig, study_in, values_of

from serve.config import load_config
from train.__main__ import main
from train.config.run import RunConfig
from train.data.splits import load_data
from train.fit.fit import fit
from train.tune.report import TuneResult
from train.tune.study import open_study
from train.tune.tune import prepare, tune


@pytest.fixture(scope="module")
def searched(
    make_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], TuneResult]:
    """A search of four trials on a run whose test file cannot be read."""
    directory = tmp_path_factory.mktemp("searched")
    values = values_of(make_config, directory / "run")
    values["data"]["test"] = str(directory / "test.jsonl")
    Path(values["data"]["test"]).write_text("no JSON, so that reading it raises\n")
    return values, tune(RunConfig.model_validate(values))


def test_test_rows_are_never_read(searched: tuple[dict[str, Any], TuneResult]) -> None:
    values, result = searched

    with pytest.raises(ValueError, match="cannot read"):
        load_data(RunConfig.model_validate(values))

    assert result.counts == {"complete": 4}


def test_winner_is_a_configuration_that_fit_takes_and_reproduces(
    searched: tuple[dict[str, Any], TuneResult], tmp_path: Path
) -> None:
    values, result = searched
    text = result.best_file.read_text()
    test = write_jsonl(tmp_path / "test.jsonl", make_rows(60, seed=2))
    overrides = [f"data.test={test}", f"output_dir={tmp_path / 'run'}"]
    config = load_config(RunConfig, result.best_file, overrides)

    metrics = fit(config)

    assert metrics["accuracy"] == result.best.value
    assert config.trainer["learning_rate"] == result.best.params["trainer.learning_rate"]
    assert config.tune.space == {}
    assert f"study {values['output_dir']}, trial {result.best.number}, best of 4" in text
    assert "on the validation split, not on test" in text


def test_only_the_best_trial_keeps_its_files(
    searched: tuple[dict[str, Any], TuneResult],
) -> None:
    values, result = searched
    kept = sorted(path.name for path in Path(values["output_dir"], "tune").glob("trial-*"))
    best = Path(values["output_dir"], "tune", kept[0])

    assert kept == [f"trial-{result.best.number:04d}"]
    assert {path.name for path in best.iterdir()} >= {"adapter", "checkpoints", "fit.log"}
    assert "best on validation" in (best / "fit.log").read_text()


def test_table_has_a_line_for_each_trial(searched: tuple[dict[str, Any], TuneResult]) -> None:
    _, result = searched

    with result.table_file.open(newline="") as file:
        lines = list(csv.DictReader(file))

    assert [line["trial"] for line in lines] == ["0", "1", "2", "3"]
    assert max(float(line["value"]) for line in lines) == result.best.value
    assert {line["lora.r"] for line in lines} <= {"2", "4"}
    assert {line["evaluations"] for line in lines} == {"2"}
    assert len({line["trainer.learning_rate"] for line in lines}) == 4


def test_summary_says_how_far_to_trust_the_best(
    searched: tuple[dict[str, Any], TuneResult],
) -> None:
    _, result = searched
    low, high = result.interval

    assert 0 < low < result.best.value < high <= 1
    assert f"accuracy {result.best.value:.4f}  [{low:.4f}, {high:.4f}]" in result.summary
    assert "The best of 4 on the rows that chose it is optimistic" in result.summary


def test_finished_search_goes_on_with_more_trials(
    searched: tuple[dict[str, Any], TuneResult], capsys: pytest.CaptureFixture[str]
) -> None:
    values, result = searched
    more = values | {"tune": values["tune"] | {"trials": 5}}

    again = tune(RunConfig.model_validate(values))
    assert re.findall(r"^trial (\d+)", capsys.readouterr().out, re.MULTILINE) == []
    longer = tune(RunConfig.model_validate(more))

    assert again.best.number == result.best.number
    assert re.findall(r"^trial (\d+)", capsys.readouterr().out, re.MULTILINE) == ["4"]
    assert longer.counts == {"complete": 5}


def test_settings_that_do_not_affect_training_may_change_during_a_search(
    searched: tuple[dict[str, Any], TuneResult],
) -> None:
    values, _ = searched
    result = tune(RunConfig.model_validate(values))
    edited = values | {"publish": {"description": "Routes messages."}, "gate": {"margin": 0.02}}

    assert tune(RunConfig.model_validate(edited)).best.number == result.best.number


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, r"different settings \(config.seed: 0 there, 1 now\)"),
        ({"model": {"max_length": 16}}, "config.model.max_length: 32 there, 16 now"),
        ({"tune": {"metric": "loss"}}, "metric_for_best_model|direction"),
    ],
)
def test_trials_that_cannot_be_compared_are_not_mixed(
    searched: tuple[dict[str, Any], TuneResult], changes: dict[str, Any], message: str
) -> None:
    values = dict(searched[0])
    for key, value in changes.items():
        values[key] = values[key] | value if isinstance(value, dict) else value

    with pytest.raises(ValueError, match=message):
        tune(RunConfig.model_validate(values))


def test_trial_that_falls_behind_is_pruned(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After five perfect trials, one that learns nothing is pruned at its first evaluation."""
    space = {"trainer.learning_rate": {"choices": [0.0]}}
    values = values_of(make_config, tmp_path / "run", trials=6, space=space, pruner="median")
    config = RunConfig.model_validate(values)
    search = prepare(config)
    study = open_study(
        search.directory,
        storage=None,
        name=config.output_dir.as_posix(),
        maximize=True,
        pruner="median",
        seed=0,
        identity=search.identity,
    )
    for _ in range(5):
        study.add_trial(optuna.create_trial(value=1.0, intermediate_values={1: 1.0, 2: 1.0}))

    result = tune(config)

    last = study_in(tmp_path / "run").trials[-1]
    assert last.state == TrialState.PRUNED
    assert list(last.intermediate_values) == [1]
    assert result.counts == {"complete": 5, "pruned": 1}
    assert "trial 5: pruned after 1 evaluations" in capsys.readouterr().out
    assert list(search.directory.glob("trial-*")) == []


def test_search_whose_trials_all_fail_says_why_and_exits_with_1(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = {"trainer.learning_rate": {"choices": [1e30]}}
    values = values_of(make_config, tmp_path / "run", trials=2, space=space)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))

    code = main(["tune", "--config", str(tmp_path / "run.yaml")])

    shown = capsys.readouterr().out
    assert code == 1
    assert "2 failed: ValueError: the loss is nan at step" in shown
    assert "lower trainer.learning_rate" in shown
    assert not (tmp_path / "run" / "tune" / "best.yaml").exists()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"space": {}}, "tune.space is empty"),
        ({"space": {"lora.rank": {"low": 1, "high": 2}}}, "unknown key `lora.rank`; known: "),
        (
            {"space": {"trainer.learning_rat": {"low": 0.1, "high": 0.2}}},
            "`trainer.learning_rat` is not a field of TrainingArguments",
        ),
        (
            {"space": {"trainer.per_device_train_batch_size": {"low": 8.0, "high": 16.0}}},
            "`trainer.per_device_train_batch_size` = 8.0: expected an integer, written without",
        ),
        (
            {"space": {"model.max_length": {"choices": [16, 65]}}},
            "model.max_length = 65, but .* takes at most 64",
        ),
        ({"space": {"model.base": {"choices": ["./nowhere"]}}}, "`./nowhere` is no directory"),
        ({"storage": "nosuchdb://x"}, "tune.storage: cannot open the study"),
        ({"storage": "postgresql://me:hunter2@h/db"}, r"`postgresql://me:\*\*\*@h/db` contains"),
    ],
)
def test_mistakes_are_named_before_the_first_trial(
    make_config: MakeConfig, tmp_path: Path, keys: dict[str, Any], message: str
) -> None:
    config = RunConfig.model_validate(values_of(make_config, tmp_path / "run", **keys))

    with pytest.raises(ValueError, match=message):
        tune(config)

    assert not list(tmp_path.rglob("trial-*"))


def test_launcher_of_several_processes_is_refused(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")

    with pytest.raises(ValueError, match="start several workers"):
        prepare(RunConfig.model_validate(values_of(make_config, tmp_path / "run")))


def test_missing_library_is_named(
    make_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values_of(make_config, tmp_path / "run")))
    monkeypatch.delitem(sys.modules, "train.tune.tune")
    monkeypatch.setitem(sys.modules, "optuna", None)

    code = main(["tune", "--config", str(tmp_path / "run.yaml")])

    assert code == 2
    assert "needs the tune extra: pip install 'textloop[tune]'" in capsys.readouterr().err


def test_search_over_what_the_method_does_not_use_is_refused(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    values = values_of(make_config, tmp_path / "run") | {"method": "probe"}

    with pytest.raises(ValueError, match=r"names `lora.r`, which `method: probe` does not use"):
        tune(RunConfig.model_validate(values))
