"""Half precision on a CPU is taken only where it was measured to be faster."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from train import precision
from train.config import RunConfig
from train.fit import fit
from train.merge import merge
from train.precision import bf16_pays, cpu_multiplies_bf16, step_seconds
from train.trainer import number_format


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

    assert number_format(arguments) == expected


def test_run_keeps_its_format_and_its_bundle_is_that_of_the_trained_weights(
    make_config: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = make_config(tmp_path / "run")
    del values["trainer"]["bf16"]
    config = RunConfig(**values)
    formats = []
    for pays in (True, False):  # the second goes on from the checkpoints of the first
        monkeypatch.setattr("train.trainer.bf16_pays", lambda pays=pays: pays)
        fit(config)
        record = json.loads((config.output_dir / "adapter" / "fit.json").read_text())
        formats.append(record["precision"])

    parity = merge(config).manifest.parity

    assert formats == ["bf16", "bf16"]
    assert parity["adapter_merged"] <= 1e-4
    assert 1e-4 < parity["live_bf16"] <= 0.3
