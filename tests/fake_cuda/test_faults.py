"""Faults that a CPU forgives are planted; the pretended device, or our own checks, catch each."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rows import make_rows

from fake_cuda.build import LARGEST, LIBRARY
from fake_cuda.ledger import PAGEABLE, SYNC, recording
from serve.inference.backends.packed import CU_SEQLENS, PackedModel
from serve.inference.placement import DeviceFailed, DoesNotFit
from serve.inference.precision import matmul_precision
from serve.inference.predictor import Predictor
from train.config.run import RunConfig
from train.fit.fit import fit
from train.fit.trainer import ClassifierTrainer
from train.merge.merge import MergeRefused, merge
from train.model.base import load_base
from train.model.last_layer import shorten_last_layer
from train.model.packing import without_padding

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(LIBRARY not in os.environ, reason="plants faults in the pretended device"),
]


@pytest.fixture
def bundle(bundles: Callable[[str], Path]) -> Path:
    return bundles("single")


def plant(monkeypatch: pytest.MonkeyPatch, name: str, change: Callable[[Any], Any]) -> None:
    """Pass what a method of PackedModel returns through `change`."""
    stock = getattr(PackedModel, name)
    monkeypatch.setattr(PackedModel, name, lambda *a, **k: change(stock(*a, **k)))


def ends(change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda flat: flat | {CU_SEQLENS: change(flat[CU_SEQLENS])}


@pytest.mark.parametrize(
    ("method", "fault", "message"),
    [
        ("flat", ends(lambda tensor: tensor.cpu()), "same device|must be on CUDA"),
        ("positions", lambda tensor: tensor.cpu(), "same device"),
        ("flat", ends(lambda tensor: tensor.long()), "cu_seqlens must have dtype int32"),
        ("flat", ends(lambda tensor: tensor[:-1]), "do not cover the tokens|size does not match"),
    ],
    ids=["ends on the CPU", "positions on the CPU", "ends in int64", "a text forgotten"],
)
def test_a_fault_in_packing_is_named_and_batches_are_padded(
    method: str, fault: Any, message: str, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [row["text"] for row in make_rows(20, seed=9)]
    sound = Predictor.load(bundle, device="cuda")
    sound_NC = sound.predict(texts)
    plant(monkeypatch, method, fault)
    faulty = Predictor.load(bundle, device="cuda")

    assert sound.backend.padded_because == ""
    assert re.search(message, faulty.backend.padded_because)
    assert faulty.predict(texts) == pytest.approx(sound_NC, abs=0.05)


def events_of_a_batch(bundle: Path, *kinds: str) -> int:
    predictor = Predictor.load(bundle, device="cuda")
    batch_NL = predictor.encoder.pad(predictor.encoder.encode(["my parcel", "reset the code"]))
    with recording() as batch:
        predictor.backend.forward(batch_NL)
    return batch.count(*kinds)


def test_a_wait_in_every_pass_is_counted(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = events_of_a_batch(bundle, SYNC)
    plant(monkeypatch, "flat", ends(lambda tensor: tensor[: len(tensor) + 0 * int(tensor[0])]))

    assert (before, events_of_a_batch(bundle, SYNC)) == (0, 1)


def test_a_copy_from_pageable_memory_is_counted(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = events_of_a_batch(bundle, PAGEABLE)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)

    assert (before, events_of_a_batch(bundle, PAGEABLE)) == (0, 1)


def test_a_number_read_in_every_training_step_is_counted(
    make_config: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock = ClassifierTrainer.training_step
    counts: dict[bool, list[int]] = {False: [], True: []}

    def step(self: Any, *arguments: Any, **named: Any) -> Any:
        with recording() as record:
            loss = stock(self, *arguments, **named)
            if reads:
                loss.item()
        counts[reads].append(record.count(SYNC))
        return loss

    monkeypatch.setattr(ClassifierTrainer, "training_step", step)
    for reads in (False, True):
        run = make_config(tmp_path / str(reads), trainer={"bf16": True, "max_steps": 2})
        fit(RunConfig.model_validate(run))

    assert counts == {False: [0, 0], True: [1, 1]}


def test_tf32_left_on_is_refused_by_merge(
    make_config: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = RunConfig.model_validate(make_config(tmp_path / "run"))
    fit(config)

    parity = merge(config, device="cuda").manifest.parity
    monkeypatch.setattr(
        "serve.inference.backends.torch.matmul_precision", lambda _: contextlib.nullcontext()
    )

    assert max(parity["adapter_merged"], parity["adapter_reloaded"]) <= 1e-4
    with (
        matmul_precision("high"),
        pytest.raises(MergeRefused, match="over the tolerance of 1e-04"),
    ):
        merge(config, device="cuda")


def test_a_device_that_failed_is_no_reason_to_pad(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(PackedModel, "check_equivalence", fail)

    with pytest.raises(DeviceFailed, match="cuda failed: CUDA error: an illegal memory access"):
        Predictor.load(bundle, device="cuda")


@pytest.mark.parametrize("limit", [1_000_000, 250_000])
def test_warm_up_takes_the_largest_batch_that_fits(
    limit: int, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor.load(bundle, device="cuda")
    unlimited = predictor.warm_up(16384).max_batch_tokens
    monkeypatch.setenv(LARGEST, str(limit))

    limited = predictor.warm_up(16384).max_batch_tokens
    automatic = predictor.warm_up().max_batch_tokens

    assert unlimited == 16384
    assert automatic <= limited < 16384
    text = predictor.encoder.encode(["password " * 40])[0]
    predictor.backend.forward(predictor.encoder.pad([text] * (limited // 32)))
    with pytest.raises(DoesNotFit, match="texts of 32 tokens does not fit into the memory of"):
        predictor.backend.forward(predictor.encoder.pad([text] * (2 * limited // 32)))


def test_a_text_that_does_not_fit_ends_the_warm_up_with_the_reason(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor.load(bundle, device="cuda")
    monkeypatch.setenv(LARGEST, "100")

    with pytest.raises(DoesNotFit, match="a batch of 1 texts of 32 tokens does not fit"):
        predictor.warm_up()


def test_a_model_that_does_not_fit_is_left_whole_on_the_cpu(
    make_config: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sharded training begins with such a model; no proof may leave half of it on the device."""
    monkeypatch.setenv(LARGEST, "30000")  # the layers do not fit, the smaller embeddings do
    values = make_config(tmp_path / "run", trainer={"bf16": True})
    config = RunConfig.model_validate(values)
    base = load_base(config, ("billing", "delivery", "login"))
    encodings = base.encoder.encode(["my parcel is late", "the invoice"])
    cuda = torch.device("cuda")

    packing, reason = without_padding(base.model, base.encoder, encodings, cuda)
    shortened = shorten_last_layer(base.model, base.encoder, encodings, cuda)

    assert packing is None
    assert "does not fit into the free memory of cuda" in reason
    assert not shortened
    assert {p.device.type for p in base.model.parameters()} == {"cpu"}
    with pytest.raises(
        ValueError, match=r"to shard it, set method: lora and model\.head_init: random"
    ):
        fit(config)


def test_a_bundle_far_from_fp32_is_served_in_fp32(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [row["text"] for row in make_rows(20, seed=9)]
    on_cpu_NC = Predictor.load(bundle, device="cpu", backend="torch").predict(texts)
    monkeypatch.setattr("serve.inference.placement.MAX_BF16_PROBABILITY", 1e-6)
    predictor = Predictor.load(bundle, device="cuda")

    assert predictor.backend.precision == "fp32"
    assert "computes in bf16, the model in fp32" in predictor.backend.padded_because
    assert predictor.predict(texts) == pytest.approx(on_cpu_NC, abs=1e-5)
