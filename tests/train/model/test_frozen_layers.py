"""Cached hidden states of frozen layers give the logits and updates of the whole model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from layered_models import CONFIGS, CPU, LENGTHS, encoder, encodings, model_of

from serve.inference.equivalence import to_tensors
from train.config.run import RunConfig
from train.fit.fit import fit
from train.merge.merge import merge
from train.model.frozen_layers import (
    CACHED_HIDDEN_STATES,
    CachedHiddenStates,
    FrozenLayers,
    batches_by_length,
    store_states,
)


@pytest.mark.parametrize("name", sorted(CONFIGS))
@pytest.mark.parametrize("num_trained", [1, 2])
def test_cached_states_give_the_logits_of_the_whole_model(name: str, num_trained: int) -> None:
    frozen = FrozenLayers(model_of(name), num_trained=num_trained)

    assert frozen.check_equivalence(encoder(), encodings(), CPU) <= 1e-4


def test_frozen_layers_are_skipped_with_cached_states(tmp_path: Path) -> None:
    model = model_of("bert")
    frozen = FrozenLayers(model, num_trained=1)
    states = store_states(frozen, encoder(), encodings(), tmp_path, base="b", device=CPU)
    runs: list[int] = []
    model.bert.encoder.layer[0].attention.register_forward_hook(lambda *_: runs.append(0))
    batch = to_tensors(encoder().pad(encodings()[:2]), CPU)

    model(**batch, **{CACHED_HIDDEN_STATES: states.padded([0, 1])})
    assert runs == []
    model(**batch)
    assert runs == [0]


def test_cached_states_survive_activation_checkpointing(tmp_path: Path) -> None:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    gradients = []
    for wraps in (False, True):  # as FSDP does under `fsdp_activation_checkpointing`
        model = model_of("bert")
        frozen = FrozenLayers(model, num_trained=1)
        states = store_states(frozen, encoder(), encodings(), tmp_path, base="b", device=CPU)
        if wraps:
            layers = model.bert.encoder.layer
            layers[2] = checkpoint_wrapper(layers[2])
        ids = to_tensors(encoder().pad(encodings()), CPU)
        rows = list(range(len(LENGTHS)))
        model(**ids, **{CACHED_HIDDEN_STATES: states.padded(rows)}).logits.square().sum().backward()
        gradients.append([p.grad for p in model.bert.encoder.layer[2].parameters()])

    assert len(gradients[0]) > 10
    for again, once in zip(gradients[1], gradients[0], strict=True):
        torch.testing.assert_close(again, once)


def test_states_are_padded_with_zeros_and_reused(tmp_path: Path) -> None:
    frozen = FrozenLayers(model_of("bert"), num_trained=1)
    first = store_states(frozen, encoder(), encodings(), tmp_path, base="b", device=CPU)
    (file,) = tmp_path.glob("*.f32")
    written = file.stat().st_mtime_ns

    again = store_states(frozen, encoder(), encodings(), tmp_path, base="b", device=CPU)
    padded = again.padded([1, 3])

    assert file.stat().st_mtime_ns == written
    assert padded.shape == (2, 5, 32)
    assert not padded[0, 3:].any()
    assert torch.equal(padded, first.padded([1, 3]))
    alone = frozen.states(encoder().pad(encodings()[3:4]), CPU)
    torch.testing.assert_close(padded[1], alone[0], atol=1e-5, rtol=0)


def test_too_little_disk_space_is_refused_before_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = FrozenLayers(model_of("bert"), num_trained=1)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100))

    with pytest.raises(ValueError, match=r"0.0 GB left; free some.*model.trained_layers"):
        store_states(frozen, encoder(), encodings(), tmp_path, base="b", device=CPU)

    assert not list(tmp_path.iterdir())


def test_each_base_has_its_own_states(tmp_path: Path) -> None:
    frozen = FrozenLayers(model_of("bert"), num_trained=1)

    for base in ("a", "b"):
        store_states(frozen, encoder(), encodings(), tmp_path, base=base, device=CPU)

    assert len(list(tmp_path.glob("*.f32"))) == 2


def test_batches_stay_within_max_tokens() -> None:
    batches = batches_by_length([5, 1, 9, 1, 30], 18)

    assert sorted(row for rows in batches for row in rows) == [0, 1, 2, 3, 4]
    assert [sorted(rows) for rows in batches] == [[0, 1, 3], [2], [4]]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_only_the_upper_layers_are_trained(
    method: str, make_config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    values = make_config(tmp_path / "run", method=method)
    values["model"]["trained_layers"] = 1
    if method == "full":
        del values["lora"]
    config = RunConfig(**values)

    fit(config)
    bundle = merge(config)

    before = load_file(Path(config.model.base) / "model.safetensors")
    after = load_file(bundle.path / "model.safetensors")
    same = {
        name
        for name, weight in before.items()
        if f"bert.{name}" in after and torch.equal(weight, after[f"bert.{name}"])
    }
    assert {"embeddings.word_embeddings.weight", "encoder.layer.0.output.dense.weight"} <= same
    assert "encoder.layer.1.output.dense.weight" not in same
    assert bundle.manifest.parity["adapter_live"] <= 1e-4


def test_training_on_cached_states_gives_the_same_losses(
    make_config: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    losses = []
    for name in ("cached", "whole"):
        values = make_config(tmp_path / name)
        values["model"] |= {"trained_layers": 1, "dropout": 0.0}
        if name == "whole":
            monkeypatch.setattr("train.fit.encode.num_frozen_layers", lambda *_: 0)
        fit(RunConfig(**values))
        record = (tmp_path / name / "adapter" / "fit.json").read_text()
        losses.append([entry["loss"] for entry in _log(record) if "loss" in entry])

    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


@pytest.mark.parametrize(("method", "layers"), [("lora", 1), ("full", None)])
def test_activation_checkpointing_gives_the_same_losses(
    method: str, layers: int | None, make_config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    losses = []
    for checkpointing in (False, True):
        values = make_config(
            tmp_path / f"run-{checkpointing}",
            method=method,
            model={"trained_layers": layers},
            trainer={"activation_checkpointing": checkpointing, "num_train_epochs": 1},
        )
        if method == "full":
            del values["lora"]
        fit(RunConfig(**values))
        record = (tmp_path / f"run-{checkpointing}" / "adapter" / "fit.json").read_text()
        losses.append([entry["loss"] for entry in _log(record) if "loss" in entry])

    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


def _log(record: str) -> list[dict[str, float]]:
    import json

    history: list[dict[str, float]] = json.loads(record)["log_history"]
    return history


def test_states_are_read_by_row(tmp_path: Path) -> None:
    np.arange(12, dtype=np.float32).tofile(tmp_path / "states")

    states = CachedHiddenStates(tmp_path / "states", [2, 4], 2)

    assert states.padded([1, 0]).tolist() == [
        [[4, 5], [6, 7], [8, 9], [10, 11]],
        [[0, 1], [2, 3], [0, 0], [0, 0]],
    ]
