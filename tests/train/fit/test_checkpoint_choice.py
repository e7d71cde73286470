"""The last checkpoint is kept, unless an earlier one is shown to be better."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from train.config.run import RunConfig
from train.fit.fit import fit
from train.fit.trainer import LOGITS, ClassifierTrainer
from train.statistics.calibrated_loss import advantage, calibrated_losses

MakeConfig = Callable[..., dict[str, Any]]
FROZEN = {"learning_rate": 0.0, "num_train_epochs": 3}
STEPS = 16
"""Of an epoch of the tiny data: 269 rows in batches of 16."""


class Spoil(TrainerCallback):
    """Turns the head around when the last epoch begins."""

    def on_epoch_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        if state.epoch >= 2:
            for name, weight in model.named_parameters():
                if "classifier" in name and weight.requires_grad:
                    weight.data.neg_()


def chosen(output: Path) -> str:
    return str(json.loads((output / "adapter" / "fit.json").read_text())["checkpoint"])


@pytest.mark.parametrize("metric", [{}, {"metric_for_best_model": "accuracy"}])
def test_of_equal_checkpoints_the_last_is_kept(
    make_config: MakeConfig, tmp_path: Path, metric: dict[str, str]
) -> None:
    fit(RunConfig.model_validate(make_config(tmp_path, trainer=FROZEN | metric)))

    assert chosen(tmp_path) == f"checkpoint-{3 * STEPS}"


def test_earlier_checkpoint_is_kept_if_it_is_shown_to_be_better_and_after_a_resume_too(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = RunConfig.model_validate(make_config(tmp_path, trainer=FROZEN))

    before = fit(config, callbacks=[Spoil()])

    assert chosen(tmp_path) == f"checkpoint-{2 * STEPS}"
    assert "instead of the last, checkpoint-48: its log-loss on 31" in capsys.readouterr().out

    shutil.rmtree(tmp_path / "adapter")  # as if the process had been killed before writing it
    assert fit(config) == before
    assert chosen(tmp_path) == f"checkpoint-{2 * STEPS}"


def test_explicit_metric_decides_alone(make_config: MakeConfig, tmp_path: Path) -> None:
    trainer = FROZEN | {"metric_for_best_model": "loss"}
    fit(RunConfig.model_validate(make_config(tmp_path, trainer=trainer)), callbacks=[Spoil()])

    assert chosen(tmp_path) == f"checkpoint-{2 * STEPS}"


def test_gain_within_the_noise_of_few_rows_keeps_the_last(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 62)
    good_NC = (np.eye(3)[labels] * 3 + random.normal(size=(62, 3))).astype(np.float32)
    reasons = {}
    for name, noise in {"same": 0.05, "worse": 4.0}.items():
        last_NC = good_NC + random.normal(size=(62, 3)).astype(np.float32) * noise
        for step, logits_NC in ((3, good_NC), (4, last_NC)):
            (tmp_path / name / f"checkpoint-{step}").mkdir(parents=True)
            np.save(tmp_path / name / f"checkpoint-{step}" / LOGITS, logits_NC)
        trainer: Any = SimpleNamespace(
            eval_dataset={"labels": labels.tolist()},
            model=SimpleNamespace(config=SimpleNamespace(num_labels=3)),
            compute_metrics=SimpleNamespace(task="single_label"),
        )
        reasons[name] = ClassifierTrainer._why_not_last(
            trainer, tmp_path / name / "checkpoint-3", tmp_path / name / "checkpoint-4"
        )

    assert reasons["same"] == ""
    assert reasons["worse"].startswith("checkpoint-3 instead of the last, checkpoint-4")


def test_confidence_alone_makes_no_checkpoint_better() -> None:
    random = np.random.default_rng(1)
    labels = random.integers(0, 3, 200)
    given_NC = np.eye(3, dtype=bool)[labels]
    logits_NC = (np.eye(3)[labels] + random.normal(size=(200, 3))).astype(np.float32)

    modest_N, bold_N = (
        calibrated_losses(factor * logits_NC, given_NC, "single_label") for factor in (1.0, 4.0)
    )

    assert abs(modest_N.mean() - bold_N.mean()) < 0.01
    plain = torch.nn.functional.cross_entropy(torch.tensor(4 * logits_NC), torch.tensor(labels))
    assert float(plain) > bold_N.mean() + 0.2
    assert advantage(modest_N, modest_N) == 0
