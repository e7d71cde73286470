"""A search never sees the test rows, survives kills, and hands `fit` its winner."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.trial import TrialState
from processes import ROOT
from rows import make_rows, write_jsonl

from serve.config import load_config
from serve.tables import read_rows
from train.__main__ import main
from train.config.run import RunConfig
from train.data.splits import load_data
from train.fit.fit import fit
from train.tune.report import TuneResult, importances, to_yaml, write_results
from train.tune.study import SeededSampler, fail_stale_trials, open_study, running, trials_left
from train.tune.tune import prepare, tune

MakeConfig = Callable[..., dict[str, Any]]

SPACE = {
    "trainer.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "lora.r": {"choices": [2, 4]},
}


def values_of(make_config: MakeConfig, output: Path, **tune_keys: Any) -> dict[str, Any]:
    keys = {"trials": 4, "pruner": "none", "space": SPACE} | tune_keys
    return make_config(output, cpu_threads=1, tune=keys)


def study_in(output: Path) -> optuna.Study:
    storage = f"sqlite:///{output / 'tune' / 'study.db'}"
    return optuna.load_study(study_name=output.as_posix(), storage=storage)


def start_worker(config: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "default", "-m", "train", "tune", "--config", str(config)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that starts the tests in the background has them ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


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


def test_test_rows_that_are_part_of_train_are_cut_off_before_the_first_trial(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    values = values_of(make_config, tmp_path / "run")
    values["data"]["test"] = None
    config = RunConfig.model_validate(values)

    base = prepare(config).base

    whole, visible = load_data(config), load_data(base)
    assert len(whole.test) > 10
    assert visible.train.fingerprint == whole.train.fingerprint
    assert visible.validation.fingerprint == whole.validation.fingerprint
    assert visible.test.fingerprint == whole.validation.fingerprint
    named = {base.data.train, base.data.validation, base.data.test}
    assert named == {str(path) for path in (tmp_path / "run" / "tune" / "data").iterdir()}
    seen = {row["text"] for name in named for row in read_rows(Path(name or ""))}
    assert not seen & (set(whole.test.texts) - {*whole.train.texts, *whole.validation.texts})


@pytest.mark.parametrize(("task", "columns"), [("multi_label", 1), ("single_label", 2)])
def test_every_kind_of_rows_reaches_the_trials_unchanged(
    make_config: MakeConfig, tmp_path: Path, task: str, columns: int
) -> None:
    values = make_config(tmp_path / "run", task=task, columns=columns, tune={"space": SPACE})
    values["data"]["label_map"] = {"billing": "login", "login": "billing"}
    config = RunConfig.model_validate(values)

    visible = load_data(prepare(config).base)

    whole = load_data(config)
    for split in ("train", "validation"):
        kept, own = getattr(visible, split), getattr(whole, split)
        assert (list(kept.texts), list(kept.labels)) == (list(own.texts), list(own.labels))
    assert visible.labels == whole.labels


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
    values, result = searched
    edited = values | {"publish": {"description": "Routes messages."}, "gate": {"margin": 0.02}}

    assert tune(RunConfig.model_validate(edited)).best.number == result.best.number


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, r"begun otherwise \(config.seed: 0 there, 1 now\)"),
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
    """Five perfect trials came before; one that learns nothing ends at its first evaluation."""
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
        (
            {"space": {"lora.rank": {"low": 1, "high": 2}}},
            "unknown key `lora.rank`; known: r, alpha",
        ),
        (
            {"space": {"trainer.learning_rat": {"low": 0.1, "high": 0.2}}},
            "`trainer.learning_rat` is not a field of TrainingArguments",
        ),
        (
            {"space": {"trainer.per_device_train_batch_size": {"low": 8.0, "high": 16.0}}},
            "`trainer.per_device_train_batch_size` = 8.0: a whole number is needed",
        ),
        ({"metric": "auc"}, "`auc` is not measured; known: loss, accuracy"),
        ({"space": {"model.base": {"choices": ["./nowhere"]}}}, "`./nowhere` is no directory"),
        ({"storage": "nosuchdb://x"}, "tune.storage: cannot open the study"),
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
    assert "tune needs optuna; pip install 'textloop[tune]'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sign", "reason"),
    [
        (signal.SIGKILL, "its process died; its values were tried again"),
        (signal.SIGINT, "interrupted; its values are tried again"),
    ],
)
def test_killed_search_goes_on_and_tries_the_lost_trial_again(
    make_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sign: signal.Signals,
    reason: str,
) -> None:
    values = values_of(make_config, tmp_path / "run", trials=3)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    worker = start_worker(tmp_path / "run.yaml")
    assert worker.stdout is not None
    line = next(line for line in worker.stdout if line.startswith("trial 0"))
    checkpoints = tmp_path / "run" / "tune" / "trial-0001" / "checkpoints"
    deadline = time.monotonic() + 60
    while not checkpoints.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    worker.send_signal(sign)
    worker.communicate()
    monkeypatch.setattr("train.tune.study.GRACE_S", 1)

    result = tune(RunConfig.model_validate(values))

    trials = study_in(tmp_path / "run").trials
    lost, retried = trials[1], next(t for t in trials if t.system_attrs.get("failed_trial") == 1)
    assert "accuracy" in line
    assert lost.state == TrialState.FAIL
    assert retried.params == lost.params
    assert result.counts == {"complete": 3, "fail": 1}
    assert result.reasons == {reason: 1}


@pytest.mark.slow
def test_two_workers_share_one_study(make_config: MakeConfig, tmp_path: Path) -> None:
    values = values_of(make_config, tmp_path / "run", trials=4)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))

    workers = [start_worker(tmp_path / "run.yaml") for _ in range(2)]
    try:
        shown = [worker.communicate(timeout=300) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()

    trials = study_in(tmp_path / "run").trials
    first, second = (re.findall(r"^trial (\d+):", out, re.MULTILINE) for out, _ in shown)
    assert [worker.returncode for worker in workers] == [0, 0], shown
    assert first
    assert second
    assert sorted(map(int, first + second)) == list(range(len(trials)))
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert 4 <= len(trials) <= 5, "each worker may end the one that it has begun"
    assert len({trial.params["trainer.learning_rate"] for trial in trials}) == len(trials)
    best = max(trial.value for trial in trials)
    assert all(f"accuracy {best:.4f}  [" in out for out, _ in shown)
    assert len(list((tmp_path / "run" / "tune").glob("trial-*"))) == 1


def test_draws_depend_on_the_seed_and_the_number_of_the_trial() -> None:
    def drawn(seed: int, *, restart: bool) -> list[float]:
        study = optuna.create_study(sampler=SeededSampler(seed))
        for _ in range(12):
            if restart:
                study.sampler = SeededSampler(seed)
            trial = study.ask()
            study.tell(trial, trial.suggest_float("x", 0, 1))
        return [trial.params["x"] for trial in study.trials]

    assert drawn(0, restart=True) == drawn(0, restart=False)
    assert drawn(0, restart=False) != drawn(1, restart=False)
    assert len(set(drawn(0, restart=True))) == 12


def test_dead_trial_and_its_retries_are_one_of_the_budget() -> None:
    study = optuna.create_study()
    study.add_trial(optuna.create_trial(value=1.0))
    study.add_trial(optuna.create_trial(state=TrialState.FAIL))
    assert trials_left(study, 3) == 1

    retry = {"failed_trial": 1, "retry_history": [1]}
    study.add_trial(optuna.create_trial(state=TrialState.WAITING, system_attrs=retry))
    assert trials_left(study, 3) == 2
    study.ask()

    assert trials_left(study, 3) == 1


def test_trial_that_died_before_its_values_were_drawn_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Optuna overlooks it, and a search would wait for it without end."""
    study = open_study(
        tmp_path, storage=None, name="s", maximize=True, pruner="none", seed=0, identity={}
    )
    study.add_trial(optuna.create_trial(state=TrialState.RUNNING))
    fail_stale_trials(study)
    assert len(running(study)) == 1, "it may have begun just now"
    monkeypatch.setattr("train.tune.study.GRACE_S", 0)

    fail_stale_trials(study)

    assert running(study) == []
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.WAITING]
    assert trials_left(study, 1) == 1


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
    "text", ["1e-5", "no", "null", "12:30", "a: b", "[", "", "007", "é\n", "#x"]
)
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
