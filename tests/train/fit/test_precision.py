"""Half precision on a CPU is used only where the CPU has instructions for it."""

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

from serve.inference.precision import kept_precision, matmul_precision
from train.config.run import RunConfig
from train.fit.arguments import compute_precision, cpu_multiplies_bf16, training_arguments
from train.fit.fit import fit
from train.fit.resume import why_not_resumed
from train.merge.merge import merge

MakeConfig = Callable[..., dict[str, Any]]


def without_bf16_key(values: dict[str, Any]) -> dict[str, Any]:
    trainer = {key: value for key, value in values["trainer"].items() if key != "bf16"}
    return values | {"trainer": trainer}


def pretend_bf16(monkeypatch: pytest.MonkeyPatch, multiplies: bool) -> None:
    """Pretend that the CPU has, or lacks, instructions that multiply bf16."""
    monkeypatch.setattr("train.fit.arguments.cpu_multiplies_bf16", lambda: multiplies)


@pytest.mark.parametrize("multiplies", [True, False])
def test_precision_on_a_cpu_follows_its_instructions(
    multiplies: bool, make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_bf16(monkeypatch, multiplies)
    values = make_config(tmp_path / "run", trainer={"use_cpu": True})

    assert training_arguments(RunConfig(**without_bf16_key(values))).bf16 is multiplies
    assert not training_arguments(RunConfig(**values)).bf16


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_f": True, "avx512_bf16": True}, True),
        ({"avx512_bf16": False, "amx_bf16": True}, True),
        ({"avx512_f": True, "avx512_bw": True, "avx512_bf16": False}, False),
        ({"architecture": "aarch64"}, False),
    ],
)
def test_emulated_bf16_does_not_count(
    capabilities: dict[str, Any], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """oneDNN reports bf16 as supported on every CPU with AVX-512, and emulates it on most."""
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities)

    assert cpu_multiplies_bf16() is expected


@pytest.mark.parametrize(
    ("on", "expected"), [("bf16", "bf16"), ("fp16", "fp16"), ("tf32", "tf32"), ("", "fp32")]
)
def test_format_of_a_run_is_what_its_products_are_computed_in(on: str, expected: str) -> None:
    arguments: Any = SimpleNamespace(bf16=False, fp16=False, tf32=None)
    setattr(arguments, on or "none", True)

    assert compute_precision(arguments) == expected


def test_run_keeps_its_format_and_its_bundle_is_that_of_the_trained_weights(
    make_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    values = without_bf16_key(make_config(tmp_path / "run", trainer={"use_cpu": True}))
    config = RunConfig(**values)
    formats = []

    def fit_and_look(config: RunConfig) -> None:
        fit(config)
        record = json.loads((config.output_dir / "adapter" / "fit.json").read_text())
        formats.append(record["precision"])

    pretend_bf16(monkeypatch, True)
    fit_and_look(config)
    pretend_bf16(monkeypatch, False)  # another machine
    with pytest.raises(
        ValueError, match=r"precision: 'bf16' there, 'fp32' now.*set trainer.bf16=true to keep"
    ):
        fit(config)
    fit_and_look(RunConfig(**values | {"trainer": values["trainer"] | {"bf16": True}}))
    with pytest.raises(ValueError, match=r"precision: 'bf16' there, trainer.bf16=False now"):
        merge(RunConfig(**values | {"trainer": values["trainer"] | {"bf16": False}}))
    parity = merge(config).manifest.parity

    printed = capsys.readouterr().out
    assert formats == ["bf16", "bf16"]
    assert "precision: bf16 (this CPU has AVX512-BF16 or AMX; trainer.bf16=false for" in printed
    assert "resuming from" in printed
    assert parity["adapter_merged"] <= 1e-4
    assert 1e-4 < parity["live_bf16"] <= 0.3


@pytest.mark.parametrize(
    ("before", "is_advised"),
    [
        ({"precision": "bf16", "seed": 1}, True),
        ({"precision": "bf16", "seed": 0}, False),
        ({"seed": 1}, False),
    ],
)
def test_keeping_the_precision_is_advised_only_where_nothing_else_differs(
    before: dict[str, Any], is_advised: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.fit.resume.latest_complete", lambda directory: directory)
    record = tmp_path / "run.json"
    record.write_text(json.dumps(before))

    refusal = why_not_resumed(tmp_path, record, {"precision": "fp32", "seed": 1})

    assert "precision: " in refusal
    assert ("set trainer.bf16" in refusal) is is_advised


def test_processes_with_different_precisions_are_refused(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.fit.resume.gather_object", lambda own: [*own, "bf16"])

    with pytest.raises(ValueError, match=r"different precisions \(bf16, fp32\); set trainer.bf16"):
        fit(RunConfig(**make_config(tmp_path / "run")))


def pretend_ampere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make transformers believe that there is a GPU with TF32."""
    monkeypatch.setattr("transformers.training_args.is_torch_tf32_available", lambda: True)
    enable_tf32.cache_clear()


def test_training_arguments_leave_the_precision_of_the_process(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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


def test_what_a_constructor_leaves_on_does_not_outlive_it() -> None:
    """Also where the same precision is already held: transformers sets TF32 and never resets it."""

    def state() -> tuple[str, ...]:
        root: Any = torch.backends
        places = (root, root.cuda.matmul, root.mkldnn.matmul)
        return tuple(each.fp32_precision for each in places)

    before = state()
    enable_tf32.cache_clear()  # it acts once per process
    with matmul_precision("highest"):
        assert state() == ("ieee", "ieee", "ieee")
        with kept_precision():
            enable_tf32(True)
            assert state()[0] == "tf32"
        with matmul_precision("high"):
            assert state() == ("tf32", "tf32", "tf32")
        assert state() == ("ieee", "ieee", "ieee")
    assert state() == before
