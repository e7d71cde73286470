"""Experiment tracking: what Textloop reports in addition to the Trainer's own integrations.

`trainer.report_to` names any tracker that the Trainer supports; the Trainer's callback records
arguments, losses and validation metrics. For TensorBoard and MLflow this module adds the
resolved configuration and the fingerprints of the data, and `evaluate` adds the test metrics
and plots to the same run, which `output_dir/tracking.json` names.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.integrations import (
    INTEGRATION_TO_CALLBACK,
    MLflowCallback,
    TensorBoardCallback,
    get_available_reporting_integrations,
)

from serve.files import write_atomic
from serve.language.credentials import HIDDEN, hide
from serve.privacy import silence
from train.config.run import RunConfig
from train.portable import portable_config

RECORD = "tracking.json"
_NOT_A_NAME = re.compile(r"[^\w.\- :/]")
_CHECKED = INTEGRATION_TO_CALLBACK.keys() - {"azure_ml", "flyte"}
"""Trackers that transformers lists whenever they are installed. It lists azure_ml only without
MLflow, and flyte never (transformers 5.23)."""

_BATCH = 100
"""Parameters that MLflow accepts in one call."""

_MAX_VALUE = 500
"""Characters of a parameter's value; the full configuration is attached as JSON."""


def check_trackers(report_to: list[str]) -> None:
    """Raise ValueError for a tracker that is not installed, before anything is trained."""
    silence()  # before the Trainer imports one
    available = get_available_reporting_integrations() if report_to else []
    for name in sorted(_CHECKED & set(report_to) - set(available)):
        package = f"'textloop[{name}]'" if name in ("mlflow", "tensorboard") else name
        raise ValueError(
            f"trainer.report_to names `{name}`, which is not installed: pip install {package}"
        )


class RunRecord(TrainerCallback):
    """Writes configuration and fingerprints to the run that each tracker has started.

    Must come after the trackers' own callbacks, as does every callback added to a Trainer.
    """

    def __init__(self, trainer: Any, config: RunConfig, fingerprints: dict[str, Any]) -> None:
        self.config = config
        self.facts = {"config": portable_config(config), "data": fingerprints}
        trackers = trainer.callback_handler.callbacks
        self.boards = [each for each in trackers if isinstance(each, TensorBoardCallback)]
        self.has_mlflow = any(isinstance(each, MLflowCallback) for each in trackers)
        self.training = False
        self.run_id: str | None = None
        for board in self.boards:  # by default under checkpoints/, which `fit --fresh` deletes
            board.logging_dir = board.logging_dir or str(config.output_dir / "tensorboard")

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Record configuration and fingerprints, and in `tracking.json` which run they are in."""
        self.training = True
        if not state.is_world_process_zero:
            return
        record: dict[str, Any] = {}
        for board in self.boards:
            for name, value in self.facts.items():
                board.tb_writer.add_text(f"textloop/{name}", _block(value))
            record["tensorboard"] = {"directory": board.logging_dir}
        if self.has_mlflow:
            import mlflow

            run = mlflow.active_run()
            assert run is not None, "the Trainer's callback has started one"
            self.run_id = run.info.run_id
            params = list(_flat(self.facts, "textloop").items())
            for start in range(0, len(params), _BATCH):
                mlflow.log_params(dict(params[start : start + _BATCH]))
            for name, value in self.facts.items():
                mlflow.log_dict(value, f"textloop/{name}.json")
            record["mlflow"] = {"uri": hide(mlflow.get_tracking_uri()), "run_id": self.run_id}
        if record:
            data = json.dumps(record, indent=2).encode()
            write_atomic(self.config.output_dir / RECORD, data)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Reopen MLflow's run for the evaluation of the best checkpoint.

        The Trainer's callback ends the run with the training and would start a new one.
        """
        self.training = False
        if self.run_id is not None:
            import mlflow

            if mlflow.active_run() is None:
                mlflow.start_run(run_id=self.run_id)

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the runs after the evaluation that follows the training."""
        if self.training or not state.is_world_process_zero:
            return
        for board in self.boards:
            board.on_train_end(args, state, control)
        if self.has_mlflow:
            import mlflow

            if mlflow.active_run() is not None:
                mlflow.flush_async_logging()  # the Trainer's callback logs in the background
                mlflow.end_run()


def attach_evaluation(output_dir: Path, directory: Path) -> list[str]:
    """Add the results in `directory` to the runs that `fit` recorded; return the trackers' names.

    Metrics of `metrics.json` become `test/NAME`; that file and the plots next to it are
    attached. Does nothing if no run is recorded.
    """
    file = output_dir / RECORD
    if not file.is_file():
        return []
    record = json.loads(file.read_text(encoding="utf-8"))
    report = json.loads((directory / "metrics.json").read_text(encoding="utf-8"))
    metrics = {
        f"test/{name}": float(measured["value"])
        for name, measured in report["metrics"].items()
        if isinstance(measured, dict) and isinstance(measured.get("value"), int | float)
    }
    plots = sorted(directory.glob("*.png"))
    if board := record.get("tensorboard"):
        _to_tensorboard(board["directory"], metrics, report, plots)
    if run := record.get("mlflow"):
        _to_mlflow(run, metrics, [directory / "metrics.json", *plots])
    return list(record)


def _to_tensorboard(
    directory: str, metrics: dict[str, float], report: dict[str, Any], plots: list[Path]
) -> None:
    check_trackers(["tensorboard"])
    import numpy as np
    from PIL import Image
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(log_dir=directory) as writer:
        for name, value in metrics.items():
            writer.add_scalar(name, value)
        writer.add_text("test/metrics.json", _block(report))
        for plot in plots:
            with Image.open(plot) as image:
                writer.add_image(
                    f"test/{plot.stem}", np.asarray(image.convert("RGB")), dataformats="HWC"
                )


def _to_mlflow(run: dict[str, str], metrics: dict[str, float], files: list[Path]) -> None:
    check_trackers(["mlflow"])
    import mlflow

    mlflow.set_tracking_uri(_tracking_uri(run["uri"]))
    with mlflow.start_run(run_id=run["run_id"]):
        mlflow.log_metrics(metrics)
        for file in files:
            mlflow.log_artifact(str(file), artifact_path="evaluation")


def _tracking_uri(recorded: str) -> str:
    """Return the address recorded in `tracking.json` with its credentials, which are not there."""
    if HIDDEN not in recorded:
        return recorded
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if hide(uri) != recorded:
        raise ValueError(
            f"`{RECORD}` names the MLflow server `{recorded}` without its credentials; set "
            "MLFLOW_TRACKING_URI to the address with which `fit` ran"
        )
    return uri


def _block(value: Any) -> str:
    """Indent JSON as a Markdown code block for TensorBoard's text panel."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return "\n".join(f"    {line}" for line in text.splitlines())


def _flat(values: dict[str, Any], prefix: str) -> dict[str, str]:
    """Flatten nested values to dotted names that MLflow accepts; a list stays one value."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        name = f"{prefix}.{_NOT_A_NAME.sub('_', str(key))}"
        if isinstance(value, dict) and value:
            flat |= _flat(value, name)
        else:
            flat[name] = str(value)[:_MAX_VALUE]
    return flat
