"""Whether a run may go on from the checkpoints in its directory.

A run is its configuration, its base, its data and its global batch, written to `run.json`.
Checkpoints of another run are refused, so that no result is ever a mixture of two.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from accelerate import PartialState

from serve.files import write_atomic
from train.config.run import RunConfig
from train.data.splits import LabelledData
from train.fit.checkpoints import latest_complete, remove_partial
from train.model.base import weights_sha256


def prepare_run(
    config: RunConfig,
    data: LabelledData,
    state: PartialState,
    *,
    global_batch: int,
    fresh: bool,
) -> Path | None:
    """The checkpoint to go on from, or None; writes `run.json`, which says what the run is.

    Raises ValueError if the checkpoints there are those of another configuration or data.
    """
    directory = config.output_dir / "checkpoints"
    record = config.output_dir / "run.json"
    refusal = ""
    if state.is_main_process:
        run = run_identity(config, data, global_batch=global_batch)
        config.output_dir.mkdir(parents=True, exist_ok=True)
        if fresh:
            shutil.rmtree(directory, ignore_errors=True)
        for path in remove_partial(directory):
            print(f"removed {path}: the process that wrote it was stopped half-way")
        if latest_complete(directory):
            before = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
            if different := sorted(differences(before, run)):
                refusal = (
                    f"`{directory}` holds checkpoints of another run ({'; '.join(different)}); "
                    "choose another output_dir, or start anew with `fit --fresh`"
                )
        if not refusal:
            write_atomic(record, json.dumps(run, indent=2, ensure_ascii=False).encode())
    state.wait_for_everyone()
    if refusal:
        raise ValueError(refusal)
    return latest_complete(directory)


def run_identity(config: RunConfig, data: LabelledData, *, global_batch: int) -> dict[str, Any]:
    """What makes two runs the same one: everything that bears on the result.

    Data and a local base count by their content and not by their path alone.
    """
    return {
        "config": config.training_settings(),
        "base_weights_sha256": weights_sha256(config.model),
        "data": data.fingerprints,
        "global_batch": global_batch,
    }


def differences(before: Any, now: Any, path: str = "") -> list[str]:
    """One line for each value that two records do not share."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = before.keys() | now.keys()
        return [
            line
            for key in keys
            for line in differences(before.get(key), now.get(key), f"{path}.{key}".lstrip("."))
        ]
    return [] if before == now else [f"{path}: {before!r} there, {now!r} now"]
