"""Adapters in one step are peft's own; every kind of them merges to the same logits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from serve.inference.predictor import Predictor
from train.config.run import RunConfig
from train.evaluation.evaluate import evaluate
from train.fit.fit import fit
from train.merge.merge import MergeRefused, merge
from train.model.adapters import add_lora, fuse, peft_warnings_off
from train.model.base import load_base

MakeConfig = Callable[..., dict[str, Any]]


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 5)
        self.second = nn.Linear(5, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.second(torch.tanh(self.first(x)))
        return y


def adapted(**options: Any) -> Any:
    torch.manual_seed(0)
    settings = LoraConfig(
        r=3, lora_alpha=6, target_modules=["first", "second"], init_lora_weights=False, **options
    )
    with peft_warnings_off():
        return get_peft_model(Two(), settings)


def outcome(model: Any) -> list[torch.Tensor]:
    """Output and gradients for one batch."""
    x = torch.linspace(-1, 1, 2 * 3 * 6).reshape(2, 3, 6).requires_grad_()
    y = model(x)
    y.square().sum().backward()
    assert x.grad is not None
    return [y.detach(), x.grad, *(p.grad for p in model.parameters() if p.requires_grad)]


def test_one_step_gives_the_output_and_the_gradients_of_five() -> None:
    expected = outcome(adapted())
    model = adapted()

    assert fuse(model) == 2
    for got, wanted in zip(outcome(model), expected, strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("options", [{"lora_dropout": 0.5}, {"use_dora": True}])
def test_what_one_step_cannot_do_is_left_to_peft(options: dict[str, Any]) -> None:
    assert fuse(adapted(**options)) == 0


def test_disabled_adapters_are_not_applied() -> None:
    model = adapted()
    fuse(model)
    x = torch.ones(1, 6)

    with model.disable_adapter():
        off = model(x)

    torch.manual_seed(0)
    torch.testing.assert_close(off, Two()(x))
    assert not torch.allclose(off, model(x))


@pytest.mark.parametrize(
    "lora",
    [
        {"use_rslora": True},
        {"use_dora": True},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora"},
        {"bias": "lora_only"},
    ],
    ids=["rslora", "dora", "pissa", "olora", "bias"],
)
def test_every_kind_of_adapter_merges_to_the_trained_logits(
    lora: dict[str, Any], make_config: MakeConfig, tmp_path: Path
) -> None:
    config = RunConfig(**make_config(tmp_path / "run", lora=lora))
    fit(config)

    parity = merge(config).manifest.parity

    assert max(parity[f"adapter_{name}"] for name in ("live", "merged", "reloaded")) <= 1e-4


def test_merged_weights_that_are_not_the_trained_ones_are_refused(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = RunConfig(**make_config(tmp_path / "run", calibration={"temperature": False}))
    fit(config)
    file = config.output_dir / "adapter" / "validation_logits.npy"
    logits_NC = np.load(file)
    logits_NC[0, 0] += 0.01
    np.save(file, logits_NC)

    with pytest.raises(MergeRefused, match=r"differ by up to 1\.00e-02"):
        merge(config)


def test_adapters_go_on_the_upper_layers_alone(make_config: MakeConfig, tmp_path: Path) -> None:
    config = RunConfig(**make_config(tmp_path / "run", model={"trained_layers": 1}))

    model = add_lora(load_base(config, ("a", "b")), config)

    adapters = {name for name, _ in model.named_parameters() if "lora_A" in name}
    assert adapters
    assert all(".layer.1." in name for name in adapters)


def test_targets_that_are_not_in_the_trained_layers_are_refused(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = RunConfig(
        **make_config(
            tmp_path / "run", model={"trained_layers": 1}, lora={"target_modules": ["nothing"]}
        )
    )

    with pytest.raises(ValueError, match="names no linear layer among the upper 1 layers"):
        add_lora(load_base(config, ("a", "b")), config)


def test_probe_is_fitted_sealed_and_evaluated_without_a_trainer(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import pipeline

    values = make_config(tmp_path / "run", method="probe")
    del values["lora"], values["trainer"]
    config = RunConfig(**values)
    monkeypatch.setattr("train.fit.trainer.ClassifierTrainer.__init__", None)

    fit(config)
    bundle = merge(config)
    accuracy = evaluate(config).full.intervals["accuracy"].value

    assert accuracy >= 0.7
    assert bundle.manifest.parity["adapter_live"] <= 1e-4
    assert not list((config.output_dir / "adapter").glob("adapter_*"))
    text = "my parcel is late"
    predictor = Predictor.load(bundle.path, device="cpu", backend="torch")
    (answer,) = pipeline("text-classification", model=str(bundle.path), top_k=None)([text])
    best = predictor.bundle.manifest.labels[int(predictor.predict([text]).argmax())]
    assert answer[0]["label"] == best
    record = json.loads((config.output_dir / "adapter" / "fit.json").read_text())
    assert record["log_history"] == []


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"method": "full"}, "`model.quantize` is set but `method` is full"),
        ({"lora": {"use_dora": True}}, "`model.quantize` goes with plain adapters"),
        ({"lora": {"init_lora_weights": "pissa"}}, "`model.quantize` goes with plain adapters"),
    ],
)
def test_four_bits_are_refused_where_they_cannot_be_trained(
    section: dict[str, Any], message: str
) -> None:
    model = {"base": "b", "quantize": "4bit"}

    with pytest.raises(ValueError, match=message):
        RunConfig(**{"output_dir": "x", "data": {"train": "y"}, "model": model, **section})


def test_weights_in_four_bits_merge_to_what_was_trained(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = RunConfig(**make_config(tmp_path / "run", model={"quantize": "4bit"}))
    fit(config)

    parity = merge(config).manifest.parity

    assert parity["adapter_merged"] <= 1e-4
    assert parity["live_4bit"] <= 1e-3
