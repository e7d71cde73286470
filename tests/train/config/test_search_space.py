"""The search space is validated against the run before the first trial."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from serve.config import load_config
from train.config.run import RunConfig
from train.config.search_space import boundary_configs, decoded, encoded, suggest, with_values

RUN = {"output_dir": "runs/x", "data": {"train": "train.jsonl"}, "model": {"base": "dir"}}


def config_of(space: dict[str, Any], **sections: Any) -> RunConfig:
    return RunConfig.model_validate(RUN | sections | {"tune": {"space": space}})


class Recorder:
    """Stands in for a trial: returns the first value and records the calls."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def suggest_int(self, key: str, low: int, high: int, **how: Any) -> int:
        self.asked.append(("int", key, low, high, how))
        return low

    def suggest_float(self, key: str, low: float, high: float, **how: Any) -> float:
        self.asked.append(("float", key, low, high, how))
        return low

    def suggest_categorical(self, key: str, choices: list[str]) -> str:
        self.asked.append(("categorical", key, choices))
        return choices[0]


@pytest.mark.parametrize(
    ("key", "dimension", "message"),
    [
        ("lora.rank", {"low": 1, "high": 4}, r"unknown key `lora.rank`; known: "),
        ("lorra.r", {"low": 1, "high": 4}, r"unknown key `lorra`; known: .*lora"),
        ("lora.r", {"low": 0, "high": 4}, r"`lora.r` = 0: .*greater than or equal to 1"),
        ("lora.r", {"low": 1.5, "high": 4.5}, r"`lora.r` = 1.5: .*valid integer"),
        ("lora.r", {"choices": [8, "many"]}, r"`lora.r` = 'many': .*valid integer"),
        ("loss.label_smoothing", {"low": 0.0, "high": 1.0}, r"`loss.label_smoothing` = 1.0"),
        ("trainer.label_smoothing_factor", {"low": 0.0, "high": 0.1}, "set loss.label_smoothing"),
        ("method", {"choices": ["lora", "none"]}, r"`method` = 'none'"),
        (
            "model.base.name",
            {"choices": ["a"]},
            r"names `model.base.name`, but `base` is not a sec",
        ),
    ],
)
def test_values_that_a_run_does_not_take_are_refused_by_key(
    key: str, dimension: dict[str, Any], message: str
) -> None:
    config = config_of({key: dimension})

    with pytest.raises(ValueError, match=message):
        list(boundary_configs(config, config.tune.space))


def test_incompatible_values_are_refused() -> None:
    space = {"method": {"choices": ["full", "lora"]}}
    config = config_of(space, model={"base": "b", "quantize": "4bit"})

    with pytest.raises(ValueError, match=r"`model.quantize` is set .* is full.*method='full'"):
        list(boundary_configs(config, config.tune.space))


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("seed", "overfits the validation split"),
        ("output_dir", "its own"),
        ("data.validation_fraction", "the same rows"),
        ("data.train", "the same rows"),
        ("tune.trials", "not part of a run"),
        ("gate.alpha", "does not affect training"),
        ("calibration.temperature", "does not affect training"),
        ("trainer.metric_for_best_model", "set tune.metric"),
    ],
)
def test_what_trials_are_compared_on_cannot_vary(key: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"`{key}` cannot be searched over: .*{message}"):
        config_of({key: {"choices": [1, 2]}})


@pytest.mark.parametrize(
    ("dimension", "message"),
    [
        ({"low": 1}, "give low and high, or choices"),
        ({}, "give low and high, or choices"),
        ({"low": 2, "high": 1}, "low = 2 is not less than high = 1"),
        ({"low": 0.0, "high": 1.0, "log": True}, "log needs low > 0"),
        ({"low": 1, "high": 9, "log": True, "step": 2}, "cannot be combined with step"),
        ({"low": 1, "high": 2, "step": 4}, "step = 4 is not between"),
        ({"choices": [1], "low": 0}, "either choices, or low and high"),
        ({"choices": [1, 1]}, "has a value twice"),
        ({"choices": []}, "at least 1"),
        ({"low": "a", "high": "b"}, "low"),
        ({"low": 1, "hi": 2}, "hi"),
    ],
)
def test_mistakes_in_a_range_are_named(dimension: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_of({"lora.r": dimension})


def test_whole_numbers_stay_whole_and_fractions_fractions() -> None:
    config = config_of(
        {
            "lora.r": {"low": 4, "high": 16, "step": 4},
            "trainer.learning_rate": {"low": 1e-4, "high": 1, "log": True},
            "lora.target_modules": {"choices": [["query", "value"], "all-linear"]},
        }
    )
    trial = Recorder()

    values = suggest(trial, config.tune.space)

    assert values == {
        "lora.r": 4,
        "trainer.learning_rate": 1e-4,
        "lora.target_modules": ["query", "value"],
    }
    assert trial.asked[0] == ("int", "lora.r", 4, 16, {"log": False, "step": 4})
    assert trial.asked[1] == ("float", "trainer.learning_rate", 1e-4, 1, {"log": True})
    assert trial.asked[2][2] == ['["query", "value"]', '"all-linear"']
    assert with_values(config, values).lora.target_modules == ("query", "value")


@pytest.mark.parametrize("choice", [8, 0.5, True, None, "linear", "8", ["a", "b"], {"a": 1.5}])
def test_choices_of_every_type_come_back_from_storage(choice: object) -> None:
    value = decoded(encoded(choice))

    assert value == choice
    assert type(value) is type(choice)


def test_space_can_be_overridden_on_the_command_line() -> None:
    overrides = ["output_dir=x", "data.train=a.csv", "model.base=b", "tune.trials=3"]

    config = load_config(
        RunConfig, None, [*overrides, "tune.space.lora.r={choices: [2, 4]}", "tune.pruner=none"]
    )

    assert config.tune.space["lora.r"].choices == (2, 4)
    assert config.tune.trials == 3


def test_search_is_not_part_of_a_runs_settings() -> None:
    """Another number of trials must not make `merge` refuse what `fit` has trained."""
    config = config_of({"lora.r": {"low": 1, "high": 4}})

    assert "tune" not in config.model_dump(mode="json")
    assert with_values(config, {"seed": 3}).tune.space == {}


def test_metric_that_is_not_measured_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ValidationError, match="`auc` is not measured; known: loss, log_loss, accuracy"
    ):
        RunConfig.model_validate(RUN | {"tune": {"metric": "auc"}})
