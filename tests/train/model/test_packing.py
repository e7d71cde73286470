"""Training on flat batches gives the gradients of padded ones; no text attends to another."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from layered_models import CPU, encoder, encodings
from packed_models import CONFIGS, model_of

from serve.inference.equivalence import to_tensors
from serve.inference.pooling import MeanPooling
from train.config.run import RunConfig
from train.fit.fit import fit
from train.merge.merge import merge
from train.model.frozen_layers import CACHED_HIDDEN_STATES, FrozenLayers, store_states
from train.model.packing import PackedTraining, without_padding


def gradients(model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    logits = model(**inputs).logits
    (logits.square().sum() / 10).backward()
    return logits.detach(), {
        name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
    }


def without_dropout(name: str) -> Any:
    model = model_of(CONFIGS[name])
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model.train()


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_flat_batches_give_the_gradients_of_padded_ones(name: str, mean: bool) -> None:
    model = without_dropout(name)
    if mean:
        MeanPooling(model)
    batch = encoder().pad(encodings())
    padded = to_tensors(batch, CPU)
    packing = PackedTraining(model)

    logits, expected = gradients(model, padded)
    flat_logits, found = gradients(model, packing.flat(batch))

    torch.testing.assert_close(flat_logits, logits, atol=1e-5, rtol=1e-5)
    assert found.keys() == expected.keys()
    for weight, gradient in expected.items():
        torch.testing.assert_close(found[weight], gradient, atol=1e-4, rtol=1e-3)
    again, _ = gradients(model, padded)
    assert torch.equal(again, logits)


def test_cached_hidden_states_can_be_flat(tmp_path: Path) -> None:
    model = without_dropout("bert")
    frozen = FrozenLayers(model, num_trained=1)
    packing = PackedTraining(model)
    states = store_states(frozen, encoder(), encodings(), tmp_path, base="b", device=CPU)
    model.train()
    batch = encoder().pad([encodings()[n] for n in (2, 0, 3)])
    padded = to_tensors(batch, CPU)

    logits, _ = gradients(model, padded | {CACHED_HIDDEN_STATES: states.padded([2, 0, 3])})
    flat_logits, _ = gradients(
        model, packing.flat(batch) | {CACHED_HIDDEN_STATES: states.flat([2, 0, 3])}
    )

    torch.testing.assert_close(flat_logits, logits, atol=1e-5, rtol=1e-5)


def test_no_text_attends_to_another() -> None:
    model = without_dropout("bert").eval()
    packing = PackedTraining(model)
    rows = encodings()
    other = [rows[0], *({"input_ids": [7] * len(row["input_ids"])} for row in rows[1:])]

    def first(flat: dict[str, Any]) -> torch.Tensor:
        with torch.no_grad():
            logits_NC: torch.Tensor = model(**flat).logits
        return logits_NC[0]

    flats = [packing.flat(encoder().pad(each)) for each in (rows, other)]
    stock = [{"input_ids": flat["input_ids"]} for flat in flats]

    torch.testing.assert_close(first(flats[0]), first(flats[1]), atol=1e-6, rtol=0)
    assert (first(stock[0]) - first(stock[1])).abs().max() > 1e-2


def test_attention_dropout_falls_back_to_padding() -> None:
    packing, reason = without_padding(model_of(CONFIGS["bert"]), encoder(), encodings(), CPU)

    assert packing is None
    assert "model.dropout: 0" in reason


def test_activation_checkpointing_falls_back_to_padding(
    make_config: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In the backward pass they would attend to every text of the flat batch."""
    monkeypatch.setattr("train.fit.assemble.packing_is_faster", lambda device, bf16: True)
    trainer = {"activation_checkpointing": True, "max_steps": 1}

    fit(RunConfig(**make_config(tmp_path / "run", trainer=trainer)))

    assert "batches: padded, since activation checkpointing" in capsys.readouterr().out


@pytest.mark.parametrize("trained_layers", [pytest.param(None, marks=pytest.mark.slow), 1])
def test_run_on_flat_batches_gives_the_losses_of_padded_ones(
    make_config: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    trained_layers: int | None,
) -> None:
    logs = []
    for packs in (False, True):
        monkeypatch.setattr(
            "train.fit.assemble.packing_is_faster", lambda device, bf16, packs=packs: packs
        )
        values = make_config(
            tmp_path / f"run-{packs}",
            model={"dropout": 0.0, "trained_layers": trained_layers},
            trainer={"num_train_epochs": 2, "logging_steps": 5},
        )
        config = RunConfig(**values)
        fit(config)
        merge(config)
        record = json.loads((config.output_dir / "adapter" / "fit.json").read_text())
        logs.append([line["loss"] for line in record["log_history"] if "loss" in line])

    assert "batches: without padding" in capsys.readouterr().out
    assert len(logs[0]) > 3
    assert logs[1] == pytest.approx(logs[0], abs=1e-3)
