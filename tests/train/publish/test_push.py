"""Pushing while training: models are pushed, pickles and paths of this machine are not."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hub_standin import running_hub
from huggingface_hub.utils import are_progress_bars_disabled
from processes import run
from transformers import TrainerCallback

from train.config.run import RunConfig
from train.fit.arguments import training_arguments
from train.fit.fit import fit
from train.publish.push import PushCallback

TWICE = """
import os, sys
from train.__main__ import main
token = os.environ.pop("HF_TOKEN")
code = main(sys.argv[1:])
print("without a token:", code, flush=True)
os.environ["HF_TOKEN"] = token
sys.exit(main(sys.argv[1:]))
"""
"""Two trainings in one process: most of the time of one is spent on imports."""


@pytest.mark.slow
def test_training_pushes_its_checkpoints_and_outlives_a_failed_push(
    make_config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    trainer = {
        "max_steps": 6,
        "save_strategy": "steps",
        "save_steps": 2,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "push_to_hub": True,
        "hub_model_id": "me/pushed",
        "hub_strategy": "every_save",
        "hub_always_push": True,
    }
    values = make_config(tmp_path / "run", trainer=trainer, model={"head_init": "random"})
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    with running_hub() as hub:
        hub.lfs = False
        # The default way of the client, which needs no Xet server for files of this kind.
        environment = hub.environment(tmp_path / "home") | {"HF_HUB_DISABLE_XET": "0"}
        hub.fail("POST", "/commit/main", 403)

        done = run("-c", TWICE, "fit", "--config", tmp_path / "run.yaml", **environment)

    assert done.returncode == 0, done.stderr
    assert "without a token: 2" in done.stdout
    assert "set HF_TOKEN" in done.stderr
    assert len(re.findall("note: a push to hub:me/pushed failed", done.stdout)) == 1
    repository = hub.repositories["me/pushed"]
    assert repository.private
    pushed = {name for _, _, files in repository.commits for name in files}
    assert {"adapter_model.safetensors", "tokenizer.json"} <= pushed
    messages = [message for _, message, _ in repository.commits]
    assert messages == [
        "initial commit",
        "Training in progress, step 4",
        "Training in progress, step 6",
        "Trained model",
    ]
    assert {name.rpartition(".")[2] for name in pushed} == {
        "gitattributes", "json", "md", "safetensors",
    }  # fmt: skip
    texts = {n: d.decode() for n, d in repository.files.items() if n.endswith((".json", ".md"))}
    assert not [name for name, text in texts.items() if tempfile.gettempdir() + "/" in text]
    trained = (tmp_path / "run" / "adapter" / "adapter_model.safetensors").read_bytes()
    assert repository.files["adapter_model.safetensors"] == trained
    assert not (tmp_path / "run" / "checkpoints" / ".push").exists()


@pytest.mark.parametrize("strategy", ["checkpoint", "all_checkpoints"])
def test_strategy_that_needs_the_optimizer_state_is_refused(
    make_config: Callable[..., dict[str, Any]], tmp_path: Path, strategy: str
) -> None:
    values = make_config(tmp_path / "run", trainer={"hub_strategy": strategy})

    with pytest.raises(ValueError, match=f"`trainer.hub_strategy` = '{strategy}' .* pickle"):
        training_arguments(RunConfig.model_validate(values))


@pytest.fixture
def pushing(
    make_config: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> RunConfig:
    """A run of one step that pushes its checkpoint, to a Hub that accepts a repository."""
    steps = {"max_steps": 1, "save_strategy": "steps", "save_steps": 1}
    evaluation = {"eval_strategy": "steps", "eval_steps": 1, "push_to_hub": True}
    monkeypatch.setattr(PushCallback, "_create_repository", lambda self: None)
    monkeypatch.setattr("train.publish.push.with_retries", lambda attempt, place: attempt())
    values = make_config(
        tmp_path / "run", trainer=steps | evaluation, model={"head_init": "random"}
    )
    return RunConfig.model_validate(values)


def test_pushes_are_awaited_only_after_the_last_evaluation(
    pushing: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other processes would wait there for the main process, and time out."""
    events: list[str] = []

    class Upload:
        def done(self) -> bool:
            return False

        def exception(self) -> None:
            events.append("awaited")

        def result(self) -> None:
            events.append("pushed")

    class Evaluations(TrainerCallback):
        def on_evaluate(self, *_: Any, **__: Any) -> None:
            events.append("evaluated")

    monkeypatch.setattr(PushCallback, "_upload", lambda self, staged, message: Upload())

    fit(pushing, callbacks=[Evaluations()])

    assert events == ["evaluated", "evaluated", "awaited", "pushed"]


def test_progress_bars_are_back_after_a_failed_training(pushing: RunConfig) -> None:
    class Failure(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            assert are_progress_bars_disabled()
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fit(pushing, callbacks=[Failure()])

    assert not are_progress_bars_disabled()
