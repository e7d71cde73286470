"""The stages of a run one after another, in one process.

Saves the imports of each stage, and what a rerun would only repeat: a `fit` whose adapter is
that of this configuration and data is not run again, and one that was stopped goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from accelerate import PartialState

from train.config.run import RunConfig
from train.data.splits import LabelledData, load_data
from train.fit.fit import fit
from train.fit.resume import differences, run_identity
from train.fit.trainer import global_batch, training_arguments

Stage = Callable[[RunConfig], int]
"""Runs a stage and prints what came of it; an exit code."""


def run(config: RunConfig, stages: dict[str, Stage]) -> int:
    """Fit, then every stage in order until one refuses; the exit code of the last one.

    Under `accelerate launch` all processes fit, and the first one does the rest.
    """
    arguments = training_arguments(config)
    state = PartialState()
    with state.main_process_first():
        data = load_data(config)
    if not is_fitted(config, data, global_batch(arguments)):
        fit(config, data=data)
    elif state.is_main_process:
        print(f"fit: `{config.output_dir / 'adapter'}` is that of this configuration and data")
    if not state.is_main_process:
        return 0
    for name, stage in stages.items():
        print(f"{name}:")
        if code := stage(config):
            return code
    return 0


def is_fitted(config: RunConfig, data: LabelledData, batch: int) -> bool:
    """Whether `output_dir/adapter` came of this configuration and these data.

    batch: rows of one update, over all processes.
    """
    file = config.output_dir / "adapter" / "fit.json"
    if not file.is_file():
        return False
    before: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["run"]
    return not differences(before, run_identity(config, data, global_batch=batch))
