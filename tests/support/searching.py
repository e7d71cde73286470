"""Shared by the tests of searches: a configuration, and the study in its directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna

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
