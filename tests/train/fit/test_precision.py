"""Half precision on a CPU is taken only where it was measured to be faster."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import TrainerCallback, TrainingArguments
from transformers.utils.import_utils import enable_tf32

from serve.inference.precision import matmul_precision
from train.config.run import RunConfig
from train.fit import precision
from train.fit.fit import fit
from train.fit.precision import bf16_pays, cpu_multiplies_bf16, step_seconds
from train.fit.trainer import compute_precision, training_arguments
from train.merge.merge import merge


def test_cpu_without_the_instructions_is_not_even_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "cpu_multiplies_bf16", lambda: False)
    monkeypatch.setattr(precision, "step_seconds", None)

    assert not bf16_pays()


@pytest.mark.parametrize(("half_s", "pays"), [(0.5, True), (0.9, False), (1.5, False)])
def test_instructions_that_do_not_pay_are_left_alone(
    half_s: float, pays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "cpu_multiplies_bf16", lambda: True)
    monkeypatch.setattr(precision, "step_seconds", lambda half, *_: half_s if half else 1.0)

    assert bf16_pays() is pays


def test_both_formats_can_be_timed_on_this_cpu() -> None:
    assert isinstance(cpu_multiplies_bf16(), bool)
    assert all(step_seconds(half, 16, 8, 1) > 0 for half in (False, True))


@pytest.mark.parametrize(
    ("on", "expected"), [("bf16", "bf16"), ("fp16", "fp16"), ("tf32", "tf32"), ("", "fp32")]
)
def test_format_of_a_run_is_what_its_products_are_computed_in(on: str, expected: str) -> None:
    arguments: Any = SimpleNamespace(bf16=False, fp16=False, tf32=None)
    setattr(arguments, on or "none", True)

    assert compute_precision(arguments) == expected


def test_run_keeps_its_format_and_its_bundle_is_that_of_the_trained_weights(
    make_config: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = make_config(tmp_path / "run")
    del values["trainer"]["bf16"]
    config = RunConfig(**values)
    formats = []
    for pays in (True, False):  # the second goes on from the checkpoints of the first
        monkeypatch.setattr("train.fit.trainer.bf16_pays", lambda pays=pays: pays)
        fit(config)
        record = json.loads((config.output_dir / "adapter" / "fit.json").read_text())
        formats.append(record["precision"])

    parity = merge(config).manifest.parity

    assert formats == ["bf16", "bf16"]
    assert parity["adapter_merged"] <= 1e-4
    assert 1e-4 < parity["live_bf16"] <= 0.3


def pretend_ampere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let transformers believe that there is a GPU with TF32."""
    monkeypatch.setattr("transformers.training_args.is_torch_tf32_available", lambda: True)
    enable_tf32.cache_clear()


def test_training_arguments_leave_the_precision_of_the_process(
    make_config: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_ampere(monkeypatch)
    values = make_config(tmp_path / "run", trainer={"tf32": True})

    arguments = training_arguments(RunConfig(**values))

    assert arguments.tf32
    assert torch.backends.fp32_precision == "none"
    assert torch.get_float32_matmul_precision() == "highest"


def test_stock_training_arguments_change_the_precision_of_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_ampere(monkeypatch)
    with matmul_precision("highest"):
        TrainingArguments(output_dir=str(tmp_path), tf32=True)
        assert torch.backends.fp32_precision == "tf32"
    assert torch.backends.fp32_precision == "none"


def test_tf32_is_on_in_the_training_loop_alone(
    make_config: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_ampere(monkeypatch)
    config = RunConfig(**make_config(tmp_path / "run", trainer={"tf32": True, "max_steps": 2}))
    seen = set()

    class Steps(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            seen.add(torch.get_float32_matmul_precision())

    fit(config, callbacks=[Steps()])
    after = torch.get_float32_matmul_precision()
    parity = merge(config).manifest.parity

    assert seen == {"high"}
    assert after == "highest"
    assert (
        json.loads((config.output_dir / "adapter" / "fit.json").read_text())["precision"] == "tf32"
    )
    assert max(parity["adapter_live"], parity["adapter_reloaded"]) <= 1e-4


@pytest.mark.parametrize("before", ["highest", "high", "medium"])
def test_precision_is_restored(before: str) -> None:
    torch.set_float32_matmul_precision(before)
    try:
        with pytest.raises(RuntimeError, match="stop"), matmul_precision("high"):
            raise RuntimeError("stop")
        assert torch.get_float32_matmul_precision() == before
    finally:
        torch.set_float32_matmul_precision("highest")
