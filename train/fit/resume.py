"""Whether a run may resume from the checkpoints in its directory.

A run is its configuration, base, data, global batch and precision, written to `run.json`.
Checkpoints of a different run are refused, so that no result is ever a mixture of two.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list, gather_object
from transformers import TrainingArguments

from serve.files import write_atomic
from train.config.run import RunConfig
from train.config.sections import NOT_TRAINING, UNUSED, without
from train.data.splits import LabelledData
from train.fit.arguments import global_batch, training_precision
from train.fit.checkpoints import latest_complete, remove_partial
from train.fit.run import Run
from train.model.source import base_content, weights_sha256


def prepare_run(run: Run, *, fresh: bool) -> Path | None:
    """Return the checkpoint to resume from, or None; write `run.json`, the run's identity.

    fresh: delete all checkpoints first. Raises ValueError if the checkpoints are those of a
    different run.
    """
    directory = run.config.output_dir / "checkpoints"
    now = run_record(run.config, run.data, run.arguments)
    check_common_precision(now["precision"])
    refusal = ""
    if run.state.is_main_process:
        run.config.output_dir.mkdir(parents=True, exist_ok=True)
        if fresh:
            shutil.rmtree(directory, ignore_errors=True)
        for path in remove_partial(directory):
            print(f"removed {path}: it is incomplete, the process that wrote it was killed")
        record = run.config.output_dir / "run.json"
        refusal = why_not_resumed(directory, record, now)
        if not refusal:
            write_atomic(record, json.dumps(now, indent=2, ensure_ascii=False).encode())
    (refusal,) = broadcast_object_list([refusal])
    if refusal:
        raise ValueError(refusal)
    checkpoint = latest_complete(directory)
    if checkpoint:
        run.say(f"resuming from {checkpoint}")
    return checkpoint


def check_common_precision(precision: str) -> None:
    """Raise ValueError if the processes' precisions differ, as they may on different CPUs."""
    precisions = sorted(set(gather_object([precision])))
    if len(precisions) > 1:
        raise ValueError(
            f"processes would train in different precisions ({', '.join(precisions)}); "
            "set trainer.bf16 to true or false"
        )


def why_not_resumed(directory: Path, record: Path, now: dict[str, Any]) -> str:
    """Return why the checkpoints in `directory` are those of a different run, or ''."""
    if not latest_complete(directory):
        return ""
    before = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    different = sorted(changes(before, now))
    if not different:
        return ""
    remedy = "choose another output_dir, or restart with `fit --fresh`"
    if before.get("precision") and all(line.startswith("precision:") for line in different):
        bf16 = str(before["precision"] == "bf16").lower()
        remedy = f"set trainer.bf16={bf16} to keep the precision, {remedy}"
    return f"`{directory}` holds checkpoints of another run ({'; '.join(different)}); {remedy}"


def is_fitted(config: RunConfig, data: LabelledData, arguments: TrainingArguments) -> bool:
    """Return whether `output_dir/adapter` is the result of this run."""
    file = config.output_dir / "adapter" / "fit.json"
    if not file.is_file():
        return False
    fitted = json.loads(file.read_text(encoding="utf-8"))["run"]
    return not changes(fitted, run_record(config, data, arguments))


def run_record(
    config: RunConfig, data: LabelledData, arguments: TrainingArguments
) -> dict[str, Any]:
    """Return what `run.json` states: the run's identity and precision."""
    batch = 0 if config.method == "probe" else global_batch(arguments)
    identity = run_identity(config, data, global_batch=batch)
    return {**identity, "precision": training_precision(config, arguments)}


def run_identity(config: RunConfig, data: LabelledData, *, global_batch: int) -> dict[str, Any]:
    """Return what makes two runs the same: everything that the result depends on.

    Data, fixes and the base are identified by content, not by path; `trainer.bf16` by the
    precision that follows from it.
    """
    content = base_content(config.model)
    return {
        "config": without(config.training_settings(), ["trainer.bf16"]),
        "base_weights_sha256": weights_sha256(content),
        "base_content": content,
        "data": data.fingerprints,
        "global_batch": global_batch,
    }


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return one line for each value in which the records of two runs differ.

    A record of an earlier version may hold settings that affect no weights, which are left out,
    and no hashes of the base's other files; the weights must be known, and equal, in any case.
    """
    if before.get("config"):
        settings = now["config"]
        unneeded = {*NOT_TRAINING, *UNUSED[settings["method"]]}
        unneeded -= {f"trainer.{key}" for key in settings.get("trainer", {})}
        before = before | {"config": without(before["config"], unneeded)}
    if "base_content" not in before:
        now = {key: value for key, value in now.items() if key != "base_content"}
    lines = differences(before, now)
    if before and before.get("base_weights_sha256") is None and now.get("base_weights_sha256"):
        lines.append("an earlier version recorded no hash of this base, so it cannot be compared")
    return lines


def differences(before: Any, now: Any, path: str = "") -> list[str]:
    """Return one line for each value in which two records differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = before.keys() | now.keys()
        return [
            line
            for key in keys
            for line in differences(before.get(key), now.get(key), f"{path}.{key}".lstrip("."))
        ]
    return [] if before == now else [f"{path}: {before!r} there, {now!r} now"]
