"""Trackers receive the configuration, the data's fingerprints and the test results."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from processes import run
from publishing import png

from serve.language.credentials import hide
from train.config.run import RunConfig
from train.data.splits import load_data
from train.fit.fit import fit
from train.fit.tracking import _tracking_uri

BOTH = """
import sys
from pathlib import Path
from train.__main__ import main
config = ["--config", sys.argv[1]]
codes = [main(["fit", *config]), main(["merge", *config])]
directory = Path(sys.argv[2], "evaluation")
directory.mkdir()
(directory / "reliability.png").write_bytes(bytes.fromhex(sys.argv[3]))
codes.append(main(["evaluate", *config]))
sys.exit(max(codes))
"""


@pytest.fixture(scope="module")
def tracked(
    make_config: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> RunConfig:
    """A run whose every stage was tracked by TensorBoard and MLflow."""
    root = tmp_path_factory.mktemp("tracked")
    trainer = {"num_train_epochs": 1, "report_to": ["tensorboard", "mlflow"]}
    values = make_config(root / "run", trainer=trainer, data={"label_map": {"login": "sign, in"}})
    (root / "run.yaml").write_text(yaml.safe_dump(values))
    store = f"file://{root / 'mlruns'}"
    arguments = (root / "run.yaml", root / "run", png().hex())

    done = run("-c", BOTH, *arguments, MLFLOW_TRACKING_URI=store, MLFLOW_ALLOW_FILE_STORE="true")

    assert done.returncode == 0, done.stderr
    assert "attached to the run in tensorboard" in done.stdout
    return RunConfig.model_validate(values)


@pytest.mark.slow
def test_tensorboard_has_configuration_curves_and_test_metrics(tracked: RunConfig) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    record = json.loads((tracked.output_dir / "tracking.json").read_text())
    board = EventAccumulator(record["tensorboard"]["directory"])
    board.Reload()

    def text(tag: str) -> str:
        return board.Tensors(f"{tag}/text_summary")[0].tensor_proto.string_val[0].decode()

    metrics = json.loads((tracked.output_dir / "evaluation" / "metrics.json").read_text())
    assert json.loads(text("textloop/config"))["lora"]["r"] == 4
    assert json.loads(text("textloop/data")) == load_data(tracked).fingerprints
    assert {"eval/accuracy", "train/loss", "test/accuracy"} <= set(board.Tags()["scalars"])
    (measured,) = board.Scalars("test/accuracy")
    assert measured.value == pytest.approx(metrics["metrics"]["accuracy"]["value"])
    assert "test/reliability" in board.Tags()["images"]


def test_mlflow_has_one_run_with_all_of_it(
    tracked: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # its databases need the whole mlflow
    from mlflow.tracking import MlflowClient

    record = json.loads((tracked.output_dir / "tracking.json").read_text())["mlflow"]
    client = MlflowClient(record["uri"])
    (found,) = client.search_runs(["0"])

    names = {one.path for one in client.list_artifacts(found.info.run_id, "evaluation")}
    assert found.info.run_id == record["run_id"]
    assert found.info.status == "FINISHED"
    assert found.data.params["textloop.config.lora.r"] == "4"
    assert found.data.params["textloop.config.data.label_map.login"] == "sign, in"
    sha256 = load_data(tracked).fingerprints["train"]["sha256"]
    assert found.data.params["textloop.data.train.sha256"] == sha256
    assert {"eval_accuracy", "test/accuracy"} <= found.data.metrics.keys()
    assert names >= {"evaluation/metrics.json", "evaluation/reliability.png"}


@pytest.mark.parametrize(
    "uri", ["https://me:hunter2@127.0.0.1:1", "postgresql://me:hun/ter2@127.0.0.1:1/runs"]
)
def test_record_of_the_run_holds_no_password_and_evaluation_asks_for_it(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = hide(uri)
    assert "ter2" not in recorded

    with pytest.raises(ValueError, match=r"set MLFLOW_TRACKING_URI") as failure:
        _tracking_uri(recorded)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)

    assert "ter2" not in str(failure.value)
    assert _tracking_uri(recorded) == uri
    assert _tracking_uri("http://127.0.0.1:5000") == "http://127.0.0.1:5000"


def test_tracker_that_is_not_installed_is_named_before_training(
    make_config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    values = make_config(tmp_path / "run", trainer={"report_to": "swanlab"})

    with pytest.raises(ValueError, match=r"`swanlab`, which is not installed: pip install"):
        fit(RunConfig.model_validate(values))

    assert not (tmp_path / "run").exists()
